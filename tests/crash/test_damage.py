"""Damaged pictures and damaged collections: every one is named, and what is whole serves on."""

from __future__ import annotations

import io
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pillow_heif
import pytest
from PIL import Image

from indexer import index
from mmsearch.collection.collection import Collection
from mmsearch.collection.maintenance import verify
from mmsearch.collection.repair import repair
from mmsearch.engine.engine import SearchEngine
from mmsearch.errors import CollectionCorrupt, MmsearchError
from mmsearch.types import Modality
from mmsearch.vectors.store import open_segment
from tests.made_files import dng
from tests.support import ToyEncoder, make_folder, picture

DAMAGED = 300
FLIPS = 200


def _saved(format_name: str, **options: Any) -> Callable[[Image.Image], bytes]:
    def save(image: Image.Image) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, format_name, **options)
        return buffer.getvalue()

    return save


def _heic(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=90)
    return buffer.getvalue()


FORMATS: dict[str, Callable[[Image.Image], bytes]] = {
    ".jpg": _saved("JPEG"),
    ".jpeg": _saved("JPEG", progressive=True),
    ".png": _saved("PNG"),
    ".webp": _saved("WEBP"),
    ".gif": _saved("GIF"),
    ".tif": _saved("TIFF"),
    ".tiff": _saved("TIFF", compression="tiff_lzw"),
    ".bmp": _saved("BMP"),
    ".jp2": _saved("JPEG2000"),
    ".avif": _saved("AVIF"),
    ".ppm": _saved("PPM"),
    ".heic": _heic,
    ".dng": dng,
}


def damaged(data: bytes, how: int, rng: random.Random) -> bytes:
    """Return a file cut short, with bits flipped anywhere, or with a header of noise."""
    spoiled = bytearray(data)
    if how == 0:
        return bytes(spoiled[: rng.randrange(1, len(data))])
    reach = len(data) if how == 1 else min(len(data), 200)
    for _ in range(rng.randrange(1, 24)):
        spoiled[rng.randrange(reach)] ^= 1 << rng.randrange(8)
    return bytes(spoiled)


