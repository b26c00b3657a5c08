"""`tune`: from captioned pictures and an encoder to an encoder of one's own, and whether it is better."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from mmsearch.config import Settings, plain_path
from mmsearch.corpora.records import CorpusOptions
from mmsearch.encoders import DEFAULT_ENCODER, load_encoder
from mmsearch.encoders.tuned import SCHEME
from mmsearch.encoders.tuned_head import TunedHead
from mmsearch.errors import EncoderError, MissingExtra, QueryError
from mmsearch.evaluation.embed import EmbeddedSet, Progress, embed_set
from mmsearch.runtime.devices import require_torch
from mmsearch.training.card import Counts, figure_rows, model_card
from mmsearch.training.corpus import Parts, check_size, part, read_captioned
from mmsearch.training.fit import Fitted, Recipe, fit
from mmsearch.training.judge import Verdict, gain_by_picture, judge, mapped_set
from mmsearch.training.store import check_free, write_encoder
from mmsearch.types import Encoder

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class TuneReport:
    """What came of it: the URI to use, its folder (None: nothing was written), whether it helped, and a sentence on it.

    `unread` names what was left out. `epoch` is the best one of the `epochs` that were run, `share` how much of the way
    from the encoder as it was to that epoch's head was needed.
    """

    uri: str
    base: str
    folder: str | None
    helped: bool
    summary: str
    counts: Counts
    unread: tuple[str, ...]
    epoch: int
    epochs: int
    share: float
    verdict: Verdict
    seconds: float

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Return (direction, metric, before, after, change) on what was held out, in per cent with 95 % intervals."""
        return figure_rows(self.verdict)


def tune(
    corpora: PathLike | Sequence[PathLike],
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
    settings = Settings.from_environment()
    check_free(name, force=force)
    torch = _require_torch()
    options, recipe = options or CorpusOptions(), recipe or Recipe()
    paths = [plain_path(path) for path in ([corpora] if isinstance(corpora, str | os.PathLike) else corpora)]
    if not paths:
        raise QueryError("Say what to tune on: a corpus file with captions.")
    data = read_captioned(paths, options, split="train")
    judged = None if dev is None else read_captioned([plain_path(dev)], replace(options, split=None), split="test")
    check_size(data, judged)
    base = _base(encoder, device)
    cache = settings.home / "cache" / "training"
    whole = embed_set(base, data, cache=cache, progress=progress)
    held_out = None if judged is None else embed_set(base, judged, cache=cache, progress=progress)
    parts = part(whole, held_out, seed=recipe.seed)
    fitted = fit(
        torch,
        parts.training,
        lambda head: _score(parts.validation, head),
        recipe,
        threads=settings.threads,
        progress=learning,
    )
    uri = f"{SCHEME}:{name}"
    verdict = judge(parts.held_out, fitted.head, base=base.spec.uri, tuned=uri)
    counts = _counts(parts)
    report = TuneReport(
        uri=uri,
        base=base.spec.uri,
        folder=None,
        helped=fitted.helped and verdict.helped,
        summary=_summary(verdict, fitted, counts, keep=keep),
        counts=counts,
        unread=(*whole.data.unread, *(() if held_out is None else held_out.data.unread)),
        epoch=fitted.epoch,
        epochs=fitted.epochs,
        share=fitted.share,
        verdict=verdict,
        seconds=time.perf_counter() - started,
    )
    if not report.helped and not keep:
        return report
    return _written(report, name, fitted.head, base, _told(report, paths, dev, recipe), force=force)


def _require_torch() -> ModuleType:
    try:
        return require_torch()
    except MissingExtra as error:
        raise MissingExtra('Tuning needs torch: pip install "mmsearch[cpu,train]".') from error


def _base(encoder: Encoder | str | None, device: str | None) -> Encoder:
    chosen = encoder or DEFAULT_ENCODER
    base = load_encoder(chosen, device=device) if isinstance(chosen, str) else chosen
    if base.spec.uri.startswith(f"{SCHEME}:"):
        raise EncoderError(
            f"{base.spec.uri} is tuned itself: name the encoder that it was made of, and all captions, old and new."
        )
    return base


def _score(some: EmbeddedSet, head: TunedHead | None) -> float:
    mapped = some if head is None else mapped_set(some, head)
    return float(gain_by_picture(mapped.images, mapped.texts, mapped.data.owners).mean())


def _counts(parts: Parts) -> Counts:
    sizes = [
        len(rows) for some in (parts.training, parts.validation, parts.held_out) for rows in (some.images, some.texts)
    ]
    return Counts(*sizes)


def _summary(verdict: Verdict, fitted: Fitted, counts: Counts, *, keep: bool) -> str:
    recall = " and ".join(
        f"{100 * before['R@5']:.1f} to {100 * after['R@5']:.1f} % ({before.direction})"
        for before, after in zip(verdict.before, verdict.after, strict=True)
    )
    pictures = f"{counts.held_out_pictures:,} held-out pictures"
    if not verdict.helped:
        why = "which is worse" if verdict.gain.high < 0.0 else "no more than chance explains"
    elif not fitted.helped:
        why = "but not on the pictures that said when to stop"
    else:
        return f"It helped: on {pictures} recall@5 went from {recall}."
    left = "it was kept all the same" if keep else "the encoder is left as it was"
    return f"It did not help: on {pictures} recall@5 went from {recall}, {why}; {left}."


def _written(
    report: TuneReport, name: str, head: TunedHead, base: Encoder, told: dict[str, Any], *, force: bool
) -> TuneReport:
    """Write the encoder, and return the report with its folder."""
    card = model_card(
        name=name,
        base=report.base,
        corpora=told["data"]["corpora"],
        dev=told["data"]["dev"],
        counts=report.counts,
        settings=", ".join(f"{key} {value}" for key, value in told["recipe"].items()),
        summary=report.summary,
        verdict=report.verdict,
    )
    return replace(report, folder=str(write_encoder(name, head, base.spec, card=card, told=told, force=force)))


def _told(report: TuneReport, paths: Sequence[Path], dev: PathLike | None, recipe: Recipe) -> dict[str, Any]:
    """Return what the manifest tells beside what it is needed for."""
    from mmsearch import __version__

    figures = {
        when: {one.direction: {metric.name: metric.value for metric in one.metrics} for one in directions}
        for when, directions in (("before", report.verdict.before), ("after", report.verdict.after))
    }
    return {
        "data": {
            "corpora": [str(path) for path in paths],
            "dev": None if dev is None else str(plain_path(dev)),
            **asdict(report.counts),
        },
        "recipe": {**asdict(recipe), "epochs": report.epochs, "best_epoch": report.epoch, "share": report.share},
        "helped": report.helped,
        "held_out": figures,
        "made_by": f"mmsearch {__version__}",
    }
