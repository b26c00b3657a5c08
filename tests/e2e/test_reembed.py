"""`mmsearch index --reembed`, as a person would run it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mmsearch.catalog.binding import spec_to_text
from mmsearch.collection.collection import Collection
from mmsearch.collection.manifest import write_manifest
from mmsearch.encoders import DEFAULT_ENCODER
from tests.support import PHOTOS

COMMAND = str(Path(sys.executable).parent / "mmsearch")
COUNT = 12


def call(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "MMSEARCH_HOME": str(home), **environment}
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, env=env, timeout=120, check=False)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Return a home with a collection of twelve photographs with captions, of an encoder that no longer ships."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in sorted(PHOTOS.glob("*.jpg"))[:COUNT]:
        shutil.copy2(path, photos)
        (photos / path.with_suffix(".txt").name).write_text(f"it is called {path.stem}")
    assert call(tmp_path, "index", str(photos), "-q").returncode == 0
    with Collection.open(tmp_path / "collections" / "default") as opened:
        spec = replace(opened.spec, uri="compact:v0", fingerprint="0" * 64)
        with opened.catalog.transaction() as transaction:
            transaction.set_fact("fingerprint", spec.fingerprint)
            transaction.set_fact("encoder", spec_to_text(spec))
        write_manifest(opened.layout, opened.uuid, spec, replace=True)
    return tmp_path


def test_from_the_hint_to_the_same_answers(old: Path) -> None:
    refused = call(old, "query", "a red car")
    assert (refused.returncode, refused.stdout) == (8, "")
    assert "is bound to compact:v0, which cannot be loaded here" in refused.stderr
    assert "'mmsearch index --reembed', which keeps all its items." in refused.stderr
    listed = call(old, "list", "--json").stdout
    told = call(old, "index", "--reembed", "--dry-run")
    counts = f"{COUNT} pictures and {COUNT} captions would be embedded, to move from compact:v0 to {DEFAULT_ENCODER}"
    assert (told.returncode, told.stdout, told.stderr) == (0, f"{counts}\n", "")
    done = call(old, "index", "--reembed")
    assert done.returncode == 0, done.stderr
    moved = f"moved from compact:v0 to {DEFAULT_ENCODER}: {COUNT} pictures and {COUNT} captions embedded in "
    assert done.stdout.startswith(moved)
    assert "the slowest is" in done.stderr
    assert call(old, "list", "--json").stdout == listed
    assert call(old, "verify").returncode == 0
    again = call(old, "index", "--reembed")
    sentence = f"the collection is of {DEFAULT_ENCODER} already: nothing to do\n"
    assert (again.returncode, again.stdout, again.stderr) == (0, sentence, "")
    assert call(old, "index").stdout.startswith(f"{2 * COUNT} unchanged")
    fresh = call(old, "index", str(old / "photos"), "-q", "-c", "fresh")
    assert fresh.returncode == 0
    both = [call(old, "query", "a red car", "--json", "-c", name).stdout for name in ("default", "fresh")]
    scores = [[(hit["uri"], round(hit["similarity"], 3)) for hit in json.loads(one)["hits"]] for one in both]
    assert scores[0] == scores[1]


def test_in_json_and_when_it_cannot_be_done(old: Path) -> None:
    (old / "photos").rename(old / "unmounted")
    done = call(old, "index", "--reembed", "--json", "-q")
    report = json.loads(done.stdout)
    assert (done.returncode, report["switched"], report["away"]) == (13, False, {str(old / "photos"): COUNT})
    assert report["embedded"] == {"image": 0, "text": COUNT}
    assert f"mmsearch: {COUNT} pictures of {old / 'photos'} cannot be read now" in done.stderr
    (old / "unmounted").rename(old / "photos")
    report = json.loads(call(old, "index", "--reembed", "--json", "-q").stdout)
    assert (report["switched"], report["encoder"]) == (True, DEFAULT_ENCODER)
    assert (report["embedded"], report["taken_over"]["text"]) == ({"image": COUNT, "text": 0}, COUNT)


@pytest.mark.parametrize(
    "arguments", [["/x"], ["--watch"], ["--rehash"], ["--min-size", "0"], ["--exclude", "x"], ["--index", "flat"]]
)
def test_it_goes_with_few_other_arguments(tmp_path: Path, arguments: list[str]) -> None:
    done = call(tmp_path, "index", "--reembed", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--reembed" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_a_collection(tmp_path: Path) -> None:
    done = call(tmp_path, "index", "--reembed")
    assert (done.returncode, "No collection yet" in done.stderr) == (3, True)
