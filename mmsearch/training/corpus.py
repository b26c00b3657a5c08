"""Captioned pictures to tune on: read, embedded by the frozen encoder, and parted into what learns and what judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mmsearch.corpora.reader import corpus_kind
from mmsearch.corpora.records import CorpusOptions
from mmsearch.errors import SourceError, TrainingError
from mmsearch.evaluation.dataset import EvalSet, load_eval_set
from mmsearch.evaluation.embed import EmbeddedSet
from mmsearch.types import Int64

FEWEST, _FEWEST_BESIDE_DEV = 100, 50
"""Captioned pictures that there must be: half of a hundred is held out, unless another corpus judges."""

_HELD_OUT, _FEWEST_HELD_OUT, _MOST_HELD_OUT = 0.1, 50, 5000
_VALIDATION, _FEWEST_VALIDATION, _MOST_VALIDATION = 0.1, 16, 1000


@dataclass(frozen=True, slots=True)
class Parts:
    """What is trained on, what says when to stop, and what nothing is chosen by; no picture is in two of them."""

    training: EmbeddedSet
    validation: EmbeddedSet
    held_out: EmbeddedSet


def read_captioned(paths: Sequence[Path], options: CorpusOptions, *, split: str) -> EvalSet:
    """Return the captioned pictures of corpora as one set, each picture once with all that is said of it.

    Of Karpathy's files the part `split` is taken, unless the options name one. Raise SourceError, EvaluationError.
    """
    return _joined([_captioned(_read(path, options, split)) for path in paths])


def check_size(data: EvalSet, held_out: EvalSet | None) -> None:
    """Raise TrainingError when it is plain, before anything is embedded, that there are too few pictures."""
    if held_out is not None and len(held_out.pictures) < _FEWEST_HELD_OUT:
        raise TrainingError(
            f"{held_out.name} has {len(held_out.pictures):,} captioned pictures, and {_FEWEST_HELD_OUT} at least are"
            " needed to tell whether it helps: name a larger corpus with --dev, or leave it out."
        )
    _check_enough(data, len(data.pictures), FEWEST if held_out is None else _FEWEST_BESIDE_DEV)


def part(whole: EmbeddedSet, held_out: EmbeddedSet | None, *, seed: int) -> Parts:
    """Return the parts of a corpus, drawn by a seed; copies of a picture stay together.

    Without `held_out` a tenth of the pictures is held out, at least 50. Raise TrainingError when too few are left.
    """
    groups = _copies(whole, held_out)
    known = np.zeros(0, dtype=np.int64) if held_out is None else np.unique(groups[len(whole.images) :])
    mine = groups[: len(whole.images)]
    free = np.setdiff1d(mine, known)  # what is held out may not be learned from under another name
    _check_enough(whole.data, len(free), FEWEST if held_out is None else _FEWEST_BESIDE_DEV)
    free = np.random.default_rng((seed, 0)).permutation(free)
    if held_out is None:
        count = _share(len(free), _HELD_OUT, _FEWEST_HELD_OUT, _MOST_HELD_OUT)
        held_out, free = of_groups(whole, mine, free[:count]), free[count:]
    count = _share(len(free), _VALIDATION, _FEWEST_VALIDATION, _MOST_VALIDATION)
    return Parts(of_groups(whole, mine, free[count:]), of_groups(whole, mine, free[:count]), held_out)


def at_most(some: EmbeddedSet, count: int) -> EmbeddedSet:
    """Return a set of so many pictures at most, evenly chosen, with their captions."""
    if len(some.images) <= count:
        return some
    each = np.arange(len(some.images), dtype=np.int64)
    return of_groups(some, each, np.linspace(0, len(each) - 1, count).astype(np.int64))


def _check_enough(data: EvalSet, pictures: int, fewest: int) -> None:
    if pictures < fewest:
        raise TrainingError(
            f"{data.name} has {pictures:,} different captioned pictures to learn from, and {fewest} at least are"
            " needed: caption more of them."
        )


def _share(count: int, share: float, fewest: int, most: int) -> int:
    return min(most, max(fewest, round(share * count)))


def _read(path: Path, options: CorpusOptions, split: str) -> EvalSet:
    if path.is_dir() or (path.is_file() and corpus_kind(path) is None):
        raise SourceError(f"{path} is no corpus of captions: name a .tar, .json, .jsonl, .csv or .tsv file of them.")
    if options.split is None and path.is_file() and corpus_kind(path) == "karpathy":
        options = replace(options, split=split)
    return load_eval_set(path, options)


def _captioned(data: EvalSet) -> EvalSet:
    """Return the set without captions of their own, and without pictures that nothing is said of."""
    rows = np.flatnonzero(data.owners >= 0)
    data = replace(
        data,
        captions=tuple(data.captions[i] for i in rows),
        owners=data.owners[rows],
        caption_labels=tuple(data.caption_labels[i] for i in rows),
    )
    silent = np.setdiff1d(np.arange(len(data.pictures)), data.owners)
    return replace(data.without_pictures(silent.tolist()), unread=data.unread)


def _joined(sets: Sequence[EvalSet]) -> EvalSet:
    """Return one set of several, its captions in the order of their pictures."""
    said: dict[str, dict[str, None]] = {}
    for data in sets:
        for caption, owner in zip(data.captions, data.owners.tolist(), strict=True):
            said.setdefault(data.pictures[owner], {})[caption] = None
    captions = [(number, caption) for number, some in enumerate(said.values()) for caption in some]
    return EvalSet(
        name=", ".join(data.name for data in sets),
        pictures=tuple(said),
        captions=tuple(caption for _, caption in captions),
        owners=np.array([number for number, _ in captions], dtype=np.int64),
        picture_labels=(None,) * len(said),
        caption_labels=(None,) * len(captions),
        unread=tuple(name for data in sets for name in data.unread),
    )


def _copies(whole: EmbeddedSet, held_out: EmbeddedSet | None) -> Int64:
    """Return a number for each picture, those held out behind the others; pictures of one vector have one number."""
    rows = whole.images if held_out is None else np.concatenate([whole.images, held_out.images])
    levels = np.round(100.0 * rows).astype(np.int8)  # coarsely: a copy in another batch differs in the last bits
    _, numbers = np.unique(levels.view(np.dtype((np.void, levels.shape[1]))).ravel(), return_inverse=True)
    return numbers.astype(np.int64)


def of_groups(whole: EmbeddedSet, groups: Int64, chosen: Int64) -> EmbeddedSet:
    """Return the pictures whose group (pictures,) is among the chosen ones, with their captions."""
    others = np.flatnonzero(~np.isin(groups, chosen))
    data = replace(whole.data.without_pictures(others.tolist()), unread=())
    captions = np.isin(groups[whole.data.owners], chosen)
    return EmbeddedSet(data, np.delete(whole.images, others, axis=0), whole.texts[captions])
