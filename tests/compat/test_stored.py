"""Collections that earlier versions wrote are opened, upgraded if need be, searched and written to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mmsearch.collection.collection import Collection
from mmsearch.collection.layout import FORMAT_VERSION
from mmsearch.collection.maintenance import verify
from mmsearch.engine.engine import SearchEngine
from mmsearch.errors import CollectionCorrupt, UnsupportedFormat
from mmsearch.types import Modality
from tests.support import ToyEncoder, picture

STORED = sorted(Path(__file__).parent.glob("collection-v*"))


@pytest.fixture(params=STORED, ids=lambda path: path.name)
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    shutil.copytree(request.param, tmp_path / "stored")
    return tmp_path / "stored"


def problems_of(collection: Collection) -> list[str]:
    """Return what `verify` finds, but for the texts: those of the stored ones were given hashes of no text."""
    return [problem for problem in verify(collection).problems if "embedded" not in problem]


def test_there_is_one_for_every_format() -> None:
    assert [path.name for path in STORED] == [f"collection-v{number}" for number in range(1, FORMAT_VERSION + 1)]


def test_it_holds_what_it_held(stored: Path) -> None:
    with SearchEngine(Collection.open(stored), ToyEncoder()) as engine:
        assert problems_of(engine.collection) == []
        info = engine.info()
        image, text = info.modalities[Modality.IMAGE], info.modalities[Modality.TEXT]
        assert (image.items, image.vectors, image.dead, image.segments) == (110, 110, 10, 1)
        assert (text.items, info.failures, image.index[:3]) == (30, 1, "IVF")
        for number in (0, 60, 113, 119):
            hit = engine.search(image=picture(number), k=1)[0]
            assert (hit.item.uri, round(hit.similarity, 2)) == (f"/pictures/p{number:04d}.png", 1.0)
        assert engine.search(image=picture(15), k=1)[0].similarity < 0.99
        assert engine.search("picture number 8", target="text", k=1)[0].item.text == "picture number 8"


def test_it_can_be_written_to(stored: Path) -> None:
    with Collection.open(stored) as collection:
        with collection.writer() as writer:
            (root,) = collection.catalog.roots()
            first = next(iter(collection.catalog.known_items(root.id)))
            writer.delete([first.id])
        assert problems_of(collection) == []
        assert collection.info().commits == 4


def test_newer_and_foreign_manifests_are_refused(stored: Path) -> None:
    path = stored / "mmsearch.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "version": FORMAT_VERSION + 1}))
    with pytest.raises(UnsupportedFormat, match="update mmsearch"):
        Collection.open(stored)
    for nonsense in ('{"format": "other"}', "[]", "no json", json.dumps({**manifest, "encoder": {}})):
        path.write_text(nonsense)
        with pytest.raises(CollectionCorrupt, match=r"mmsearch\.json cannot be read"):
            Collection.open(stored)
