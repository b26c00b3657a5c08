"""Which index to build for how many vectors, with the reason in words."""

from __future__ import annotations

import math
import re

from mmsearch.errors import QueryError
from mmsearch.types import IndexSpec
from mmsearch.vectors.gpu import CODES

IndexKind = str
"""One of `INDEX_KINDS`, or a FAISS factory string of an IVF index."""

INDEX_KINDS = ("auto", "flat", "ivfpq", "ivfsq8")

EXACT_ELEMENTS = 60_000_000
"""Up to this many stored numbers (rows × dim) an exact scan answers in about 10 ms on one core."""

MIN_TRAIN = 64
"""With fewer vectors the 16 centroids of a 4-bit code have nothing to be trained on."""

REDUCED_FROM = 64
"""From this width on rows are coded by half as many principal components.

On the vectors of `compact` and on CLIP-like ones the same codes find more of the true ten than without, and comparing
with centroids costs half.
"""

TWO_LEVELS_FROM = 8192
"""From so many lists on they are found in two levels and chosen by codes (see `coarse`), and hold 64 vectors each.

With fewer a query is compared with every centroid, and the square root of the number of vectors decides.
"""

_FACTORY = re.compile(
    r"(?P<before>OPQ\d+(?:_\d+)?,|PCAR?\d+,)?IVF(?P<nlist>\d+)(?P<coarse>\(PQ\d+x4fs,RFlat\))?,"
    r"(?P<codes>Flat|SQ8|SQfp16|PQ\d+(?:x4fs|x\d+)?(?:np)?)"
)
_FINE_LIST = 64
_MOST_LISTS = 2**18
_MOST_TRAINED = 6_000_000  # rows: about 3 GB in a temporary file
_FINE_PROBED = 256
_POINTS_PER_LIST = 39  # what FAISS's k-means asks for before it warns
_MIN_8_BIT = 256


def parse_kind(kind: str) -> IndexKind:
    """Return `kind` when it is one of `INDEX_KINDS` or the factory string of an IVF index; raise QueryError."""
    if kind in INDEX_KINDS or _FACTORY.fullmatch(kind):
        return kind
    raise QueryError(
        f"There is no index kind {kind!r}: choose one of {', '.join(INDEX_KINDS)}, or a FAISS factory string such as"
        " IVF4096,PQ64np."
    )


def choose_spec(n: int, dim: int, kind: IndexKind = "auto", *, on_gpu: bool = False) -> IndexSpec:
    """Return the index for n vectors of width dim: exact while that is fast, else IVF with product codes.

    On a CPU the codes have 4 bits (fast scan) behind a PCA, on a GPU 8, of a length that it takes.
    """
    if kind == "flat":
        return _flat("exact search was asked for")
    if kind == "auto" and n * dim <= EXACT_ELEMENTS:
        return _flat(f"{n:,} vectors are scanned exactly in about 10 ms or less")
    if n < MIN_TRAIN:
        return _flat(f"{n:,} vectors are too few to train an IVF-PQ index ({MIN_TRAIN} at least)")
    if kind not in INDEX_KINDS:
        return _factory(n, kind)
    nlist = 2 ** round(math.log2(4 * math.sqrt(n)))
    nlist = max(1, min(nlist, n // _POINTS_PER_LIST))
    coarse = f"IVF{nlist}"
    fine = min(_MOST_LISTS, 2 ** round(math.log2(n / _FINE_LIST)))
    is_fine = fine >= TWO_LEVELS_FROM and dim % 16 == 0 and dim >= REDUCED_FROM and kind != "ivfsq8" and not on_gpu
    if is_fine:  # no graph over the centroids: docs/search-index.md has what was measured
        nlist, coarse = fine, f"IVF{fine}(PQ{dim // 8}x4fs,RFlat)"
    if kind == "ivfsq8":
        codes, words = "SQ8", "8 bits a number"
    elif on_gpu and n >= _MIN_8_BIT:
        length = max(m for m in CODES if dim % m == 0 and m <= max(1, dim // 8))
        codes, words = f"PQ{length}np", f"{length} 8-bit codes each, as a GPU takes them"
    elif dim >= REDUCED_FROM and n >= dim:
        length = dim // 8
        coarse = f"PCAR{4 * length},{coarse}"
        codes, words = f"PQ{length}x4fs", f"{length} 4-bit codes of their {4 * length} principal components each"
    else:
        length = max(m for m in range(1, dim // 4 + 1) if dim % m == 0)
        codes, words = f"PQ{length}x4fs", f"{length} 4-bit codes each"
    twice = ", each in two of them" if is_fine else ""
    return IndexSpec(
        factory=f"{coarse},{codes}",
        nlist=nlist,
        nprobe=_first_probed(nlist, is_fine=is_fine),
        train_size=min(n, nlist * _POINTS_PER_LIST, _MOST_TRAINED),
        reason=f"{n:,} vectors in {nlist:,} lists{twice}, {words}, rescored from the stored rows"
        + ("" if kind == "auto" else f"; {kind} was asked for"),
    )


def finer(spec: IndexSpec, n: int, dim: int) -> IndexSpec | None:
    """Return the next index to try when one cannot reach its recall: longer codes, then 8 bits a number; else None."""
    found = _FACTORY.fullmatch(spec.factory)
    if found is None:
        return None
    before, codes = found["before"] or "", found["codes"]
    lists = f"IVF{found['nlist']}{found['coarse'] or ''}"
    length = int(codes[2:-4]) if codes.endswith("x4fs") else 0
    width = int(before[4:-1]) if before.startswith("PCAR") else dim
    if 0 < length < width // 2 and width % 2 == 0:
        codes, words = f"PQ{width // 2}x4fs", f"{width // 2} 4-bit codes"
    elif codes.startswith("PQ"):
        before, codes, words = "", "SQ8", "8 bits a number"
    else:
        return None
    reason = f"{n:,} vectors in {spec.nlist:,} lists, {words} each, for shorter codes missed the recall asked for"
    return IndexSpec(f"{before}{lists},{codes}", spec.nlist, spec.nprobe, spec.train_size, reason)


def _factory(n: int, factory: str) -> IndexSpec:
    found = _FACTORY.fullmatch(factory)
    assert found is not None, "parse_kind let it through"
    nlist = int(found["nlist"])
    needed = max(nlist, MIN_TRAIN if "x4" in factory or "PQ" not in factory else _MIN_8_BIT)
    if n < needed:
        return _flat(f"{n:,} vectors are too few to train {factory} ({needed:,} at least)")
    return IndexSpec(
        factory=factory,
        nlist=nlist,
        nprobe=_first_probed(nlist, is_fine=found["coarse"] is not None),
        train_size=min(n, max(min(nlist * _POINTS_PER_LIST, _MOST_TRAINED), 10_000)),
        reason=f"{factory} was asked for; rescored from the stored rows",
    )


def _first_probed(nlist: int, *, is_fine: bool) -> int:
    """Return how many lists tuning begins with."""
    first = max(1, nlist // 32)
    return min(first, _FINE_PROBED) if is_fine else first


def _flat(reason: str) -> IndexSpec:
    return IndexSpec(factory="Flat", nlist=0, nprobe=0, train_size=0, reason=reason)
