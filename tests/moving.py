"""Moving a collection of toy vectors to another encoder: what its tests share."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from indexer import ReembedReport, reembed
from indexer.report import Progress
from mmsearch.collection.collection import Collection
from mmsearch.collection.maintenance import verify
from mmsearch.engine.engine import SearchEngine
from mmsearch.types import Encoder, Modality
from tests.support import ToyEncoder, picture

IMAGE, TEXT = Modality.IMAGE, Modality.TEXT


def new_toy() -> ToyEncoder:
    """Return an encoder of other vectors, of another width."""
    return ToyEncoder("toy:2", side=6)


def move(place: Path, encoder: Encoder | None = None, **options: Any) -> ReembedReport:
    """Move a collection, verify it, and return the report."""
    report = reembed(place, encoder=encoder or new_toy(), **options)
    with Collection.open(place) as opened:
        assert verify(opened).problems == ()
    if report.switched:
        assert not (place / "reembed").exists()
        assert json.loads((place / "mmsearch.json").read_text())["encoder"]["fingerprint"] == opened.spec.fingerprint
    return report


def items(place: Path) -> dict[str, tuple[int, str, int]]:
    """Return the id, the hash and the vector id of every item, by its key."""
    with Collection.open(place) as opened:
        return {
            item.key: (item.id, item.content_hash.hex(), item.vector_id)
            for root in opened.catalog.roots()
            for item in opened.catalog.known_items(root.id)
        }


def answers(place: Path, encoder: Encoder, photos: Path) -> list[tuple[str, str | None, float]]:
    """Return what some searches find, in words that do not depend on ids."""
    found = []
    with SearchEngine(Collection.open(place), encoder) as engine:
        for target in ("image", "text"):
            for result in (
                engine.search("something red", target=target, k=50),
                engine.search(image=picture(3), target=target, k=50),
                engine.search(image=photos / "p0007.png", target=target, k=50),
            ):
                found += sorted((hit.item.uri, hit.item.text, round(hit.similarity, 5)) for hit in result)
    return found


class Stopper(Progress):
    """Stops a run when so many vectors of pictures were computed."""

    def __init__(self, after: int = 1) -> None:
        self.stop = threading.Event()
        self._left = after

    def embedded(self, keys: Sequence[str], modality: Modality) -> None:
        self._left -= len(keys) if modality is IMAGE else 0
        if self._left <= 0:
            self.stop.set()


class SmallBatches(ToyEncoder):
    """Takes three pictures at a time."""

    @property
    def image_batch(self) -> int:
        return 3


def interrupted(place: Path, encoder: ToyEncoder) -> ReembedReport:
    stopper = Stopper()
    report = move(place, encoder, progress=stopper, stop=stopper.stop)
    assert (report.interrupted, report.switched) == (True, False)
    assert 0 < report.embedded[IMAGE] < 12
    return report
