"""One collection as one file: whole, without what is private, and harmless whoever made it."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import tarfile
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from mmsearch.catalog.database import SCHEMA_VERSION
from mmsearch.catalog.listing import listed_items
from mmsearch.catalog.rows import NewItem
from mmsearch.collection.collection import Collection
from mmsearch.collection.maintenance import verify
from mmsearch.collection.portable import export_collection, import_collection
from mmsearch.engine.engine import SearchEngine
from mmsearch.errors import CollectionCorrupt, CollectionError, DiskFull, MmsearchError, UnsupportedFormat
from mmsearch.types import Modality, PictureMetadata
from tests.support import ToyEncoder, make_folder, picture, random_units, run

Members = dict[str, bytes]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a collection of 40 pictures, 30 of them sealed, with a caption, and its export."""
    home, toy = tmp_path_factory.mktemp("made"), ToyEncoder()
    make_folder(home / "photos", 30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmsearch.collection.writer.SEAL_ROWS", 30)
        run(home / "c", toy, home / "photos")
    make_folder(home / "photos", 40)
    (home / "photos" / "p0001.txt").write_text("a red thing")
    run(home / "c", toy, home / "photos")
    with Collection.open(home / "c") as opened:
        export_collection(opened, home / "c.tar")
    return home


@pytest.fixture
def exported(made: Path, tmp_path: Path, place: Path) -> Path:
    """Return a copy of that export; the collection is copied to `place`."""
    shutil.copytree(made / "c", place)
    return Path(shutil.copy(made / "c.tar", tmp_path))


def members(file: Path) -> Members:
    with tarfile.open(file) as archive:
        files = {one.name: archive.extractfile(one) for one in archive}
        return {name: file.read() for name, file in files.items() if file is not None}


def rewrite(file: Path, change: Callable[[Members], None]) -> None:
    """Change what is in an archive, with hashes that fit again."""
    import hashlib

    content = members(file)
    change(content)
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.pax_headers = {"MMSEARCH.sha256": hashlib.sha256(data).hexdigest()}
            archive.addfile(info, io.BytesIO(data))


def in_catalog(*statements: str) -> Callable[[Members], None]:
    """Return a change that runs SQL on the catalog in an archive."""

    def change(content: Members) -> None:
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            connection.deserialize(content["catalog.sqlite3"])
            for statement in statements:
                connection.execute(statement)
            content["catalog.sqlite3"] = connection.serialize()

    return change


def refused(file: Path, tmp_path: Path, match: str, kind: type[MmsearchError] = CollectionCorrupt) -> None:
    before = set(tmp_path.iterdir())
    with pytest.raises(kind, match=match):
        import_collection(file, tmp_path / "imported")
    assert set(tmp_path.iterdir()) == before, "nothing is left behind"


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


# --- hostile archives -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("/etc/passwd", tarfile.REGTYPE),
        ("../outside", tarfile.REGTYPE),
        ("vectors/image/../../../outside.npy", tarfile.REGTYPE),
        ("vectors/image/000000000000-00000000.npy", tarfile.SYMTYPE),
        ("catalog.sqlite3-wal", tarfile.REGTYPE),
        ("mmsearch.json", tarfile.LNKTYPE),
        ("catalog.sqlite3", tarfile.CHRTYPE),
        ("vectors", tarfile.DIRTYPE),
        ("vectors/image/000000000000-00000000.npy", tarfile.FIFOTYPE),
        ("vectors/image/000000000000-00000000.npy", tarfile.GNUTYPE_SPARSE),
        ("mmsearch.json", tarfile.REGTYPE),
    ],
)
def test_members_that_have_no_place(exported: Path, tmp_path: Path, name: str, kind: bytes) -> None:
    with tarfile.open(exported, "a") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    refused(exported, tmp_path, "which has no place in a collection|twice|cannot be imported")


