"""`tune`: from captioned pictures and an encoder to an encoder of one's own, and whether it is better."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from mmsearch.config import Settings
from mmsearch.corpora.records import CorpusOptions
from mmsearch.encoders.tuned import SCHEME
from mmsearch.encoders.tuned_head import TunedHead
from mmsearch.errors import EncoderError
from mmsearch.evaluation.embed import EmbeddedSet, Progress
from mmsearch.training.card import model_card
from mmsearch.training.fit import Recipe, fit
from mmsearch.training.gather import Corpora, Gathered, PathLike, Report, gather, require_training, summary_of
from mmsearch.training.judge import gain_by_picture, judge, mapped_set
from mmsearch.training.store import check_free, write_encoder
from mmsearch.types import Encoder


@dataclass(frozen=True, slots=True)
class TuneReport(Report):
    """`share` is how much of the way from the encoder as it was to the best epoch's head was needed."""

    share: float


def tune(
    corpora: Corpora,
    name: str,
    *,
    encoder: Encoder | str | None = None,
    dev: PathLike | None = None,
    device: str | None = None,
    options: CorpusOptions | None = None,
    recipe: Recipe | None = None,
    force: bool = False,
    keep: bool = False,
    progress: Progress = lambda done, total: None,
    learning: Callable[[int, int], None] = lambda epoch, epochs: None,
) -> TuneReport:
    """Return how the encoder `tuned:NAME`, learned from captioned pictures, compares with the one it is made of.

    The encoder itself (default: compact) stays as it is; a head behind it is learned on the CPU, and written below the
    home folder only when it is better on what was held out (a tenth of the pictures, or the corpus `dev`), or with
    `keep`. `force` replaces one of that name. Vectors are kept, so that a run that was interrupted goes on.

    Raise TrainingError for too few pictures, QueryError for a name that is none, EncoderError for one that is taken,
    MissingExtra without torch, SourceError, EvaluationError, and what `load_encoder` raises.
    """
    started = time.perf_counter()
    check_free(name, force=force)
    torch = require_training()
    recipe = recipe or Recipe()
    gathered = gather(
        corpora,
        encoder=encoder,
        dev=dev,
        device=device,
        options=options,
        seed=recipe.seed,
        check=_check_base,
        progress=progress,
    )
    parts, base = gathered.parts, gathered.base
    fitted = fit(
        torch,
        parts.training,
        lambda head: _score(parts.validation, head),
        recipe,
        threads=Settings.from_environment().threads,
        progress=learning,
    )
    uri = f"{SCHEME}:{name}"
    verdict = judge(parts.held_out, fitted.head, base=base.spec.uri, tuned=uri)
    report = TuneReport(
        uri=uri,
        base=base.spec.uri,
        folder=None,
        helped=fitted.helped and verdict.helped,
        summary=summary_of(
            verdict,
            gathered.counts.held_out_pictures,
            metric="R@5",
            was_chosen=fitted.helped,
            left="it was kept all the same" if keep else "the encoder is left as it was",
        ),
        counts=gathered.counts,
        unread=gathered.unread,
        epoch=fitted.epoch,
        epochs=fitted.epochs,
        share=fitted.share,
        verdict=verdict,
        seconds=time.perf_counter() - started,
        use=f"mmsearch index FOLDER --encoder {uri}",
    )
    if not report.helped and not keep:
        return report
    return _written(report, name, fitted.head, gathered, recipe, force=force)


def _check_base(encoder: Encoder) -> None:
    if encoder.spec.uri.startswith(f"{SCHEME}:"):
        raise EncoderError(
            f"{encoder.spec.uri} is tuned itself: name the encoder that it was made of, and all captions, old and new."
        )


def _score(some: EmbeddedSet, head: TunedHead | None) -> float:
    mapped = some if head is None else mapped_set(some, head)
    return float(gain_by_picture(mapped.images, mapped.texts, mapped.data.owners).mean())


def _written(
    report: TuneReport, name: str, head: TunedHead, gathered: Gathered, recipe: Recipe, *, force: bool
) -> TuneReport:
    """Write the encoder, and return the report with its folder."""
    base = gathered.base.spec
    told = gathered.told(report, {**asdict(recipe), "share": report.share})
    card = model_card(
        title=report.uri,
        what=(
            f"{report.base} with a head tuned on captions by `mmsearch train`. The encoder behind it is\nunchanged; its"
            " own card, licences and weaknesses hold here too."
        ),
        learned="the head",
        told=told,
        verdict=report.verdict,
        summary=report.summary,
        rest=(
            "What it forgot of other pictures is not in these figures:"
            f" `mmsearch eval CORPUS --compare {report.base} {report.uri}` tells."
        ),
    )
    return replace(report, folder=str(write_encoder(name, head, base, card=card, told=told, force=force)))