def test_three_hundred_damaged_files_are_named_and_the_good_ones_indexed(tmp_path: Path, place: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = random.Random(20261127)
    bad, good = set(), set()
    for number in range(DAMAGED):
        suffix = list(FORMATS)[number % len(FORMATS)]
        whole = FORMATS[suffix](picture(number, (64, 48)))
        path = folder / f"d{number:03d}{suffix}"
        path.write_bytes(damaged(whole, number // len(FORMATS) % 3, rng))
        bad.add(str(path))
        if number < len(FORMATS):
            beside = folder / f"g{number:03d}{suffix}"
            beside.write_bytes(whole)
            good.add(str(beside))
    report = index([folder], collection=place, encoder=ToyEncoder())
    failed = {failure.key for failure in report.failed}
    with Collection.open(place) as collection:
        (root,) = collection.catalog.roots()
        held = {item.key for item in collection.catalog.known_items(root.id)}
        assert verify(collection).problems == ()
    assert good <= held
    assert failed | held == bad | good  # a flipped bit in the pixels leaves a picture: each file is one or the other
    assert not failed & held
    assert len(failed) > DAMAGED / 4
    assert all(failure.reason and "Traceback" not in failure.reason for failure in report.failed)


@pytest.fixture
def stored(tmp_path: Path, place: Path) -> Path:
    """Return a collection with segments, an index, captions, and unsealed rows."""
    folder = tmp_path / "pictures"
    make_folder(folder, 120)
    for number in range(0, 120, 2):
        (folder / f"p{number:04d}.txt").write_text(f"picture number {number} of a long walk by the sea")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmsearch.collection.writer.SEAL_ROWS", 50)
        index([folder], collection=place, encoder=ToyEncoder(), index_kind="ivfpq", recall=0.5)
        make_folder(folder, 20, first=200)
        index([folder], collection=place, encoder=ToyEncoder())
    return place


def test_one_flipped_bit_in_a_data_file_is_found(stored: Path) -> None:
    rng = random.Random(1)
    with Collection.open(stored) as collection:
        files = [collection.layout.path(name) for name in collection.layout.data_files()]
        assert len(files) >= 3
        assert verify(collection).problems == ()
        for _ in range(FLIPS):
            path = rng.choice(files)
            data = bytearray(path.read_bytes())
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            whole = path.with_suffix(".whole")
            path.rename(whole)
            path.write_bytes(data)
            problems = verify(collection).problems
            whole.replace(path)
            assert any(path.name in problem or path.parent.name in problem for problem in problems)
        assert verify(collection).problems == ()


def test_a_flipped_bit_in_a_text_or_an_unsealed_row_is_found(stored: Path, tmp_path: Path) -> None:
    catalog = stored / "catalog.sqlite3"
    data = catalog.read_bytes()
    text = b"picture number 42 of a long walk by the sea"
    at = data.index(text)
    for offset in range(0, len(text), 4):
        copy = tmp_path / "copy"
        shutil.copytree(stored, copy)
        spoiled = bytearray(data)
        spoiled[at + offset] ^= 1  # SQLite itself sees nothing wrong with that
        (copy / catalog.name).write_bytes(spoiled)
        with Collection.open(copy) as collection:
            problems = verify(collection).problems
        assert any("is not the one that was embedded" in problem for problem in problems), problems
        shutil.rmtree(copy)


def test_a_flipped_bit_anywhere_in_the_catalog_never_crashes(stored: Path, tmp_path: Path) -> None:
    """It is refused, found by verify, or lies where SQLite keeps no check (docs/storage-format.md)."""
    catalog = stored / "catalog.sqlite3"
    data = catalog.read_bytes()
    rng = random.Random(2)
    found = 0
    for _ in range(FLIPS):
        copy = tmp_path / "copy"
        shutil.copytree(stored, copy)
        spoiled = bytearray(data)
        spoiled[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (copy / catalog.name).write_bytes(spoiled)
        try:
            with SearchEngine(Collection.open(copy), ToyEncoder()) as engine:
                found += bool(verify(engine.collection).problems)
                engine.search("a picture", k=200)
                engine.info()
        except MmsearchError:
            found += 1
        shutil.rmtree(copy)
    assert found > FLIPS / 10


def test_repair_brings_back_what_can_be(stored: Path, tmp_path: Path) -> None:
    with Collection.open(stored) as collection:
        state = collection.catalog.state(collection.spec).modalities[Modality.IMAGE]
        assert state.ann is not None
        segment, ann = (collection.layout.path(name) for name in (state.segments[0].file, state.ann.file))
        rows = state.segments[0].rows
        before = collection.info().modalities[Modality.IMAGE].items
    segment.write_bytes(segment.read_bytes()[:-1])
    ann.unlink()
    with Collection.open(stored) as collection, collection.writer() as writer:
        assert len(repair(collection, writer, ToyEncoder).lost) == rows
    with Collection.open(stored) as collection:
        assert verify(collection).problems == ()
        part = collection.info().modalities[Modality.IMAGE]
        assert (part.items, part.vectors) == (before - rows, before - rows)
    report = index([tmp_path / "pictures"], collection=stored, encoder=ToyEncoder())
    assert (report.added, report.failed) == (rows, [])
    with SearchEngine(Collection.open(stored), ToyEncoder()) as engine:
        assert verify(engine.collection).problems == ()
        assert engine.search(image=picture(7), k=1)[0].item.uri.endswith("p0007.png")


def test_repair_touches_nothing_that_it_merely_cannot_read(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    with Collection.open(stored) as collection:
        before = collection.info().modalities
        with collection.writer() as writer, monkeypatch.context() as patch:
            patch.setattr("mmsearch.collection.soundness.file_sha256", refuse)
            with pytest.raises(PermissionError):
                repair(collection, writer, ToyEncoder)
        assert collection.info().modalities == before
        assert verify(collection).problems == ()


def test_repair_lets_go_of_wrong_texts_and_says_what_is_left(stored: Path, tmp_path: Path) -> None:
    catalog = stored / "catalog.sqlite3"
    text = b"picture number 42 of a long walk by the sea"
    catalog.write_bytes(catalog.read_bytes().replace(text, text.replace(b"sea", b"tea")))
    with Collection.open(stored) as collection, collection.writer() as writer:
        done = repair(collection, writer, ToyEncoder)
    assert [Path(key).name for key in done.lost] == ["p0042.txt#p0042.png#1"]
    assert done.left == ()
    report = index([tmp_path / "pictures"], collection=stored, encoder=ToyEncoder())
    assert (report.added, report.failed) == (1, [])


def test_no_byte_of_a_segment_header_makes_a_traceback(stored: Path) -> None:
    with Collection.open(stored) as collection:
        segment = collection.catalog.state(collection.spec).modalities[Modality.IMAGE].segments[0]
        data = collection.layout.path(segment.file).read_bytes()
    spoiled = stored / "spoiled.npy"
    refused = 0
    for at in range(128):
        for bit in range(8):
            spoiled.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
            try:
                open_segment(spoiled, segment.rows, 192)
            except CollectionCorrupt:
                refused += 1
    assert refused > 500
