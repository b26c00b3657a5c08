"""`train_reranker`: from captioned pictures and an encoder to a reranker for it, and whether it is better than none."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from mmsearch.config import Settings
from mmsearch.corpora.records import CorpusOptions
from mmsearch.errors import EncoderError, MissingExtra
from mmsearch.evaluation.embed import Progress
from mmsearch.rerank.cross_attention import SCHEME
from mmsearch.runtime.threads import set_torch_threads
from mmsearch.training.card import model_card
from mmsearch.training.corpus import at_most
from mmsearch.training.gather import (
    Corpora,
    Gathered,
    PathLike,
    Report,
    gather,
    require_training,
    summary_of,
)
from mmsearch.training.judge import DIRECTIONS, Answered, Verdict, verdict_on
from mmsearch.training.rerank.recipe import MatchRecipe
from mmsearch.training.rerank.tokens import TokenSet, read_tokens, sweep
from mmsearch.training.store import check_free_reranker, write_reranker
from mmsearch.types import Encoder, Float64, TokenEncoder

if TYPE_CHECKING:
    from mmsearch.training.rerank.matcher import Matcher

_PATIENCE = 5
"""So many epochs without a better one, once there was a good one, and it stops."""

_VALIDATED, _JUDGED, _MOST_HELD_OUT = 200, 1000, 5000
"""Queries of each direction that say when to stop, and that judge; and of how many pictures."""

_BEGIN, _AT_ONCE = 2000, 64
"""Pairs that the first weights are worked out from."""


@dataclass(frozen=True, slots=True)
class RerankReport(Report):
    """`weight` is what a matching score counts for beside a cosine; it was chosen where `epoch` was."""

    weight: float


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

    @property
    def helped(self) -> bool:
        """True when it is better with it on the part that the epoch was chosen on."""
        return self.best > self.start


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
    reading: Progress = lambda done, total: None,
    learning: Progress = lambda done, total: None,
    judging: Progress = lambda done, total: None,
) -> RerankReport:
    """Return how a search with the reranker `cross_attention:NAME` compares with one by the encoder alone.

    The encoder (default: compact) stays as it is and must show its tokens; a matcher of pictures and texts is learned
    on the CPU, and written below the home folder only when it is better on what was held out (a tenth of the pictures,
    or the corpus `dev`), or with `keep`. `force` replaces one of that name. What was read of pictures is kept until
    something was written, so that a run that was interrupted goes on. The four functions are called with how much is
    done of how much: vectors, tokens, steps, queries.

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
        corpora,
        encoder=encoder,
        dev=dev,
        device=device,
        options=options,
        seed=recipe.seed,
        check=_check_tokens,
        progress=progress,
    )
    base = gathered.base
    if not isinstance(base, TokenEncoder):
        raise TypeError("it was checked")
    recipe = _fitting(recipe.sized(len(gathered.parts.training.images)), base)
    tokens = _read(gathered, base, recipe, reading)
    trained = _train(tokens[0], tokens[1], recipe, learning)
    uri = f"{SCHEME}:{name}"
    verdict = _judge(trained, tokens[2], names=(gathered.base.spec.uri, uri), judging=judging)
    report = RerankReport(
        uri=uri,
        base=gathered.base.spec.uri,
        folder=None,
        helped=trained.helped and verdict.helped,
        summary=summary_of(
            verdict,
            verdict.changes[0].queries,
            metric="R@1",
            was_chosen=trained.helped,
            left="it was kept all the same" if keep else "nothing was written",
        ),
        counts=gathered.counts,
        unread=gathered.unread,
        epoch=trained.epoch,
        epochs=trained.epochs,
        weight=trained.weight,
        verdict=verdict,
        seconds=time.perf_counter() - started,
        use=f'mmsearch query "…" --reranker {uri}',
    )
    if not report.helped and not keep:
        return report
    manifest = gathered.told(report, {**asdict(recipe), "weight": report.weight})
    report = replace(report, folder=_written(report, name, trained, gathered.base, manifest, force=force))
    for some in tokens:
        some.forget()
    return report


def _require() -> ModuleType:
    torch = require_training()
    try:
        import_module("onnx")
    except ImportError as error:
        raise MissingExtra('A reranker is written with onnx: pip install "mmsearch[cpu,train]".') from error
    return torch


def _check_tokens(encoder: Encoder) -> None:
    """Raise EncoderError for an encoder whose tokens no matcher can read."""
    uri = encoder.spec.uri
    if not isinstance(encoder, TokenEncoder):
        raise EncoderError(f"{uri} does not show its tokens, which a reranker reads: choose another encoder.")
    patches = _patches(encoder)
    if math.isqrt(patches) ** 2 != patches:
        raise EncoderError(
            f"{uri} shows {patches} patches, which are no square grid, so that no reranker can read them: choose"
            " another encoder."
        )


