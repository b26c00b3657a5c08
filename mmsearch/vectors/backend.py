"""FAISS itself: whether it is there, how many threads it may use, and the one way to build search parameters."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

import numpy as np

from mmsearch.config import Settings
from mmsearch.errors import MissingExtra
from mmsearch.runtime.threads import set_faiss_threads
from mmsearch.types import Mask

HOW_TO_GET_FAISS = 'pip install "mmsearch[cpu]" (or "mmsearch[gpu]", never both).'


@cache
def find_faiss() -> ModuleType | None:
    """Return the faiss module, or None where neither [cpu] nor [gpu] is installed."""
    try:
        return import_module("faiss")
    except ImportError:
        return None


def require_faiss() -> ModuleType:
    """Return the faiss module; raise MissingExtra with the pip command that brings it."""
    faiss = find_faiss()
    if faiss is None:
        raise MissingExtra(f"An IVF-PQ index needs FAISS, exact search works without: {HOW_TO_GET_FAISS}")
    return faiss


def use_threads(faiss: ModuleType, n_queries: int) -> None:
    """Give FAISS one thread for a few queries (low latency), all of ours for a batch."""
    set_faiss_threads(faiss, n_queries, threads=Settings.from_environment().threads)


def search_parameters(
    faiss: ModuleType, mask: Mask | None, nprobe: int | None = None, *, behind_transform: bool = False
) -> tuple[Any, Any]:
    """Return (parameters, owner) for one `index.search` call.

    `mask` is True at the ids that may come back; ids at or past its end may not. `nprobe` is for an IVF index. With
    `behind_transform` the IVF index is one behind a rotation, which passes them on (a contract test holds it). `owner`
    holds the memory that the parameters point to: keep it until the search is done. Refused for wrapped indexes by
    design: FAISS drops the selector behind IDMap2, so nothing here ever builds one.
    """
    kwargs: dict[str, Any] = {}
    owner: Any = None
    if mask is not None:
        bits = np.packbits(mask, bitorder="little")
        selector = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
        owner, kwargs["sel"] = (bits, selector), selector
    if nprobe is not None:
        parameters = faiss.SearchParametersIVF(nprobe=nprobe, **kwargs)
        if behind_transform:
            return faiss.SearchParametersPreTransform(index_params=parameters), (owner, parameters)
        return parameters, owner
    return (faiss.SearchParameters(**kwargs) if kwargs else None), owner


def versions() -> dict[str, str]:
    """Return what is known of FAISS, for `mmsearch doctor`: version, the package it is from, instruction sets."""
    faiss = find_faiss()
    if faiss is None:
        return {}
    owners = []
    for package in ("faiss-cpu", "faiss-gpu"):
        try:
            owners.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return {
        "faiss": faiss.__version__,
        "faiss package": " and ".join(owners) or "unknown",
        "faiss options": str(faiss.get_compile_options()).strip(),
    }
