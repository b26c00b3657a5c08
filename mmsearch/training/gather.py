"""What every kind of training begins with, corpora read, embedded and parted; and the report it ends with."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from mmsearch.config import Settings, plain_path
from mmsearch.corpora.records import CorpusOptions
from mmsearch.encoders import DEFAULT_ENCODER, load_encoder
from mmsearch.errors import MissingExtra, QueryError
from mmsearch.evaluation.embed import Progress, embed_set
from mmsearch.runtime.devices import require_torch
from mmsearch.training.card import Counts, figure_rows
from mmsearch.training.corpus import Parts, check_size, part, read_captioned
from mmsearch.training.judge import Verdict
from mmsearch.types import Encoder

PathLike = str | os.PathLike[str]
Corpora = PathLike | Sequence[PathLike]


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it: the URI to use, its folder (None: nothing was written), whether it helped, and a sentence on it.

    `unread` names what was left out. `epoch` is the best one of the `epochs` that were run, `use` a command that uses
    what was made.
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
    verdict: Verdict
    seconds: float
    use: str

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Return (direction, metric, before, after, change) on what was held out, in per cent with 95 % intervals."""
        return figure_rows(self.verdict)


@dataclass(frozen=True, slots=True)
class Gathered:
    """The encoder, the corpora that were named, what is learned from and judged on, and what could not be read."""

    base: Encoder
    corpora: tuple[Path, ...]
    dev: Path | None
    parts: Parts
    unread: tuple[str, ...]
    cache: Path

    @property
    def counts(self) -> Counts:
        """How many pictures and captions each part has."""
        parts = (self.parts.training, self.parts.validation, self.parts.held_out)
        return Counts(*(len(rows) for some in parts for rows in (some.images, some.texts)))

    def told(self, report: Report, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a manifest tells beside what it is needed for."""
        from mmsearch import __version__

        figures = {
            when: {one.direction: {metric.name: metric.value for metric in one.metrics} for one in directions}
            for when, directions in (("before", report.verdict.before), ("after", report.verdict.after))
        }
        return {
            "data": {
                "corpora": [str(path) for path in self.corpora],
                "dev": None if self.dev is None else str(self.dev),
                **asdict(self.counts),
            },
            "recipe": {**recipe, "epochs": report.epochs, "best_epoch": report.epoch},
            "helped": report.helped,
            "held_out": figures,
            "made_by": f"mmsearch {__version__}",
        }


def require_training() -> ModuleType:
    """Return torch; raise MissingExtra with the pip command that brings what training needs."""
    try:
        return require_torch()
    except MissingExtra as error:
        raise MissingExtra('Training needs torch: pip install "mmsearch[cpu,train]".') from error


def gather(
    corpora: Corpora,
    *,
    encoder: Encoder | str | None,
    dev: PathLike | None,
    device: str | None,
    options: CorpusOptions | None,
    seed: int,
    check: Callable[[Encoder], None],
    progress: Progress,
) -> Gathered:
    """Return captioned pictures embedded by an encoder (default: compact), and parted by a seed.

    `check` raises for an encoder that will not do, before anything is embedded. Vectors are kept below the home folder,
    so that a run that was interrupted goes on. Raise TrainingError for too few pictures, QueryError without a corpus,
    SourceError, EvaluationError, and what `load_encoder` raises.
    """
    options = options or CorpusOptions()
    paths = tuple(plain_path(path) for path in ([corpora] if isinstance(corpora, str | os.PathLike) else corpora))
    if not paths:
        raise QueryError("Say what to learn from: a corpus file with captions.")
    data = read_captioned(paths, options, split="train")
    judge = None if dev is None else plain_path(dev)
    judged = None if judge is None else read_captioned([judge], replace(options, split=None), split="test")
    check_size(data, judged)
    chosen = encoder or DEFAULT_ENCODER
    base = load_encoder(chosen, device=device) if isinstance(chosen, str) else chosen
    check(base)
    cache = Settings.from_environment().home / "cache" / "training"
    whole = embed_set(base, data, cache=cache, progress=progress)
    held_out = None if judged is None else embed_set(base, judged, cache=cache, progress=progress)
    unread = (*whole.data.unread, *(() if held_out is None else held_out.data.unread))
    return Gathered(base, paths, judge, part(whole, held_out, seed=seed), unread, cache)


def summary_of(verdict: Verdict, pictures: int, *, metric: str, was_chosen: bool, left: str) -> str:
    """Return the sentence on how a metric went on so many held-out pictures.

    `was_chosen` says whether it was better where the epoch was chosen, too; `left` is what becomes of it if it was not.
    """
    recall = " and ".join(
        f"{100 * before[metric]:.1f} to {100 * after[metric]:.1f} % ({before.direction})"
        for before, after in zip(verdict.before, verdict.after, strict=True)
    )
    told = f"on {pictures:,} held-out pictures {metric.replace('R@', 'recall@')} went from {recall}"
    if not verdict.helped:
        why = "which is worse" if verdict.gain.high < 0.0 else "no more than chance explains"
    elif not was_chosen:
        why = "but not on the pictures that said when to stop"
    else:
        return f"It helped: {told}."
    return f"It did not help: {told}, {why}; {left}."
