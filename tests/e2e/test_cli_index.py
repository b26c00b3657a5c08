"""`mmsearch index` and what it builds, as a person or a script would run it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

from PIL import Image

from tests.e2e.test_cli import COMMAND, call, found
from tests.support import PHOTOS, make_folder, picture


def test_index_tells_what_it_did(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    make_folder(folder, 5)
    (folder / "broken.jpg").write_text("x")
    os.utime(folder / "broken.jpg", ns=(1, 1))
    dry = call(tmp_path, "index", str(folder), "--dry-run")
    assert "6 would be added" in dry.stdout
    done = call(tmp_path, "index", str(folder))
    assert done.returncode == 0
    assert done.stdout.startswith("5 added, 1 could not be read in ")
    assert "broken.jpg: cannot be read as a picture" in done.stderr
    again = call(tmp_path, "index", str(folder), "-q")
    assert again.stdout.startswith("5 unchanged, 1 skipped (unreadable before, unchanged since) in ")
    (folder / "p0000.png").rename(folder / "moved.png")
    (folder / "p0001.png").unlink()
    picture(70).save(folder / "p0002.png")
    assert call(tmp_path, "index").stdout.startswith("1 changed, 1 moved, 1 deleted, 2 unchanged")
    (tmp_path / "empty").mkdir()
    done = call(tmp_path, "index", str(tmp_path / "empty"), "-c", "empty")
    assert done.returncode == 1
    assert "no pictures or captions were found there" in done.stderr


def test_held_back_deletions_have_a_status_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    for path in make_folder(folder, 25):
        path.with_suffix(".txt").write_text(f"caption of {path.name}")
    assert call(tmp_path, "index", str(folder)).returncode == 0
    for path in folder.iterdir():
        if path.name != "p0000.png":
            path.unlink()
    done = call(tmp_path, "index", str(folder))
    assert done.returncode == 21
    assert "49 items, over half of a source, are no longer there; they were kept" in done.stderr
    assert call(tmp_path, "index", "--yes").stdout.startswith("49 deleted, 1 unchanged")


def test_ivfpq_on_demand(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    make_folder(folder, 120)
    done = call(tmp_path, "index", str(folder), "--index", "ivfpq", "--json")
    assert json.loads(done.stdout)["indexed"] == ["image"]  # FAISS has kept its warnings out of stdout
    done = call(tmp_path, "index", "--index", "ivfpq")
    assert "built the search index of the image vectors" in done.stdout
    facts = json.loads(call(tmp_path, "info", "--json").stdout)["modalities"]["image"]
    assert facts["index"].startswith("IVF")
    assert facts["recall_at_10"] >= 0.95
    assert "x4fs" in facts["index"]
    make_folder(folder, 5, first=120)
    (folder / "p0003.png").unlink()
    assert call(tmp_path, "index").returncode == 0
    for number in (4, 119, 122):
        done = call(tmp_path, "query", str(folder / f"p{number:04d}.png"), "-k", "1", "--json")
        assert found(done) == [f"p{number:04d}.png"]
    assert len(found(call(tmp_path, "query", "a thing", "-k", "500", "--json"))) == 124
    assert call(tmp_path, "verify").returncode == 0
    assert call(tmp_path, "index", "--index", "flat").returncode == 0
    assert json.loads(call(tmp_path, "info", "--json").stdout)["modalities"]["image"]["index"] == "Flat"
    assert not list(tmp_path.rglob("index.faiss"))


def test_damage_is_found_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    make_folder(folder, 100)
    call(tmp_path, "index", str(folder), "--index", "ivfpq")
    file = next(tmp_path.rglob("index.faiss"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    done = call(tmp_path, "verify")
    assert done.returncode == 20
    assert "does not have the SHA-256" in done.stdout
    file.unlink()
    done = call(tmp_path, "query", "a thing")
    assert done.returncode == 0
    assert "index.faiss is missing: run 'mmsearch build'. Until then search is exact." in done.stderr


def test_interrupt_keeps_what_is_done_and_the_next_run_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    make_folder(folder, 400)
    env = {**os.environ, "MMSEARCH_HOME": str(tmp_path)}
    child = subprocess.Popen([COMMAND, "index", str(folder)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    catalog = tmp_path / "collections" / "default" / "mmsearch.json"
    while not catalog.exists():
        time.sleep(0.05)
    time.sleep(1.5)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert b"everything so far is kept" in err
    kept = json.loads(call(tmp_path, "info", "--json").stdout)["modalities"]["image"]["items"]
    assert f"{kept} added".encode() in out
    report = json.loads(call(tmp_path, "index", "--json").stdout)
    assert report["embedded"]["image"] == 400 - kept
    assert report["kept"] == kept


def test_second_writer_is_refused_within_a_second(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    make_folder(folder, 2)
    call(tmp_path, "index", str(folder))
    import filelock

    with filelock.FileLock(tmp_path / "collections" / "default" / "writer.lock"):
        done = call(tmp_path, "index", str(folder))
        assert done.returncode == 4
        assert "Another process is writing" in done.stderr
        assert call(tmp_path, "query", "a thing").returncode == 0


def test_formats_of_real_files(tmp_path: Path) -> None:
    """Every format that Pillow writes here is found by the picture in it."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    shot = Image.open(PHOTOS / "tabby-cat.jpg")
    for suffix in ("webp", "png", "tiff", "bmp", "gif", "jp2", "ppm", "avif", "JPG"):
        shot.save(folder / f"cat.{suffix}")
    shot.convert("CMYK").save(folder / "cmyk.jpg")
    shot.convert("L").save(folder / "grey.pgm")
    shutil.copy(PHOTOS / "striped-planet.jpg", folder)
    done = call(tmp_path, "index", str(folder), "--json")
    assert json.loads(done.stdout)["added"] == 12, done.stdout
    names = found(call(tmp_path, "query", "a cat", "-k", "11", "--json"))
    assert "striped-planet.jpg" not in names


def test_a_folder_with_nothing_but_a_broken_picture_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "broken.jpg").write_text("x")
    done = call(tmp_path, "index", str(tmp_path / "pictures"))
    assert done.returncode == 12
    assert re.match(r"1 could not be read in \d", done.stdout)
    assert "no pictures" not in done.stderr
