"""The vectors of an EvalSet: embedded once, then kept by the encoder's fingerprint."""

from __future__ import annotations

import hashlib
import itertools
import os
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from mmsearch.collection.atomic import write_file
from mmsearch.config import Settings
from mmsearch.corpora.places import open_place, split_place
from mmsearch.errors import EvaluationError, ImageError
from mmsearch.evaluation.dataset import EvalSet
from mmsearch.images import decode
from mmsearch.types import Encoder, Float32, Modality, UInt8

Progress = Callable[[int, int], None]
"""Called with how many pictures and captions are embedded, and how many there are."""

_TEXTS = 256
_PART = {Modality.IMAGE: 512, Modality.TEXT: 8192}
"""Vectors are kept in parts of so many: what an interrupted run loses at most."""


@dataclass(frozen=True, slots=True)
class EmbeddedSet:
    """A set whose pictures could all be read, and the unit vectors (pictures, dim), (captions, dim) of it."""

    data: EvalSet
    images: Float32
    texts: Float32


def embed_set(
    encoder: Encoder, data: EvalSet, *, cache: Path | None, progress: Progress = lambda done, total: None
) -> EmbeddedSet:
    """Return the vectors of a set; pictures that cannot be read are left out with their captions.

    `cache` is the folder where vectors are kept, None to keep none; a run that was interrupted is gone on with from
    there. Raise EvaluationError when no picture can be read.
    """
    total = len(data.pictures) + len(data.captions)
    images = _embed_pictures(encoder, data.pictures, cache, lambda done: progress(done, total))
    unread = np.flatnonzero(np.isnan(images).all(axis=1)) if images.size else np.empty(0, dtype=np.int64)
    if len(unread) and len(unread) == len(data.pictures):
        raise EvaluationError(
            f"None of the {len(data.pictures):,} pictures of {data.name} can be read (the first is {data.pictures[0]}):"
            " name their folder with --images."
        )
    texts = embed_texts(
        encoder, data.captions, cache=cache, progress=lambda done: progress(len(data.pictures) + done, total)
    )
    progress(total, total)
    kept = ~np.isin(data.owners, unread)
    return EmbeddedSet(data.without_pictures(unread.tolist()), np.delete(images, unread, axis=0), texts[kept])


def embed_texts(
    encoder: Encoder, texts: Sequence[str], *, cache: Path | None, progress: Callable[[int], None] = lambda done: None
) -> Float32:
    """Return the rows (n, dim) of texts, from the cache where they are; raise EvaluationError for one not finite."""
    parts = [np.empty((0, encoder.spec.dim), dtype=np.float32)]
    for first in range(0, len(texts), _PART[Modality.TEXT]):
        some = texts[first : first + _PART[Modality.TEXT]]
        name = stamp(encoder, "captions", some)
        rows = _kept(cache, name)
        if rows is None:
            made = []
            for start in range(0, len(some), _TEXTS):
                made.append(_finite(encoder.encode_texts(some[start : start + _TEXTS]), some[start : start + _TEXTS]))
                progress(first + start + len(made[-1]))
            rows = np.concatenate(made)
            _keep(cache, name, rows)
        parts.append(rows)
    return np.concatenate(parts)


def _finite(rows: Float32, names: Sequence[str]) -> Float32:
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise EvaluationError(
            f"The vector of {names[bad[0]]!r} holds numbers that are not finite: the encoder is broken."
        )
    return rows


def _embed_pictures(
    encoder: Encoder, places: Sequence[str], cache: Path | None, progress: Callable[[int], None]
) -> Float32:
    """Return the rows (n, dim) of pictures, NaN for one that cannot be read, from the cache where they are."""
    parts = [np.empty((0, encoder.spec.dim), dtype=np.float32)]
    for first in range(0, len(places), _PART[Modality.IMAGE]):
        some = places[first : first + _PART[Modality.IMAGE]]
        name = stamp(encoder, "pictures", states_of_files(some))
        rows = _kept(cache, name)
        if rows is None:
            rows, may_pass = _embed_part(encoder, some, partial(_ahead, progress, first))
            _keep(None if may_pass else cache, name, rows)
        parts.append(rows)
    return np.concatenate(parts)


