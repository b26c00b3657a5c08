"""Archives that somebody made or damaged: refused with one sentence, or harmless."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mmsearch.catalog.database import SCHEMA_VERSION
from mmsearch.collection.collection import Collection
from mmsearch.collection.maintenance import verify
from mmsearch.collection.portable import import_collection
from mmsearch.errors import DiskFull, MmsearchError, UnsupportedFormat
from mmsearch.types import Modality
from tests.archives import Members, in_catalog, refused, rewrite


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
