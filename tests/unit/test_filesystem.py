"""Which file systems are a network's, by what Linux tells of its mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmsearch.catalog.catalog import Catalog
from mmsearch.collection import filesystem
from mmsearch.collection.collection import Collection
from mmsearch.collection.filesystem import existing, file_system, refuse_network
from mmsearch.collection.portable import export_collection, import_collection
from mmsearch.errors import CollectionError, CollectionReadOnly, NetworkFileSystem
from tests.support import ToyEncoder

ROOT_ROW = "21 1 8:1 / / rw,relatime - {} /dev/vda rw\n"


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file that stands for /proc/self/mountinfo, with an ordinary disk in it."""
    file = tmp_path / "mountinfo"
    file.write_text(ROOT_ROW.format("ext4"))
    monkeypatch.setattr(filesystem, "MOUNTS", file)
    return file


def mount(mounts: Path, place: Path, kind: str) -> None:
    """Add a mount, with the optional fields that the kernel writes for some."""
    escaped = str(place).replace("\\", "\\134").replace(" ", "\\040")
    with mounts.open("a") as file:
        file.write(f"99 21 0:50 /of/there {escaped} rw,nosuid shared:7 master:2 - {kind} server:/x rw,vers=4.2\n")


def test_the_deepest_mount_counts_and_of_two_the_later(mounts: Path, tmp_path: Path) -> None:
    share = tmp_path / "a share\\2"
    (share / "disk").mkdir(parents=True)
    assert file_system(share / "new" / "collection") == "ext4"
    mount(mounts, share, "nfs4")
    mount(mounts, share / "disk", "xfs")
    assert file_system(share / "new" / "collection") == "nfs4"
    assert file_system(share / "disk" / "new") == "xfs"
    assert file_system(tmp_path / "a share") == "ext4"
    mount(mounts, share, "ext4")
    assert file_system(share) == "ext4"
    (tmp_path / "link").symlink_to(share / "disk")
    assert file_system(tmp_path / "link" / "new") == "xfs"


def test_where_nothing_is_told_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "MOUNTS", tmp_path / "nowhere")
    assert file_system(tmp_path) == "unknown"
    refuse_network(tmp_path)


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"])
def test_network_file_systems_are_refused(mounts: Path, tmp_path: Path, kind: str) -> None:
    mount(mounts, tmp_path, kind)
    with pytest.raises(NetworkFileSystem, match=rf"\({kind}\).*--collection PATH or MMSEARCH_HOME"):
        refuse_network(tmp_path / "new")


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuseblk", "virtiofs"])
def test_disks_are_not(mounts: Path, tmp_path: Path, kind: str) -> None:
    mount(mounts, tmp_path, kind)
    refuse_network(tmp_path)


def test_a_sandbox_whose_whole_disk_is_9p_is_a_disk(mounts: Path, tmp_path: Path) -> None:
    mounts.write_text(ROOT_ROW.format("9p"))
    refuse_network(tmp_path)


def test_what_is_there_of_a_path(tmp_path: Path) -> None:
    assert existing(tmp_path / "a" / "b") == tmp_path


def test_collections_are_read_there_but_not_made_or_changed(mounts: Path, tmp_path: Path, toy: ToyEncoder) -> None:
    Collection.create(tmp_path / "c", toy.spec).close()
    with Collection.open(tmp_path / "c") as opened:
        export_collection(opened, tmp_path / "c.tar")
    mount(mounts, tmp_path, "nfs")
    with Collection.open(tmp_path / "c") as opened:
        assert opened.info().commits == 0
        with pytest.raises(NetworkFileSystem), opened.writer():
            pass
    with pytest.raises(NetworkFileSystem):
        Collection.create(tmp_path / "d", toy.spec)
    with pytest.raises(NetworkFileSystem):
        import_collection(tmp_path / "c.tar", tmp_path / "e")
    assert not (tmp_path / "d").exists()
    assert not (tmp_path / "e").exists()


def test_a_place_that_cannot_be_written_is_named(
    tmp_path: Path, toy: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(CollectionReadOnly, match="is read-only: name another place"):
        Collection.create(tmp_path / "c", toy.spec)
    assert not (tmp_path / "c").exists()


def test_a_closed_catalog_stays_closed(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "catalog.sqlite3", create=True)
    catalog.close()
    catalog.close()
    for ask in (catalog.token, catalog.roots, catalog.checkpoint):
        with pytest.raises(CollectionError, match="was closed: open it again"):
            ask()
