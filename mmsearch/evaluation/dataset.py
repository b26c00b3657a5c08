"""EvalSet: the pictures and captions of a corpus, and what is relevant to what in each direction."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from mmsearch.corpora.reader import corpus_kind, read_corpus
from mmsearch.corpora.records import BadRecord, CorpusOptions, text_hash
from mmsearch.errors import EvaluationError, SourceError
from mmsearch.evaluation.ranks import Relevance
from mmsearch.types import Int64, Modality

_MOST_PAIRS = 4_000_000
"""Pairs of a query and what is relevant to it in one direction: some 200 MB."""


class Direction(StrEnum):
    """From what kind of query to what kind of answer."""

    TEXT_IMAGE = "text→image"
    IMAGE_TEXT = "image→text"
    TEXT_TEXT = "text→text"
    IMAGE_IMAGE = "image→image"

    @property
    def query(self) -> Modality:
        """What is asked with."""
        return Modality.TEXT if self in (Direction.TEXT_IMAGE, Direction.TEXT_TEXT) else Modality.IMAGE

    @property
    def target(self) -> Modality:
        """What is looked for."""
        return Modality.IMAGE if self in (Direction.TEXT_IMAGE, Direction.IMAGE_IMAGE) else Modality.TEXT

    @property
    def name_of_file(self) -> str:
        """The direction in letters that every file system takes."""
        return f"{self.query}-{self.target}"


@dataclass(frozen=True, slots=True)
class EvalSet:
    """Pictures by place and captions; `owners` (captions,) is the picture of a caption, −1 for one of its own.

    `labels` are the classes of pictures and captions where the corpus tells them. `unread` names what was left out.
    """

    name: str
    pictures: tuple[str, ...]
    captions: tuple[str, ...]
    owners: Int64
    picture_labels: tuple[str | None, ...]
    caption_labels: tuple[str | None, ...]
    unread: tuple[str, ...] = ()

    def size(self, modality: Modality) -> int:
        """Return how many pictures or captions there are."""
        return len(self.pictures) if modality is Modality.IMAGE else len(self.captions)

    def name_of(self, modality: Modality, number: int) -> str:
        """Return the place of a picture, or the words of a caption."""
        return self.pictures[number] if modality is Modality.IMAGE else self.captions[number]

    def id_of(self, modality: Modality, number: int) -> str:
        """Return what names a picture or caption among all of its kind, whatever else is in the set."""
        if modality is Modality.IMAGE:
            return self.pictures[number]
        owner, text = int(self.owners[number]), self.captions[number]
        return f"{self.pictures[owner] if owner >= 0 else ''}#{text_hash(text).hex()[:12]}"

    def without_pictures(self, missing: Sequence[int]) -> EvalSet:
        """Return the set without some pictures (by number) and without their captions."""
        if not missing:
            return self
        kept = np.setdiff1d(np.arange(len(self.pictures)), missing)
        number = np.full(len(self.pictures) + 1, -2, dtype=np.int64)
        number[kept] = np.arange(len(kept))
        number[-1] = -1  # captions of their own stay so
        owners = number[self.owners]
        rows = np.flatnonzero(owners > -2)
        return EvalSet(
            name=self.name,
            pictures=tuple(self.pictures[i] for i in kept),
            captions=tuple(self.captions[i] for i in rows),
            owners=owners[rows],
            picture_labels=tuple(self.picture_labels[i] for i in kept),
            caption_labels=tuple(self.caption_labels[i] for i in rows),
            unread=(*self.unread, *(self.pictures[i] for i in missing)),
        )


@dataclass(frozen=True, slots=True)
class Task:
    """One direction: `queries` (nq,) by number, and what is relevant to each of them.

    `own` is the candidate that a query itself is, None where queries and candidates are of two kinds; `clusters` (nq,)
    says which queries belong together.
    """

    direction: Direction
    queries: Int64
    relevance: Relevance
    clusters: Int64
    own: Int64 | None


def load_eval_set(path: Path, options: CorpusOptions, *, limit: int | None = None) -> EvalSet:
    """Return the set in a corpus file (see `mmsearch.corpora`), its first `limit` pictures (or captions) alone.

    Of Karpathy's splits it is "test", unless another is named. Raise SourceError, or EvaluationError when it is empty.
    """
    if not path.exists():
        raise SourceError(f"{path} is not there: check the spelling.")
    kind = corpus_kind(path) if path.is_file() else None
    if kind is None:
        raise SourceError(
            f"{path} is no corpus that can be evaluated: name a .tar, .json, .jsonl or .csv file with captions, or"
            " index it and evaluate the collection with --collection."
        )
    if kind == "karpathy" and options.split is None:
        options = CorpusOptions(images=options.images, split="test", captions_only=options.captions_only)
    pictures: dict[str, int] = {}
    picture_labels: list[str | None] = []
    captions: list[str] = []
    owners: list[int] = []
    caption_labels: list[str | None] = []
    known: set[tuple[int, str]] = set()
    unread: list[str] = []
    try:
        for record in read_corpus(path, kind, options):
            if isinstance(record, BadRecord):
                unread.append(f"{path}:{record.line}: {record.reason}")
                continue
            owner = -1
            if record.image is not None:
                if record.image not in pictures:
                    if limit is not None and len(pictures) >= limit:
                        continue
                    pictures[record.image] = len(pictures)
                    picture_labels.append(record.label)
                owner = pictures[record.image]
            elif limit is not None and len(captions) >= limit and not pictures:
                break
            for caption in record.captions:
                if (owner, caption) not in known:  # a corpus may tell a caption of a picture again
                    known.add((owner, caption))
                    captions.append(caption)
                    owners.append(owner)
                    caption_labels.append(record.label)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}.") from error
    if not pictures and not captions:
        raise EvaluationError(f"{path} holds no pictures and no captions that could be read.")
    return EvalSet(
        name=path.name,
        pictures=tuple(pictures),
        captions=tuple(captions),
        owners=np.array(owners, dtype=np.int64),
        picture_labels=tuple(picture_labels),
        caption_labels=tuple(caption_labels),
        unread=tuple(unread),
    )


def make_tasks(data: EvalSet, directions: Sequence[Direction] | None = None) -> tuple[Task, ...]:
    """Return a task for each direction in which anything is relevant, or for each that is asked for.

    text→image: a caption's picture. image→text: a picture's captions. text→text: the other captions of its picture or
    of its label. image→image: the other pictures of its label; of large classes evenly spread queries are taken. Raise
    EvaluationError for a direction without queries.
    """
    tasks = []
    for direction in directions or tuple(Direction):
        groups = _groups(data, direction)
        is_own = direction.query is direction.target
        queries = _sampled(np.flatnonzero([len(group) > is_own for group in groups]), groups)
        if not len(queries):
            if directions:
                raise EvaluationError(f"Nothing in {data.name} says what is relevant in the direction {direction}.")
            continue
        lists = [[other for other in groups[i] if not is_own or other != i] for i in queries]
        tasks.append(
            Task(
                direction=direction,
                queries=queries,
                relevance=Relevance.of(lists),
                clusters=_clusters(data, direction)[queries],
                own=queries if is_own else None,
            )
        )
    if not tasks:
        raise EvaluationError(f"Nothing in {data.name} says what belongs together: captions need pictures, or labels.")
    return tuple(tasks)


def _sampled(queries: Int64, groups: Sequence[Sequence[int]]) -> Int64:
    """Return the queries, or evenly spread ones where large classes make too many pairs of query and answer."""
    pairs = sum(len(groups[i]) for i in queries)
    return queries[:: -(-pairs // _MOST_PAIRS)] if pairs > _MOST_PAIRS else queries


def _groups(data: EvalSet, direction: Direction) -> list[list[int]]:
    """Return for each query what belongs to it, itself included where it is a candidate too."""
    if direction is Direction.TEXT_IMAGE:
        return [[int(owner)] if owner >= 0 else [] for owner in data.owners]
    if direction is Direction.IMAGE_TEXT:
        captions: list[list[int]] = [[] for _ in data.pictures]
        for number, owner in enumerate(data.owners):
            if owner >= 0:
                captions[owner].append(number)
        return captions
    if direction is Direction.IMAGE_IMAGE:
        return _together([None if label is None else ("label", label) for label in data.picture_labels])
    names = [
        ("label", label) if label is not None else ("picture", int(owner)) if owner >= 0 else None
        for label, owner in zip(data.caption_labels, data.owners, strict=True)
    ]
    return _together(names)


def _together(names: Sequence[object]) -> list[list[int]]:
    members: dict[object, list[int]] = {}
    for number, name in enumerate(names):
        if name is not None:
            members.setdefault(name, []).append(number)
    return [members.get(name, []) if name is not None else [] for name in names]


def _clusters(data: EvalSet, direction: Direction) -> Int64:
    """Return which queries (all of them) are not independent: the captions of one picture."""
    if direction.query is Modality.IMAGE:
        return np.arange(len(data.pictures), dtype=np.int64)
    alone = itertools.count(len(data.pictures))
    return np.array([owner if owner >= 0 else next(alone) for owner in data.owners], dtype=np.int64)
