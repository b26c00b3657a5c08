"""Situations of collections, and of what is installed beside them."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest

from tests.e2e.situations import NO_PRIVILEGES, SMALL_DISK, Case, Done, situation
from tests.support import ROOT, SHIPPED, make_folder

# --- collections ----------------------------------------------------------------------------------------------------


@situation
def locked(case: Case) -> Done:
    holder = "import filelock, sys; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(); input()"
    words = [sys.executable, "-c", holder, str(case.collection / "writer.lock")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(case.collection / "writer.lock", timeout=0).acquire()
        done = case.run("index")
        assert case.run("query", "x").returncode == 0
        child.communicate("\n")
    return done


@situation
def other_encoder(case: Case) -> Done:
    case.other_collection("toys", uri="toy:1", fingerprint="0" * 64)
    return case.run("index", case.pictures, "--collection", "toys", "--encoder", "compact")


@situation
def other_weights(case: Case) -> Done:
    case.other_collection("older", fingerprint="0" * 64)
    return case.run("query", "x", "--collection", "older")


@situation
def encoder_gone(case: Case) -> Done:
    case.other_collection("older", uri="compact:v0", fingerprint="0" * 64)
    for works in ("info", "list", "verify"):
        assert "cannot be loaded" not in case.run(works, "--collection", "older").stderr
    indexing = case.run("index", case.pictures, "--collection", "older")
    done = case.run("query", "x", "--collection", "older")
    assert (indexing.returncode, indexing.stderr) == (done.returncode, done.stderr)
    command = done.stderr.split("'mmsearch ")[1].split("'")[0]
    assert case.run(*command.split()).returncode == 0
    return done


@situation
def moved_meanwhile(case: Case) -> Done:
    case.toy_collection("toys")
    patch = (
        "from indexer import reembed\n"
        "from mmsearch.collection.collection import Collection\n"
        "opened = Collection.open\n"
        "def open_and_move(path):\n"
        "    found, Collection.open = opened(path), opened\n"
        "    reembed(path)\n"
        "    return found\n"
        "Collection.open = open_and_move"
    )
    return case.run("info", "--collection", "toys", patch=patch)


@situation
def reembed_path(case: Case) -> Done:
    return case.run("index", "--reembed", case.pictures)


@situation
def reembed_away(case: Case) -> Done:
    case.toy_collection("toys").rename(case.tmp / "unmounted")
    return case.run("index", "--reembed", "--collection", "toys")


@situation
def reembed_held(case: Case) -> Done:
    for path in case.toy_collection("toys").glob("*.png"):
        path.unlink()
    return case.run("index", "--reembed", "--collection", "toys")


@situation
def reembed_interrupted(case: Case) -> Done:
    case.toy_collection("toys", 100)
    command = case.command("index", "--reembed", "--collection", "toys")
    with subprocess.Popen(command, env=case.env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        while not (case.home / "collections" / "toys" / "catalog.sqlite3-wal").exists():
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert "still of toy:1" in out
    assert json.loads(case.run("info", "--json", "--collection", "toys").stdout)["encoder"]["uri"] == "toy:1"
    return Done(child.args, child.returncode, out, err)


@situation
def newer_format(case: Case) -> Done:
    case.spoil(case.collection / "mmsearch.json", lambda data: data.replace(b'"version": 1', b'"version": 99'))
    return case.run("query", "x")


@situation
def newer_catalog(case: Case) -> Done:
    catalog = case.collection / "catalog.sqlite3"
    case.spoil(catalog, lambda data: data)
    connection = sqlite3.connect(catalog)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    return case.run("index")


@situation
def manifest_missing(case: Case) -> Done:
    case.spoil(case.collection / "mmsearch.json", lambda data: None)
    return case.run("query", "x")


@situation
def manifest_damaged(case: Case) -> Done:
    case.spoil(case.collection / "mmsearch.json", lambda data: data[:40])
    return case.run("index")


@situation
def catalog_missing(case: Case) -> Done:
    case.spoil(case.collection / "catalog.sqlite3", lambda data: None)
    return case.run("index")


@situation
def catalog_damaged(case: Case) -> Done:
    case.spoil(case.collection / "catalog.sqlite3", lambda data: b"damage" * (len(data) // 6))
    return case.run("query", "x")


@situation
def catalog_foreign(case: Case) -> Done:
    other = case.other_collection("other") / "catalog.sqlite3"
    case.spoil(case.collection / "catalog.sqlite3", lambda data: other.read_bytes())
    return case.run("index")


@situation
def segment_missing(case: Case) -> Done:
    case.with_vectors(3)
    case.spoil(next(case.collection.glob("vectors/image/*.npy")), lambda data: None)
    return case.run("query", "x")


@situation
def segment_truncated(case: Case) -> Done:
    case.with_vectors(3)
    case.spoil(next(case.collection.glob("vectors/image/*.npy")), lambda data: data[:1000])
    return case.run("query", "x")


@situation
def index_missing(case: Case) -> Done:
    case.with_vectors(100, kind="ivfpq")
    case.spoil(next(case.collection.rglob("index.faiss")), lambda data: None)
    done = case.run("query", case.pictures / "p0003.png", "-k", "1", "--paths")
    assert Path(done.stdout.strip()).name == "p0003.png"
    return done


@situation
def index_damaged(case: Case) -> Done:
    case.with_vectors(100, kind="ivfpq")
    case.spoil(next(case.collection.rglob("index.faiss")), lambda data: data[:2000] + b"\1" + data[2001:])
    done = case.run("query", case.pictures / "p0003.png", "-k", "1", "--paths")
    assert Path(done.stdout.strip()).name == "p0003.png"
    return done


@situation
def verify(case: Case) -> Done:
    case.with_vectors(3)
    case.spoil(next(case.collection.glob("vectors/image/*.npy")), lambda data: data[:-2] + b"\0\0")
    done = case.run("verify")
    assert "does not have the SHA-256" in done.stdout
    return done


@situation
def read_only(case: Case) -> Done:
    for path in [*case.collection.rglob("*"), case.collection]:
        case.forbid(path, 0o500 if path.is_dir() else 0o400)
    assert case.run("query", "x", first=NO_PRIVILEGES).returncode == 0
    return case.run("index", first=NO_PRIVILEGES)


@situation
def read_only_place(case: Case) -> Done:
    (case.tmp / "sealed").mkdir()
    case.forbid(case.tmp / "sealed", 0o500)
    done = case.run("index", case.pictures, "--collection", case.tmp / "sealed" / "new", first=NO_PRIVILEGES)
    assert list((case.tmp / "sealed").iterdir()) == []
    return done


def on_network(case: Case, place: Path) -> str:
    """Return a patch that makes a place look like a mount of NFS."""
    escaped = str(place).replace(" ", "\\040")
    mounts = case.file(
        "mountinfo",
        "21 1 8:1 / / rw,relatime - ext4 /dev/vda rw\n"
        f"99 21 0:50 / {escaped} rw,relatime shared:7 master:2 - nfs4 server:/export rw,vers=4.2\n",
    )
    return (
        "from pathlib import Path; from mmsearch.collection import filesystem;"
        f" filesystem.MOUNTS = Path({str(mounts)!r})"
    )


@situation
def network_place(case: Case) -> Done:
    (case.tmp / "a share").mkdir()
    patch = on_network(case, case.tmp / "a share")
    done = case.run("index", case.pictures, "--collection", case.tmp / "a share" / "new", patch=patch)
    assert list((case.tmp / "a share").iterdir()) == []
    return done


@situation
def network(case: Case) -> Done:
    patch = on_network(case, case.home)
    assert case.run("query", "x", patch=patch).returncode == 0
    return case.run("index", patch=patch)


@situation
def disk_full(case: Case) -> Done:
    make_folder(case.tmp / "more", 40, first=500)
    return case.run("index", case.tmp / "more", first=SMALL_DISK.format(bytes=60_000))


@situation
def disk_full_export(case: Case) -> Done:
    done = case.run("export", case.tmp / "photos.tar", first=SMALL_DISK.format(bytes=50_000))
    assert not list(case.tmp.glob("*photos.tar*"))
    return done


@situation
def other_files(case: Case) -> Done:
    letter = case.file("letter.txt")
    done = case.run("index", case.pictures, "--collection", case.tmp)
    assert letter.read_text() == "no picture at all"
    return done


@situation
def merge_itself(case: Case) -> Done:
    return case.run("merge", "default", "default")


@situation
def closed_folder(case: Case) -> Done:
    (case.tmp / "closed").mkdir()
    case.forbid(case.tmp / "closed", 0o500)
    return case.run("export", case.tmp / "closed" / "photos.tar", first=NO_PRIVILEGES)


@situation
def export_exists(case: Case) -> Done:
    there = case.file("photos.tar")
    done = case.run("export", there)
    assert there.read_text() == "no picture at all"
    return done


@situation
def import_exists(case: Case) -> Done:
    assert case.run("export", case.tmp / "photos.tar").returncode == 0
    return case.run("import", case.tmp / "photos.tar")


@situation
def import_foreign(case: Case) -> Done:
    done = case.run("import", case.file("photos.tar", "not one of ours" * 100), "--collection", "copy")
    assert [path.name for path in (case.home / "collections").iterdir()] == ["default"]
    return done


# --- what is installed ----------------------------------------------------------------------------------------------


@situation
def broken_encoder(case: Case) -> Done:
    package = case.tmp / "packages" / "outside-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[mmsearch.encoders]\nbroken = outside_encoders:load\n")
    (package.parent / "outside_encoders.py").write_text("def load(rest, device):\n    return 1 / 0\n")
    return case.run("index", case.pictures, "--collection", "new", "--encoder", "broken")


@situation
def weights_missing(case: Case) -> Done:
    folder = case.tmp / "weights" / SHIPPED
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "mmsearch" / "encoders" / "weights" / SHIPPED / "manifest.json", folder)
    patch = (
        "from pathlib import Path; from mmsearch.encoders import compact;"
        f" compact.WEIGHTS = Path({str(folder.parent)!r})"
    )
    return case.run("query", "x", patch=patch)


@situation
def missing_extra(case: Case) -> Done:
    return case.run("index", "--watch", patch="import sys; sys.modules['watchfiles'] = None")


@situation
def watch_limit(case: Case) -> Done:
    patch = (
        "import watchfiles\n"
        "def watch(*_, **__):\n    raise OSError(28, 'OS file watch limit reached')\n    yield\n"
        "watchfiles.watch = watch"
    )
    return case.run("index", "--watch", patch=patch)


@situation
def nothing_to_evaluate(case: Case) -> Done:
    return case.run("eval", "--collection", "default")
