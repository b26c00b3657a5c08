"""The tokens of pictures and texts, read once and kept on the disk: of pictures with eight bits a number."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmsearch.collection.atomic import write_file
from mmsearch.collection.states import pack
from mmsearch.errors import EvaluationError
from mmsearch.evaluation.embed import EmbeddedSet, prepared, stamp, states_of_files
from mmsearch.rerank.cells import colour_cells, with_cells
from mmsearch.types import Float32, Int64, TokenEncoder, UInt8

_PICTURES, _TEXTS = 512, 4096
"""Tokens are kept in parts of so many: what an interrupted run loses at most."""

_AT_ONCE = 64
_KEPT_SECONDS = 7 * 86400


class PictureTokens:
    """Patch tokens of pictures by number, mapped from the disk."""

    def __init__(
        self,
        encoder: TokenEncoder,
        places: Sequence[str],
        folder: Path,
        *,
        cells: int = 0,
        progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Read them, or take from `folder` what an earlier run left; raise EvaluationError for one that is gone.

        `cells` is into how many parts a side patches are cut for their colours, 0 for none.
        """
        self._parts, self._colours = [], []
        self.files: list[Path] = []
        for first in range(0, len(places), _PICTURES):
            some = places[first : first + _PICTURES]
            files = states_of_files(some)
            read = cache(partial(_read_pictures, encoder, some, cells, partial(_ahead, progress, first)))
            tokens, colours = (folder / f"{stamp(encoder, kind, files)}.npy" for kind in ("patches", f"cells{cells}"))
            part = _kept(tokens, partial(_part, read, 0))
            self._parts.append(part)
            self.files.append(tokens)
            if cells:
                # The tower need not run again for colours alone, of tokens that an earlier run left.
                only = partial(_read_colours, encoder, some, math.isqrt(part.shape[1]), cells)
                self._colours.append(_kept(colours, partial(_part, read, 1) if read.cache_info().currsize else only))
                self.files.append(colours)
            progress(first + len(some))

    def __call__(self, which: Int64) -> Float32:
        """Return the tokens (n, patches, width) of some, with the colours of the patches behind them."""
        records = _rows(self._parts, which)
        tokens: Float32 = records["values"].astype(np.float32)
        tokens *= records["scale"][..., np.newaxis]
        return with_cells(tokens, _rows(self._colours, which)) if self._colours else tokens


