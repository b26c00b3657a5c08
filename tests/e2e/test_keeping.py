"""The commands of years of use, as a person would run them: list, remove, relocate, export, import, watch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import make_folder, picture

COMMAND = str(Path(sys.executable).parent / "mmsearch")


def call(home: Path, *arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "MMSEARCH_HOME": str(home), **environment}
    return subprocess.run(
        [COMMAND, *arguments], capture_output=True, text=True, cwd=cwd, env=env, timeout=120, check=False
    )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return an indexed folder: a/ with 22 pictures, one of them with captions, b/ with 3, and a broken file."""
    photos = tmp_path / "photos"
    make_folder(photos / "a", 22)
    make_folder(photos / "b", 3, first=30)
    (photos / "a" / "p0001.txt").write_text("one\ntwo\n")
    (photos / "broken.png").write_text("x")
    for path in photos.rglob("*.*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    done = call(tmp_path, "index", str(photos), "-q")
    assert done.returncode == 0, done.stderr
    return photos


def test_list(tmp_path: Path, photos: Path) -> None:
    done = call(tmp_path, "list", cwd=photos)
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr, len(lines)) == (0, "", 25)
    assert lines[1] == "      32 × 24   2 captions  a/p0001.png"
    below = json.loads(call(tmp_path, "list", str(photos / "b"), "--json").stdout)["items"]
    assert [Path(item["uri"]).name for item in below] == ["p0030.png", "p0031.png", "p0032.png"]
    assert (below[0]["width"], below[0]["captions"], "latitude" in below[0]) == (32, [], False)
    with_gps = json.loads(call(tmp_path, "list", "b", "--jsonl", "--gps", cwd=photos).stdout.splitlines()[0])
    assert with_gps["latitude"] is None
    paths = call(tmp_path, "list", "--paths", "-0").stdout
    assert paths == "".join(f"{path}\0" for path in sorted(str(p) for p in photos.glob("*/*.png")))
    texts = [json.loads(line) for line in call(tmp_path, "list", "-t", "text", "--jsonl").stdout.splitlines()]
    assert [text["text"] for text in texts] == ["one", "two"]
    failures = json.loads(call(tmp_path, "list", "--failures", "--json").stdout)["failures"]
    assert [failure["path"] for failure in failures] == [str(photos / "broken.png")]
    assert "cannot be read as a picture" in failures[0]["reason"]
    (root,) = json.loads(call(tmp_path, "list", "--roots", "--json").stdout)["roots"]
    assert root == {"path": str(photos), "kind": "folder", "items": 27, "options": ""}
    nothing = call(tmp_path, "list", "/nowhere")
    assert (nothing.returncode, nothing.stdout, nothing.stderr) == (1, "", "mmsearch: nothing found.\n")
    assert call(tmp_path, "list", "--json", "--paths").returncode == 2


def test_remove(tmp_path: Path, photos: Path) -> None:
    done = call(tmp_path, "remove", str(photos / "a"))
    assert (done.returncode, done.stdout) == (21, "")
    assert "24 items, over half of the collection, would be forgotten; nothing was." in done.stderr
    unknown = call(tmp_path, "remove", "/nowhere")
    assert (unknown.returncode, unknown.stdout) == (13, "")
    assert unknown.stderr == "mmsearch: Nothing at /nowhere is in the collection: 'mmsearch list' shows what is.\n"
    done = call(tmp_path, "remove", str(photos / "b"))
    assert done.stdout == "forgot 3 items; no file was touched\n"
    advice = f"mmsearch index {photos} --exclude /b"
    assert f"the next 'mmsearch index' adds {photos / 'b'} again" in done.stderr
    assert advice in done.stderr
    assert call(tmp_path, *advice.split()[1:]).stdout.startswith("24 unchanged, 1 skipped")
    done = call(tmp_path, "remove", str(photos), "--yes")
    assert (done.returncode, done.stdout) == (0, "forgot 24 items, 1 failure, 1 source; no file was touched\n")
    assert len(list(photos.rglob("*.png"))) == 26


