"""`train_reranker`: from captioned pictures and an encoder to a reranker for it, and whether it is better than none."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from mmsearch.config import Settings
from mmsearch.corpora.records import CorpusOptions
from mmsearch.errors import EncoderError, MissingExtra
from mmsearch.evaluation.embed import Progress
from mmsearch.rerank.cross_attention import SCHEME
from mmsearch.runtime.threads import set_torch_threads
from mmsearch.training.card import model_card
from mmsearch.training.gather import Corpora, PathLike, Report, gather, recall_sentence, require_training
from mmsearch.training.judge import DIRECTIONS, Answered, Verdict, verdict_on
from mmsearch.training.rerank.recipe import MatchRecipe
from mmsearch.training.rerank.tokens import TokenSet, read_tokens
from mmsearch.training.store import check_free_reranker, write_reranker
from mmsearch.types import Encoder, Float64, TokenEncoder

if TYPE_CHECKING:
    from mmsearch.training.rerank.matcher import Matcher

_PATIENCE = 3
"""So many epochs without a better one, and it stops."""

_MOST_STEPS = 4000
_VALIDATED, _JUDGED = 200, 1000
"""Queries of each direction that say when to stop, and that judge."""

_BEGIN = 2000
"""Pairs that the first weights are worked out from."""


@dataclass(frozen=True, slots=True)
class RerankReport(Report):
    """`weight` is what a matching score counts for beside a cosine; it was chosen where `epoch` was."""

    weight: float

    @property
    def use(self) -> str:
        """The command that uses it."""
        return f'mmsearch query "…" --reranker {self.uri}'


@dataclass(frozen=True, slots=True)
class _Trained:
    """The matcher of the best epoch, the weight and the mean of its scores, and the gains without and with it."""

    matcher: Matcher
    epoch: int
    epochs: int
    weight: float
    mean: float
    start: float
    best: float


def train_reranker(
    corpora: Corpora,
    name: str,
    *,
    encoder: Encoder | str | None = None,
    dev: PathLike | None = None,
    device: str | None = None,
    options: CorpusOptions | None = None,
    recipe: MatchRecipe | None = None,
    force: bool = False,
    keep: bool = False,
    progress: Progress = lambda done, total: None,
    learning: Callable[[int, int], None] = lambda done, total: None,
) -> RerankReport:
    """Return how a search with the reranker `cross_attention:NAME` compares with one by the encoder alone.

    The encoder (default: compact) stays as it is and must show its tokens; a matcher of pictures and texts is learned
    on the CPU, and written below the home folder only when it is better on what was held out (a tenth of the pictures,
    or the corpus `dev`), or with `keep`. `force` replaces one of that name. What was read of pictures is kept until it
    is done, so that a run that was interrupted goes on. `learning` is called with steps.

    Raise TrainingError for too few pictures, QueryError for a name that is none, EncoderError for one that is taken or
    an encoder without tokens, MissingExtra without torch and onnx, SourceError, EvaluationError, and what
    `load_encoder` raises.
    """
    started = time.perf_counter()
    check_free_reranker(name, force=force)
    torch = _require()
    set_torch_threads(torch, threads=Settings.from_environment().threads)
    recipe = recipe or MatchRecipe()
    gathered = gather(
        corpora, encoder=encoder, dev=dev, device=device, options=options, seed=recipe.seed, progress=progress
    )
    base, folder = gathered.base, gathered.cache / "tokens"
    if not isinstance(base, TokenEncoder):
        raise EncoderError(f"{base.spec.uri} does not show its tokens, which a reranker reads: choose another encoder.")
    parts = gathered.parts
    training, validation, held_out = (
        read_tokens(base, part, folder, progress=progress)
        for part in (parts.training, parts.validation, parts.held_out)
    )
    trained = _train(training, validation, recipe, learning)
    uri = f"{SCHEME}:{name}"
    verdict = _judge(trained, held_out, names=(base.spec.uri, uri))
    helped = trained.best > trained.start and verdict.helped
    told = recall_sentence(verdict, gathered.counts, metric="R@1")
    why = "which is worse" if verdict.gain.high < 0.0 else "no more than chance explains"
    left = "it was kept all the same" if keep else "nothing was written"
    report = RerankReport(
        uri=uri,
        base=base.spec.uri,
        folder=None,
        helped=helped,
        summary=f"It helped: {told}." if helped else f"It did not help: {told}, {why}; {left}.",
        counts=gathered.counts,
        unread=gathered.unread,
        epoch=trained.epoch,
        epochs=trained.epochs,
        weight=trained.weight,
        verdict=verdict,
        seconds=time.perf_counter() - started,
    )
    if report.helped or keep:
        manifest = gathered.told(report, asdict(recipe))
        report = replace(report, folder=_written(report, name, trained, base, manifest, force=force))
    for some in (training, validation, held_out):
        some.forget()
    return report


def _require() -> Any:
    torch = require_training()
    try:
        import_module("onnx")
    except ImportError as error:
        raise MissingExtra('A reranker is written with onnx: pip install "mmsearch[cpu,train]".') from error
    return torch


def _train(
    training: TokenSet, validation: TokenSet, recipe: MatchRecipe, learning: Callable[[int, int], None]
) -> _Trained:
    from mmsearch.training.rerank import candidates
    from mmsearch.training.rerank.feed import Feed, captions_of
    from mmsearch.training.rerank.learner import Learner, shape_of

    draw = captions_of(training)
    images = training.embedded.images
    feed = Feed(images, np.zeros(len(images), dtype=np.int64), draw, recipe)
    rng = np.random.default_rng(recipe.seed)
    begin = draw(rng.permutation(len(images))[:_BEGIN], rng)
    epochs = min(recipe.epochs, max(1, _MOST_STEPS // feed.steps()))
    learner = Learner(shape_of(begin, recipe), recipe, begin, steps=epochs * feed.steps())
    asked = [candidates.find_candidates(validation, direction, most=_VALIDATED) for direction in DIRECTIONS]
    start = float(np.mean([some.gains(some.similarity, 0.0).mean() for some in asked]))
    best: _Trained | None = None
    done = 0
    for epoch in range(1, epochs + 1):
        for parts, drawn in feed.epoch(epoch):
            learner.step(parts, drawn)
            done += 1
            learning(min(done, epochs * feed.steps()), epochs * feed.steps())
        matched = [candidates.match(learner.average, validation, some) for some in asked]
        weight, gain = candidates.best_weight(asked, matched)
        if best is None or gain > best.best:
            mean = float(np.mean([scores.mean() for scores in matched]))
            best = _Trained(learner.averaged(), epoch, epoch, weight, mean, start, gain)
        best = replace(best, epochs=epoch)
        if epoch - best.epoch >= _PATIENCE:
            break
    if best is None:
        raise ValueError("there must be an epoch at least")
    return best


def _judge(trained: _Trained, held_out: TokenSet, *, names: tuple[str, str]) -> Verdict:
    """Return how the encoder alone and with the matcher do on what was held out."""
    from mmsearch.training.rerank import candidates

    answered = []
    gains: list[tuple[Float64, Float64]] = []
    for direction in DIRECTIONS:
        some = candidates.find_candidates(held_out, direction, most=_JUDGED)
        matched = candidates.match(trained.matcher, held_out, some)
        before, after = some.recalls(matched, 0.0), some.recalls(matched, trained.weight)
        count = len(held_out.embedded.images if direction is DIRECTIONS[0] else held_out.embedded.texts)
        answered.append(Answered(direction, before, after, some.pictures, count))
        gains.append((some.gains(matched, 0.0), some.gains(matched, trained.weight)))
    old, new = ((one + other) / 2.0 for one, other in zip(*gains, strict=True))
    return verdict_on(answered, (old, new), names=names)


def _written(
    report: RerankReport, name: str, trained: _Trained, base: Encoder, told: Mapping[str, Any], *, force: bool
) -> str:
    """Write the reranker, and return its folder."""
    from mmsearch.training.rerank.candidates import COUNT
    from mmsearch.training.rerank.export import export_matcher

    card = model_card(
        title=report.uri,
        what=(
            f"A reranker for {report.base}: a matcher of pictures and texts on the tokens of that encoder, made by"
            " `mmsearch train --reranker`."
        ),
        learned="the matcher",
        told=told,
        verdict=report.verdict,
        summary=report.summary,
        rest=(
            f"The first {COUNT} answers were looked at again. What it does to other pictures:"
            " `mmsearch eval CORPUS --rerank`."
        ),
    )
    graphs = export_matcher(trained.matcher, mean=trained.mean)
    return str(write_reranker(name, graphs, base.spec, weight=trained.weight, card=card, told=told, force=force))