def manifest(**change: object) -> Callable[[Members], None]:
    def changed(content: Members) -> None:
        told = json.loads(content["mmsearch.json"])
        content["mmsearch.json"] = json.dumps({**told, **change}).encode()

    return changed


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda content: content.pop("mmsearch.json"), "no export of a collection"),
        (lambda content: content.pop("catalog.sqlite3"), "no export of a collection"),
        (
            lambda content: content.pop(next(name for name in content if name.endswith("npy"))),
            "cannot be read|is missing",
        ),
        (lambda content: content.update({"mmsearch.json": b"[" * 100_000}), "cannot be imported"),
        (lambda content: content.update({"mmsearch.json": b" " * 2_000_000}), "larger than it can be"),
        (lambda content: content.update({"catalog.sqlite3": b"nonsense"}), "catalog cannot be read"),
        (manifest(format="else"), "format is 'else'"),
        (manifest(encoder={"uri": 1, "dim": "x", "image_size": 1, "fingerprint": "f"}), "describes no encoder"),
        (manifest(uuid="another"), "belongs to another collection"),
        (in_catalog("UPDATE segments SET file = '../../../etc/passwd'"), "names the file '../../../etc/passwd'"),
        (in_catalog("UPDATE segments SET sha256 = 'x'"), "does not have the SHA-256"),
        (in_catalog("UPDATE segments SET rows = 1000000000"), "cannot be imported"),
        (in_catalog("UPDATE segments SET first_id = -5"), "cannot be imported"),
        (in_catalog("UPDATE items SET modality = 'smell' WHERE id = 1"), "modalities|damaged|refers to nothing"),
        (in_catalog("UPDATE items SET uri = x'ff' WHERE id = 1"), "items.uri"),
        (in_catalog("UPDATE unsealed_vectors SET row = zeroblob(10)"), "does not have 192 numbers"),
        (in_catalog("UPDATE unsealed_vectors SET row = zeroblob(384)"), "length 0.0000"),
        (in_catalog("DELETE FROM unsealed_vectors"), "40 are named, 30 are alive"),
        (in_catalog("DELETE FROM vectors WHERE id = 3"), "refers to nothing"),
        (in_catalog("CREATE TRIGGER t AFTER UPDATE ON items BEGIN DELETE FROM items; END"), "the trigger 't'"),
        (in_catalog("ALTER TABLE items RENAME TO i", "CREATE VIEW items AS SELECT * FROM i"), "the view 'items'"),
        (in_catalog("DROP TABLE failures"), "lacks failures"),
        (in_catalog("ALTER TABLE items DROP COLUMN title"), "lacks items.title"),
        (in_catalog("PRAGMA user_version=0"), "no schema of ours"),
        (
            in_catalog("PRAGMA user_version=2", "UPDATE alembic_version SET version_num = 'strange'"),
            r"cannot be imported \(.*strange",
        ),
        (in_catalog("INSERT OR REPLACE INTO facts VALUES ('layout', 'x')"), "says 'x' for layout|invalid literal"),
        (in_catalog("INSERT OR REPLACE INTO facts VALUES ('held_before:1', 'x')"), "says 'x' for held_before:1"),
        (in_catalog("INSERT OR REPLACE INTO facts VALUES ('recall_target', 'nan')"), "says 'nan' for recall_target"),
        (in_catalog("UPDATE roots SET options = '{\"include\": 5}'"), "nonsense of how the source .* is read"),
        (in_catalog('UPDATE roots SET options = \'{"min_size": "x"}\''), "nonsense of how the source"),
        (in_catalog("UPDATE roots SET options = '[1]'"), "nonsense of how the source"),
        (in_catalog("UPDATE roots SET options = 'x'"), "nonsense of how the source"),
        (in_catalog("UPDATE roots SET kind = 'x'"), "a source of the kind 'x'"),
        (
            in_catalog(
                "ALTER TABLE facts RENAME TO f",
                "CREATE TABLE facts (name TEXT NOT NULL, value TEXT NOT NULL)",
                "INSERT INTO facts SELECT * FROM f UNION ALL SELECT * FROM f",
                "DROP TABLE f",
            ),
            "two rows of facts where one belongs",
        ),
    ],
)
def test_hostile_content(exported: Path, tmp_path: Path, change: Callable[[Members], None], match: str) -> None:
    rewrite(exported, change)
    refused(exported, tmp_path, match)


@pytest.mark.parametrize("change", [manifest(version=99), in_catalog(f"PRAGMA user_version={SCHEMA_VERSION + 1}")])
def test_newer_formats(exported: Path, tmp_path: Path, change: Callable[[Members], None]) -> None:
    rewrite(exported, change)
    refused(exported, tmp_path, "was made by a newer mmsearch", UnsupportedFormat)


def test_a_foreign_factory_is_not_built(exported: Path, tmp_path: Path) -> None:
    rewrite(exported, in_catalog("INSERT OR REPLACE INTO facts VALUES ('index_kind', 'IVF99999999,PQ8')"))
    import_collection(exported, tmp_path / "imported")
    with Collection.open(tmp_path / "imported") as opened:
        assert opened.index_kind == "auto"


def test_random_damage_is_found_or_harmless(exported: Path, tmp_path: Path) -> None:
    """Every flipped byte of content is found by a hash; one in a header is refused or means nothing."""
    data = exported.read_bytes()
    rng = np.random.default_rng(5)
    refusals = 0
    for trial in range(24):
        broken = bytearray(data)
        if trial % 3 == 0:
            broken = broken[: rng.integers(1, len(data) - 10_240)]
        else:
            header = int(rng.integers(0, 4096)) if trial % 3 == 1 else int(rng.integers(0, len(data)))
            broken[header] ^= int(rng.integers(1, 256))
        exported.write_bytes(broken)
        target = tmp_path / f"imported{trial}"
        try:
            import_collection(exported, target)
        except MmsearchError:
            refusals += 1
            assert not target.exists()
        else:
            with Collection.open(target) as opened:
                assert verify(opened).problems == ()
                assert opened.info().modalities[Modality.IMAGE].items == 40
    assert refusals >= 12
    assert not list(tmp_path.glob(".*.part"))


def test_an_archive_with_a_huge_header_is_not_read_into_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 1 << 40
    file = tmp_path / "c.tar"
    file.write_bytes(info.tobuf(tarfile.USTAR_FORMAT) if info.size < 8**11 else info.tobuf(tarfile.GNU_FORMAT))
    refused(file, tmp_path, "header")


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("x"), AttributeError("x"), RuntimeError("x")])
def test_whatever_a_hostile_catalog_makes_go_wrong_is_one_sentence(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("mmsearch.collection.portable.check_rows", failing(error))
    refused(exported, tmp_path, "cannot be imported")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), DiskFull("The disk takes no more.")])
def test_a_disk_that_fails_is_not_the_fault_of_the_archive(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("mmsearch.collection.portable.check_rows", failing(error))
    before = set(tmp_path.iterdir())
    with pytest.raises(type(error)) as raised:
        import_collection(exported, tmp_path / "imported")
    assert raised.value is error
    assert set(tmp_path.iterdir()) == before


def failing(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


# --- what a power cut or a kill leaves ------------------------------------------------------------------------------


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
