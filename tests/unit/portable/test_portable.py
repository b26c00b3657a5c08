"""One collection as one file: whole, without what is private, and harmless whoever made it."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from mmsearch.catalog.listing import listed_items
from mmsearch.catalog.rows import NewItem
from mmsearch.collection.collection import Collection
from mmsearch.collection.maintenance import verify
from mmsearch.collection.portable import export_collection, import_collection
from mmsearch.engine.engine import SearchEngine
from mmsearch.errors import CollectionCorrupt, CollectionError
from mmsearch.types import Modality, PictureMetadata
from tests.archives import Members, in_catalog, members, rewrite
from tests.support import ToyEncoder, make_folder, picture, random_units, run


def test_what_is_imported_is_what_was_exported(exported: Path, tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    report = import_collection(exported, tmp_path / "imported")
    assert (report.items, report.encoder, report.missing_roots) == (41, "toy:1", ())
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    with Collection.open(tmp_path / "imported") as opened:
        assert verify(opened).problems == ()
    with (
        SearchEngine(Collection.open(place), toy) as before,
        SearchEngine(Collection.open(tmp_path / "imported"), toy) as after,
    ):
        for number in (3, 35):
            assert after.search(image=picture(number), k=5).hits == before.search(image=picture(number), k=5).hits
        assert after.search("red", target="text", k=1)[0].item.text == "a red thing"
    images = toy.images
    report = run(tmp_path / "imported", toy)
    assert (report.kept, report.added, toy.images) == (41, 0, images)
    assert (tmp_path / "imported").stat().st_mode & 0o077 == 0
    assert exported.stat().st_mode & 0o077 == 0


def test_an_index_is_not_handed_on_but_built(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    make_folder(tmp_path / "photos", 120)
    run(place, toy, tmp_path / "photos", index_kind="ivfpq")
    with Collection.open(place) as opened:
        assert list(place.rglob("index.faiss"))
        export_collection(opened, tmp_path / "c.tar")
    assert not [name for name in members(tmp_path / "c.tar") if "ann" in name]

    def smuggle(content: Members) -> None:
        content[f"ann/image/{'0' * 32}/index.faiss"] = b"not read by FAISS"
        in_catalog(
            "INSERT INTO ann_indexes (modality, file, sha256, bytes, covered, vectors, factory, nlist, nprobe,"
            f" recall_at_10, reason, built_at) VALUES ('image', 'ann/image/{'0' * 32}/index.faiss', 'x', 17, 120, 120,"
            " 'IVF4,PQ8', 4, 1, 1.0, '', 0.0)"
        )(content)

    rewrite(tmp_path / "c.tar", smuggle)
    import_collection(tmp_path / "c.tar", tmp_path / "imported")
    (built,) = (tmp_path / "imported").rglob("index.faiss")
    assert built.parent.name != "0" * 32
    with Collection.open(tmp_path / "imported") as opened:
        assert verify(opened).problems == ()


def test_places_stay_at_home_unless_asked_for(tmp_path: Path, collection: Collection) -> None:
    where = PictureMetadata(latitude=47.123456, longitude=-11.654321)
    with collection.writer() as writer:
        root = writer.root("folder", "/photos")
        for number, vector in enumerate(random_units(50, 192)):
            item = NewItem(
                key=f"/photos/{number}.jpg",
                modality=Modality.IMAGE,
                uri=f"/photos/{number}.jpg",
                group=f"/photos/{number}.jpg",
                content_hash=bytes([number]) * 32,
                size=1,
                mtime_ns=1,
                scanned_ns=1,
                metadata=where,
            )
            writer.put(item, root, vector)
    export_collection(collection, tmp_path / "without.tar")
    export_collection(collection, tmp_path / "with.tar", with_places=True)
    needle = np.array([47.123456], dtype=">f8").tobytes()
    assert needle in (tmp_path / "with.tar").read_bytes()
    assert needle not in (tmp_path / "without.tar").read_bytes()
    for name, known in (("without", None), ("with", 47.123456)):
        import_collection(tmp_path / f"{name}.tar", tmp_path / name)
        with Collection.open(tmp_path / name) as opened:
            listed = list(listed_items(opened.catalog, Modality.IMAGE, with_places=True))
            assert {one.latitude for one in listed} == {known}
    (first,) = listed_items(collection.catalog, Modality.IMAGE, under="/photos/7.jpg")
    assert (first.latitude, first.longitude) == (None, None), "a list does not tell either"


def test_an_export_while_a_writer_writes_is_one_state(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    make_folder(tmp_path / "photos", 5)
    run(place, toy, tmp_path / "photos")
    stop = threading.Event()
    rows = random_units(2000, 192, seed=3)

    def write() -> None:
        with Collection.open(place) as opened, opened.writer() as writer:
            (root,) = opened.catalog.roots()
            for number, vector in enumerate(rows):
                if stop.is_set():
                    return
                key = f"{root.path}/q{number}.png"
                item = NewItem(key, Modality.IMAGE, key, key, number.to_bytes(32, "big"), 1, 1, 1)
                writer.put(item, root, vector)
                if number % 20 == 19:
                    writer.commit()
                    writer.seal(Modality.IMAGE)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        with Collection.open(place) as opened:
            counts = []
            for number in range(5):
                counts.append(export_collection(opened, tmp_path / f"{number}.tar").items)
    finally:
        stop.set()
        thread.join()
    assert counts == sorted(counts)
    for number, count in enumerate(counts):
        assert import_collection(tmp_path / f"{number}.tar", tmp_path / f"i{number}").items == count
        assert count == 5 or (count - 5) % 20 == 0, "commits are whole"


def test_nothing_is_overwritten(exported: Path, tmp_path: Path, place: Path) -> None:
    data = exported.read_bytes()
    with Collection.open(place) as opened:
        with pytest.raises(CollectionError, match="is there already: name another file, or say --force"):
            export_collection(opened, exported)
        with pytest.raises(CollectionError, match="There is no folder"):
            export_collection(opened, tmp_path / "none" / "c.tar")
        assert exported.read_bytes() == data
        assert export_collection(opened, exported, replace=True).items == 41
    with pytest.raises(CollectionError, match="is there already: import under another name"):
        import_collection(exported, place)


def test_a_damaged_segment_is_not_handed_on(exported: Path, tmp_path: Path, place: Path) -> None:
    segment = next(place.rglob("*.npy"))
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(data)
    with Collection.open(place) as opened, pytest.raises(CollectionCorrupt, match="run 'mmsearch verify'"):
        export_collection(opened, tmp_path / "again.tar")
    assert not list(tmp_path.glob("*again*"))


def test_folders_are_durable_before_the_collection_has_its_name(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, set[str]]] = []

    def names(path: Path) -> set[str]:
        return {one.name for one in path.iterdir()}

    def note(path: Path) -> None:
        synced.append((str(path), names(path)))

    monkeypatch.setattr("mmsearch.collection.portable.fsync_folder", note)
    import_collection(exported, tmp_path / "imported")
    (staging,) = {path.partition(".part")[0] + ".part" for path, _ in synced if ".part" in path}
    last = {path.replace(staging, str(tmp_path / "imported")): names for path, names in synced}
    for folder in (tmp_path / "imported", *(tmp_path / "imported").rglob("*")):
        if folder.is_dir():
            assert last[str(folder)] == names(folder), folder
    assert synced[-1][0] == str(tmp_path), "and its name after that"


def test_what_a_killed_import_or_export_left_is_removed_by_the_next(
    exported: Path, tmp_path: Path, place: Path
) -> None:
    def leave(name: str) -> Path:
        (tmp_path / name / "vectors").mkdir(parents=True)
        (tmp_path / name / "vectors" / "x.npy").write_text("x")
        return tmp_path / name

    stale = [leave(f".{name}-{'a' * 32}.part") for name in ("imported", "again[1].tar")]
    others = [leave(f".{name}.part") for name in (f"imported2-{'a' * 32}", "imported-mine", f"imported-b-{'a' * 32}")]
    link = tmp_path / f".imported-{'b' * 32}.part"
    link.symlink_to(others[0])
    import_collection(exported, tmp_path / "imported")
    assert [path.exists() for path in stale] == [False, True]
    with Collection.open(place) as opened:
        export_collection(opened, tmp_path / "again[1].tar")
    assert [path.exists() for path in stale] == [False, False]
    assert all((path / "vectors" / "x.npy").exists() for path in others)
    assert link.is_symlink()


def test_an_import_that_is_under_way_is_left_alone(exported: Path, tmp_path: Path) -> None:
    seen = []

    def meanwhile(_done: int, _total: int) -> None:
        if not seen:
            seen.append(True)
            import_collection(exported, tmp_path / "imported")

    with pytest.raises(CollectionError, match="has come to be meanwhile"):
        import_collection(exported, tmp_path / "imported", progress=meanwhile)
    assert not list(tmp_path.glob(".*.part"))
