"""Masks: which vectors a filter lets through, found once for a commit."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np

from mmsearch.catalog.catalog import Catalog
from mmsearch.types import Filter, Mask, Modality

_KEPT = 16
"""Filters whose masks are kept, a bit less than a megabyte each for a million vectors."""


class Masks:
    """The masks of the filters that were asked for last. Safe to use from several threads."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._lock = threading.Lock()
        self._masks: OrderedDict[tuple[Modality, int, Filter], Mask] = OrderedDict()

    def of(self, modality: Modality, commit: int, only: Filter, *, end: int) -> Mask:
        """Return which vectors of a commit a filter lets through, by id, for all below `end`."""
        key = (modality, commit, only)
        with self._lock:
            if key in self._masks:
                self._masks.move_to_end(key)
                return self._masks[key]
        mask = np.zeros(end, dtype=np.bool_)
        ids = self._catalog.vectors_matching(modality, only)
        mask[ids[ids < end]] = True
        with self._lock:
            self._masks[key] = mask
            while len(self._masks) > _KEPT:
                self._masks.popitem(last=False)
        return mask
