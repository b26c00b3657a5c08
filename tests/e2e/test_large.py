"""`mmsearch build` and `mmsearch merge` as a person runs them, over data/photos."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.e2e.test_cli import call
from tests.support import PHOTOS


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home with two collections, each of half of the photographs."""
    home = tmp_path_factory.mktemp("large-home")
    names = sorted(path.name for path in PHOTOS.glob("*.jpg"))
    for part, some in (("one", names[::2]), ("two", names[1::2])):
        (home / part).mkdir()
        for name in some:
            shutil.copy(PHOTOS / name, home / part / name)
        assert call(home, "index", str(home / part), "--collection", part, "-q").returncode == 0
    return home


def test_parts_are_merged_and_searched_together(home: Path) -> None:
    done = call(home, "merge", "all", "one", "two")
    assert done.returncode == 0, done.stderr
    count = len(list(PHOTOS.glob("*.jpg")))
    assert done.stdout == f"{count} added\n"
    assert call(home, "merge", "all", "one", "two").stdout == f"{count} kept as they were\n"
    hits = json.loads(call(home, "query", "a red car", "-c", "all", "-k", "3", "--json").stdout)["hits"]
    assert Path(hits[0]["uri"]).name == "red-car.jpg"
    assert call(home, "verify", "-c", "all").returncode == 0
    itself = call(home, "merge", "all", "all")
    assert "into itself" in itself.stderr
    assert call(home, "merge", "all", "nothing").returncode == 3


def test_an_index_is_built_and_told(home: Path) -> None:
    assert call(home, "merge", "built", "one", "two").returncode == 0
    done = call(home, "build", "-c", "built", "--index", "IVF2,PQ96x4fs", "--recall", "0.9")
    assert done.returncode == 0, done.stderr
    assert "index IVF2,PQ96x4fs, recall@10 " in done.stdout
    assert "on 300 everyday queries, with nprobe " in done.stdout
    info = json.loads(call(home, "info", "-c", "built", "--json").stdout)["modalities"]["image"]
    assert min(info["recall_at_10"], info["recall_across"]) >= 0.9
    flat = call(home, "build", "-c", "built", "--index", "flat")
    assert (flat.returncode, "there is no index to build" in flat.stderr) == (0, True)
    wrong = call(home, "build", "-c", "built", "--index", "hnsw")
    assert wrong.returncode == 2
    assert "There is no index kind 'hnsw'" in wrong.stderr
