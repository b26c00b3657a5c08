"""What every Source keeps to."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from indexer.sources import CorpusSource, FileSource, FolderSource, make_source
from mmsearch.corpora.places import split_place
from mmsearch.corpora.records import CorpusOptions
from mmsearch.errors import SourceError
from mmsearch.types import Modality, ScanFailure, Source, SourceEntry
from tests.support import make_folder


def folder(place: Path) -> FolderSource:
    make_folder(place / "b", 2)
    make_folder(place / "a", 2, first=10)
    (place / "a" / "p0010.txt").write_text("one\ntwo\n")
    return FolderSource(place)


def file(place: Path) -> FileSource:
    paths = make_folder(place, 2)
    (place / "p0000.png.txt").write_text("caption")
    return FileSource(paths[0])


def jsonl(place: Path) -> CorpusSource:
    make_folder(place, 2)
    records = [
        {"image": "p0000.png", "captions": ["a", "b", "a"]},
        {"image": "p0000.png", "id": "again", "captions": ["c"]},
        {"text": "alone"},
        {"text": "alone"},
    ]
    (place / "c.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    return CorpusSource(place / "c.jsonl", "jsonl", CorpusOptions())


def table(place: Path) -> CorpusSource:
    make_folder(place, 2)
    (place / "c.csv").write_text("image,caption\np0000.png,one\np0000.png,two\np0001.png,one\n")
    return CorpusSource(place / "c.csv", "table", CorpusOptions())


def webdataset(place: Path) -> CorpusSource:
    make_folder(place, 2)
    (place / "p0000.txt").write_text("one\ntwo")
    with tarfile.open(place / "c.tar", "w") as archive:
        for name in ("p0000.png", "p0000.txt", "p0001.png"):
            archive.add(place / name, name)
    return CorpusSource(place / "c.tar", "webdataset", CorpusOptions())


def coco(place: Path) -> CorpusSource:
    make_folder(place, 2)
    images = [{"id": 1, "file_name": "p0000.png"}, {"id": 2, "file_name": "p0001.png"}]
    (place / "c.json").write_text(json.dumps({"images": images, "annotations": [{"image_id": 2, "caption": "one"}]}))
    return CorpusSource(place / "c.json", "coco", CorpusOptions())


MAKERS: dict[str, Callable[[Path], Source]] = {
    "folder": folder,
    "file": file,
    "jsonl": jsonl,
    "table": table,
    "webdataset": webdataset,
    "coco": coco,
}
EXPECTED = {"folder": (4, 2), "file": (1, 1), "jsonl": (1, 4), "table": (2, 3), "webdataset": (2, 2), "coco": (2, 1)}


@pytest.fixture(params=MAKERS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    return MAKERS[request.param](tmp_path / "source")


def entries(source: Source) -> list[SourceEntry]:
    found = list(source.scan())
    assert not [entry for entry in found if isinstance(entry, ScanFailure)]
    return [entry for entry in found if isinstance(entry, SourceEntry)]


def test_it_finds_what_is_there(source: Source) -> None:
    found = entries(source)
    pictures = [entry for entry in found if entry.modality is Modality.IMAGE]
    assert (len(pictures), len(found) - len(pictures)) == EXPECTED[source.kind]


def test_order_is_stable_and_keys_are_unique(source: Source) -> None:
    found = entries(source)
    assert found == entries(source)
    assert len({entry.key for entry in found}) == len(found)


def test_root_is_absolute_and_makes_the_same_source(source: Source) -> None:
    assert Path(source.root).is_absolute()
    again = make_source(source.root)
    assert (again.kind, again.root, again.options) == (source.kind, source.root, source.options)


def test_pictures_are_named_by_their_path(source: Source) -> None:
    for entry in entries(source):
        if entry.modality is Modality.IMAGE:
            stat = Path(split_place(entry.key)[0]).stat()
            assert (entry.key, entry.text) == (entry.uri, None)
            assert (entry.size, entry.mtime_ns) == (stat.st_size, stat.st_mtime_ns)
        else:
            assert entry.text


def test_captions_belong_to_a_picture_that_is_there(source: Source) -> None:
    found = entries(source)
    pictures = {entry.group for entry in found if entry.modality is Modality.IMAGE}
    texts = [entry for entry in found if entry.modality is Modality.TEXT and entry.text != "alone"]
    assert texts
    assert all(entry.group in pictures and entry.uri == entry.group for entry in texts)


def test_what_has_gone_since_is_a_failure(source: Source, tmp_path: Path) -> None:
    (tmp_path / "source").rename(tmp_path / "gone")
    try:
        found = list(source.scan())
    except FileNotFoundError:
        assert source.kind == "file"
        return
    assert [type(entry) for entry in found] == [ScanFailure]


@pytest.mark.parametrize(("name", "message"), [("nothing", "is not there"), ("notes.pdf", "neither a folder")])
def test_what_is_no_source_is_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "notes.pdf").write_text("x")
    with pytest.raises(SourceError, match=message):
        make_source(tmp_path / name)
