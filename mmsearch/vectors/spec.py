"""Which index to build for how many vectors, with the reason in words."""

from __future__ import annotations

import math
from typing import Literal, get_args

from mmsearch.errors import QueryError
from mmsearch.types import IndexSpec

IndexKind = Literal["auto", "flat", "ivfpq"]
INDEX_KINDS: tuple[str, ...] = get_args(IndexKind)

EXACT_ELEMENTS = 60_000_000
"""Up to this many stored numbers (rows × dim) an exact scan answers in about 10 ms on one core."""

MIN_TRAIN = 64
"""With fewer vectors the 16 centroids of a 4-bit code have nothing to be trained on."""

_POINTS_PER_LIST = 39  # what FAISS's k-means asks for before it warns
_MAX_POINTS_PER_LIST = 64


def parse_kind(kind: str) -> IndexKind:
    """Return `kind` as an IndexKind; raise QueryError for any other word."""
    for known in get_args(IndexKind):
        if kind == known:
            return known  # type: ignore[no-any-return]
    raise QueryError(f"There is no index kind {kind!r}: choose one of {', '.join(INDEX_KINDS)}.")


def choose_spec(n: int, dim: int, kind: IndexKind = "auto") -> IndexSpec:
    """Return the index for n vectors of width dim: exact while that is fast, else IVF with 4-bit product codes."""
    if kind == "flat":
        return _flat("exact search was asked for")
    if kind == "auto" and n * dim <= EXACT_ELEMENTS:
        return _flat(f"{n:,} vectors are scanned exactly in about 10 ms or less")
    if n < MIN_TRAIN:
        return _flat(f"{n:,} vectors are too few to train an IVF-PQ index ({MIN_TRAIN} at least)")
    nlist = 2 ** round(math.log2(4 * math.sqrt(n)))
    nlist = max(1, min(nlist, n // _POINTS_PER_LIST))
    codes = max(m for m in range(1, dim // 4 + 1) if dim % m == 0)
    return IndexSpec(
        factory=f"IVF{nlist},PQ{codes}x4fs",
        nlist=nlist,
        nprobe=max(1, nlist // 32),
        train_size=min(n, nlist * _MAX_POINTS_PER_LIST),
        reason=f"{n:,} vectors in {nlist:,} lists, {codes} 4-bit codes each, rescored from the stored rows"
        + ("" if kind == "auto" else "; ivfpq was asked for"),
    )


def _flat(reason: str) -> IndexSpec:
    return IndexSpec(factory="Flat", nlist=0, nprobe=0, train_size=0, reason=reason)