def _patches(encoder: TokenEncoder) -> int:
    size = encoder.spec.image_size
    tokens = encoder.image_tokens(np.zeros((1, 3, size, size), dtype=np.uint8))
    return len(tokens[0])


def _fitting(recipe: MatchRecipe, base: TokenEncoder) -> MatchRecipe:
    """Return the recipe with no more cells than the pictures of an encoder have pixels for."""
    return replace(recipe, cells=min(recipe.cells, base.spec.image_size // math.isqrt(_patches(base))))


def _read(
    gathered: Gathered, base: TokenEncoder, recipe: MatchRecipe, reading: Progress
) -> tuple[TokenSet, TokenSet, TokenSet]:
    """Return the tokens of what is learned from, of what says when to stop, and of what judges."""
    parts, folder = gathered.parts, gathered.cache / "tokens"
    sweep(folder)
    sets = (parts.training, parts.validation, at_most(parts.held_out, _MOST_HELD_OUT))
    sizes = [len(some.images) + len(some.texts) for some in sets]
    before = 0
    found = []
    for some, size in zip(sets, sizes, strict=True):
        ahead = partial(_ahead, reading, before, sum(sizes))
        found.append(read_tokens(base, some, folder, cells=recipe.cells, progress=ahead))
        before += size
    return found[0], found[1], found[2]


def _ahead(progress: Progress, before: int, total: int, done: int) -> None:
    progress(before + done, total)


def _train(training: TokenSet, validation: TokenSet, recipe: MatchRecipe, learning: Progress) -> _Trained:
    from mmsearch.training.rerank import candidates
    from mmsearch.training.rerank.feed import Feed, captions_of
    from mmsearch.training.rerank.learner import Learner, shape_of

    draw = captions_of(training)
    images = training.embedded.images
    feed = Feed(images, np.zeros(len(images), dtype=np.int64), draw, recipe)
    rng = np.random.default_rng(recipe.seed)
    chosen = rng.permutation(len(images))[:_BEGIN]
    blocks = (draw(chosen[start : start + _AT_ONCE], rng) for start in range(0, len(chosen), _AT_ONCE))
    total = recipe.epochs * feed.steps()
    learner = Learner(shape_of(draw(chosen[:1], rng), recipe), recipe, blocks, steps=total)
    asked = [candidates.find_candidates(validation, direction, most=_VALIDATED) for direction in DIRECTIONS]
    start = float(np.mean([some.gains(some.similarity, 0.0).mean() for some in asked]))
    best: _Trained | None = None
    done = 0
    for epoch in range(1, recipe.epochs + 1):
        for parts, drawn in feed.epoch(epoch):
            learner.step(parts, drawn)
            done += 1
            learning(done, total)
        matched = [candidates.match(learner.average, validation, some) for some in asked]
        weight, gain = candidates.best_weight(asked, matched)
        if best is None or gain > best.best:
            mean = float(np.mean([scores.mean() for scores in matched]))
            best = _Trained(learner.averaged(), epoch, epoch, weight, mean, start, gain)
        best = replace(best, epochs=epoch)
        if best.helped and epoch - best.epoch >= _PATIENCE:
            break
    if best is None:
        raise ValueError("there must be an epoch at least")
    return best


def _judge(trained: _Trained, held_out: TokenSet, *, names: tuple[str, str], judging: Progress) -> Verdict:
    """Return how the encoder alone and with the matcher do on what was held out."""
    from mmsearch.training.rerank import candidates

    answered = []
    gains: list[tuple[Float64, Float64]] = []
    for number, direction in enumerate(DIRECTIONS):
        some = candidates.find_candidates(held_out, direction, most=_JUDGED)
        ahead = partial(_ahead, judging, number * len(some), len(DIRECTIONS) * len(some))
        matched = candidates.match(trained.matcher, held_out, some, progress=ahead)
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
    from mmsearch.training.rerank.export import export_matchers

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
            f"{report.verdict.changes[0].queries:,} pictures, and the first caption of each, were asked with, and the"
            f" first {COUNT} answers looked at again.\nWhat it does to other pictures:"
            f" `mmsearch eval CORPUS --encoder {report.base} --reranker {report.uri}`."
        ),
    )
    graphs = export_matchers([trained.matcher], mean=trained.mean)
    cells = trained.matcher.shape.cells
    path = write_reranker(
        name, graphs, base.spec, weight=trained.weight, cells=cells, card=card, told=told, force=force
    )
    return str(path)