def _ahead(progress: Callable[[int], None], before: int, done: int) -> None:
    progress(before + done)


def _embed_part(encoder: Encoder, places: Sequence[str], progress: Callable[[int], None]) -> tuple[Float32, bool]:
    """Return the rows (n, dim) of pictures, NaN for one that cannot be read, and whether another try may read more."""
    rows = np.full((len(places), encoder.spec.dim), np.nan, dtype=np.float32)
    waiting: list[tuple[int, UInt8]] = []
    may_pass = False

    def encode() -> None:
        if waiting:
            numbers = [number for number, _ in waiting]
            made = encoder.encode_images(np.stack([pixels for _, pixels in waiting]))
            rows[numbers] = _finite(made, [places[number] for number in numbers])
            waiting.clear()

    for number, pixels in enumerate(prepared(encoder, places)):
        if isinstance(pixels, OSError):
            may_pass = True
        elif pixels is not None:
            waiting.append((number, pixels))
        if len(waiting) >= encoder.image_batch:
            encode()
            progress(number + 1)
    encode()
    return rows, may_pass


def prepared(encoder: Encoder, places: Sequence[str]) -> Iterator[UInt8 | OSError | None]:
    """Yield the pixels (3, S, S) of pictures in order, a bounded number ahead.

    For one that cannot be read it is None, or the OSError of a disk (which may pass).
    """

    def prepare(place: str) -> UInt8 | OSError | None:
        try:
            with open_place(place) as file:
                return encoder.prepare_image(decode(file, place, min_side=encoder.min_side)[0])
        except ImageError:
            return None
        except OSError as error:
            return error

    ahead: deque[Future[UInt8 | OSError | None]] = deque()
    todo = iter(places)
    with ThreadPoolExecutor(Settings.from_environment().threads, thread_name_prefix="mmsearch-load") as pool:
        ahead.extend(pool.submit(prepare, place) for place in itertools.islice(todo, 2 * encoder.image_batch))
        while ahead:
            pixels = ahead.popleft().result()
            ahead.extend(pool.submit(prepare, place) for place in itertools.islice(todo, 1))
            yield pixels


def states_of_files(places: Sequence[str]) -> list[str]:
    """Return what tells pictures from others, and from themselves once they change, for `stamp`."""
    return [f"{place} {_stat(place)}" for place in places]


def _stat(place: str) -> str:
    try:
        stat = os.stat(split_place(place)[0])  # noqa: PTH116 - asked for every picture
    except OSError:
        return "missing"
    return f"{stat.st_size} {stat.st_mtime_ns}"


def stamp(encoder: Encoder, kind: str, lines: Sequence[str]) -> str:
    """Return what names the vectors, or whatever `kind` says, of these things by this encoder."""
    digest = hashlib.sha256(f"{encoder.spec.fingerprint} {kind} 1".encode())
    for line in lines:
        digest.update(f"{len(line)} {line}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def _kept(cache: Path | None, name: str) -> Float32 | None:
    if cache is None or not (cache / f"{name}.npy").is_file():
        return None
    try:
        rows: Float32 = np.load(cache / f"{name}.npy", allow_pickle=False)
    except (OSError, ValueError):  # cut short: made anew
        (cache / f"{name}.npy").unlink(missing_ok=True)
        return None
    return rows


def _keep(cache: Path | None, name: str, rows: Float32) -> None:
    if cache is None:
        return
    target = cache / f"{name}.npy"
    try:
        write_file(
            target,
            cache / f"{uuid.uuid4().hex}.tmp",
            lambda file: np.lib.format.write_array(file, rows, allow_pickle=False),
        )
    except FileExistsError:  # another process was faster
        return