def test_relocate_then_index(tmp_path: Path, photos: Path) -> None:
    missing = call(tmp_path, "relocate", str(photos), str(tmp_path / "new"))
    assert missing.returncode == 13
    assert "is not there: move the files first, or say --missing-ok" in missing.stderr
    photos.rename(tmp_path / "new")
    done = call(tmp_path, "relocate", str(photos), str(tmp_path / "new"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "relocated 27 items, 1 failure, 1 source\n", "")
    report = json.loads(call(tmp_path, "index", "--json").stdout)
    assert (report["kept"], report["skipped"], report["added"], report["deleted"]) == (27, 1, 0, 0)
    assert report["embedded"] == {"image": 0, "text": 0}


def test_export_and_import(tmp_path: Path, photos: Path) -> None:
    file = tmp_path / "photos.tar"
    done = call(tmp_path, "export", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"exported 27 items to {file} (")
    again = call(tmp_path, "export", str(file))
    assert (again.returncode, again.stdout) == (7, "")
    assert "is there already: name another file, or say --force" in again.stderr
    assert call(tmp_path, "export", str(file), "--force").returncode == 0
    taken = call(tmp_path, "import", str(file))
    assert (taken.returncode, taken.stdout) == (7, "")
    photos.rename(tmp_path / "elsewhere")
    done = call(tmp_path, "import", str(file), "-c", "copy")
    assert done.stdout.startswith("imported 27 items into ")
    assert f"mmsearch relocate {photos} NEW" in done.stderr
    assert call(tmp_path, "verify", "-c", "copy").returncode == 0
    assert call(tmp_path, "relocate", str(photos), str(tmp_path / "elsewhere"), "-c", "copy").returncode == 0
    query = [str(tmp_path / "elsewhere" / "b" / "p0031.png"), "-k", "1", "--paths"]
    assert call(tmp_path, "query", *query, "-c", "copy").stdout.strip() == query[0]
    file.write_bytes(file.read_bytes()[:5000])
    done = call(tmp_path, "import", str(file), "-c", "another")
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.startswith(f"mmsearch: {file} cannot be imported (")
    assert not (tmp_path / "collections" / "another").exists()
    missing = call(tmp_path, "import", str(tmp_path / "none.tar"), "-c", "another")
    assert (missing.returncode, "No such file" in missing.stderr) == (17, True)


def test_patterns_and_sizes_are_kept(tmp_path: Path, photos: Path) -> None:
    picture(99, (300, 200)).save(photos / "large.png")
    done = call(tmp_path, "index", str(photos), "--exclude", "b/", "--min-size", "100")
    assert done.returncode == 21, "22 of 27 would go"
    done = call(tmp_path, "index", "--yes")
    assert (done.returncode, "25 deleted" in done.stdout, "22 too small" in done.stdout) == (0, True, True)
    assert Path(call(tmp_path, "list", "--paths").stdout.strip()).name == "large.png"
    done = call(tmp_path, "index", str(photos), "--exclude", "../x")
    assert (done.returncode, done.stdout) == (13, "")
    assert "The pattern '../x' matches nothing" in done.stderr
    assert call(tmp_path, "index", "--exclude", "x").returncode == 13


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watch(tmp_path: Path, number: signal.Signals) -> None:
    pytest.importorskip("watchfiles")
    photos = tmp_path / "photos"
    make_folder(photos, 2)
    env = {**os.environ, "MMSEARCH_HOME": str(tmp_path)}
    with subprocess.Popen(
        [COMMAND, "index", str(photos), "--watch"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline().startswith("2 added")
        picture(50).save(photos / "later.png")
        assert child.stdout.readline().startswith("1 added")
        assert "later.png" in call(tmp_path, "list", "--paths").stdout
        done = call(tmp_path, "index", "-q")
        assert done.returncode == 0, "another may write in between"
        child.send_signal(number)
        _, errors = child.communicate(timeout=30)
        assert (child.returncode, "Traceback" in errors) == (0, False), errors
        assert "watching; Ctrl-C ends it" in errors


def test_watch_goes_with_neither_json_nor_dry_run(tmp_path: Path) -> None:
    assert call(tmp_path, "index", ".", "--watch", "--json").returncode == 2
    assert call(tmp_path, "index", ".", "--watch", "--dry-run").returncode == 2