class TextTokens:
    """Tokens of texts by number, mapped from the disk."""

    def __init__(
        self,
        encoder: TokenEncoder,
        texts: Sequence[str],
        folder: Path,
        *,
        progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Read them, or take from `folder` what an earlier run left."""
        self._parts, self._starts = [], []
        self.files: list[Path] = []
        for first in range(0, len(texts), _TEXTS):
            some = texts[first : first + _TEXTS]
            name = stamp(encoder, "words", some)
            paths = folder / f"{name}.npy", folder / f"{name}-starts.npy"
            read = cache(partial(_read_texts, encoder, some))
            tokens, starts = (_kept(path, partial(_part, read, number)) for number, path in enumerate(paths))
            self._parts.append(tokens)
            self._starts.append(starts)
            self.files.extend(paths)
            progress(first + len(some))

    def __call__(self, which: Int64) -> tuple[Float32, Float32]:
        """Return the tokens (n, t, width) of some, and the mask (n, t) that is 1 on real ones."""
        found = []
        for number in which.tolist():
            part, row = divmod(number, _TEXTS)
            start, stop = self._starts[part][row : row + 2]
            found.append(self._parts[part][start:stop])
        lengths = np.array([len(tokens) for tokens in found])
        tokens = np.zeros((len(found), int(lengths.max()), found[0].shape[1]), dtype=np.float32)
        for row, some in enumerate(found):
            tokens[row, : len(some)] = some
        return tokens, (np.arange(tokens.shape[1]) < lengths[:, np.newaxis]).astype(np.float32)


@dataclass(frozen=True, slots=True)
class TokenSet:
    """A set with the tokens of its pictures and captions."""

    embedded: EmbeddedSet
    pictures: PictureTokens
    words: TextTokens

    def forget(self) -> None:
        """Delete the files. What is mapped can still be read."""
        for path in (*self.pictures.files, *self.words.files):
            path.unlink(missing_ok=True)


def read_tokens(
    encoder: TokenEncoder,
    embedded: EmbeddedSet,
    folder: Path,
    *,
    cells: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> TokenSet:
    """Return a set with its tokens, kept in `folder`; raise EvaluationError for a picture that is gone.

    `cells` is that of `PictureTokens`; `progress` is called with how many pictures and captions are read.
    """
    data = embedded.data
    pictures = PictureTokens(encoder, data.pictures, folder, cells=cells, progress=progress)
    count = len(data.pictures)
    return TokenSet(
        embedded, pictures, TextTokens(encoder, data.captions, folder, progress=lambda n: progress(count + n))
    )


def sweep(folder: Path) -> None:
    """Delete what runs that were given up left in `folder` a week ago and longer."""
    for path in folder.glob("*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _KEPT_SECONDS:
                path.unlink()


def _kept(path: Path, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """Return what a file holds, mapped; it is made where it is not there.

    Another run over the same corpus may be done, and drop it, at any time before it is open.
    """
    while True:
        try:
            kept: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            _write(path, make())
        else:
            return kept


def _rows(parts: Sequence[NDArray[Any]], which: Int64) -> NDArray[Any]:
    """Return some pictures of what is kept in parts."""
    return np.stack([parts[i // _PICTURES][i % _PICTURES] for i in which.tolist()])


def _part(read: Callable[[], tuple[NDArray[Any], ...]], number: int) -> NDArray[Any]:
    return read()[number]


def _ahead(progress: Callable[[int], None], before: int, done: int) -> None:
    progress(before + done)


def _read_pictures(
    encoder: TokenEncoder, places: Sequence[str], cells: int, progress: Callable[[int], None]
) -> tuple[NDArray[np.void], UInt8]:
    """Return the tokens (n, patches) of pictures as records of a scale and eight bits a number, and the colours."""
    made: list[NDArray[np.void]] = []
    colours: list[UInt8] = []
    for pictures in _batches(encoder, places):
        made.extend(pack(tokens) for tokens in encoder.image_tokens(pictures))
        side = math.isqrt(made[0].shape[0])
        colours.extend(colour_cells(pictures, side=side, cells=cells) if cells else ())
        progress(len(made))
    return np.stack(made), np.array(colours, dtype=np.uint8)


def _read_colours(encoder: TokenEncoder, places: Sequence[str], side: int, cells: int) -> UInt8:
    """Return the colours (n, patches, c) of pictures alone."""
    return np.concatenate([colour_cells(some, side=side, cells=cells) for some in _batches(encoder, places)])


def _batches(encoder: TokenEncoder, places: Sequence[str]) -> Iterator[UInt8]:
    """Yield prepared pictures (n, 3, S, S) in batches; raise EvaluationError for one that is gone."""
    waiting: list[UInt8] = []
    for number, (place, pixels) in enumerate(zip(places, prepared(encoder, places), strict=True), start=1):
        if pixels is None or isinstance(pixels, OSError):
            raise EvaluationError(f"The picture {place} can no longer be read: run this again.")
        waiting.append(pixels)
        if len(waiting) >= encoder.image_batch or number == len(places):
            yield np.stack(waiting)
            waiting.clear()


def _read_texts(encoder: TokenEncoder, texts: Sequence[str]) -> tuple[NDArray[np.float16], Int64]:
    """Return the real tokens (t, width) of texts, one after the other, and where each begins (n + 1,)."""
    tokens: list[NDArray[np.float16]] = [np.empty(0, dtype=np.float16)] * len(texts)
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    for start in range(0, len(order), _AT_ONCE):
        some = order[start : start + _AT_ONCE]
        found, mask = encoder.text_tokens([texts[number] for number in some])
        for number, row, real in zip(some, found, mask, strict=True):
            tokens[number] = row[real].astype(np.float16)
    starts = np.cumsum([0, *(len(row) for row in tokens)], dtype=np.int64)
    return np.concatenate(tokens), starts


def _write(path: Path, rows: NDArray[Any]) -> None:
    write_file(
        path,
        path.with_name(f".{uuid.uuid4().hex}.tmp"),
        lambda file: np.lib.format.write_array(file, rows, allow_pickle=False),
        replace=True,
    )
