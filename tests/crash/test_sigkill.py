"""Kill an indexing run at random moments: nothing committed is lost, embedded again or damaged."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

from mmsearch.collection.collection import Collection
from mmsearch.collection.maintenance import verify
from mmsearch.engine.engine import SearchEngine
from mmsearch.errors import CollectionNotFound
from mmsearch.types import Modality
from tests.support import ROOT, make_folder

PICTURES = 1000
KILLS = 25


def committed(place: Path) -> set[str]:
    """Return the keys of the committed pictures, after opening, verifying and searching the collection."""
    try:
        opened = Collection.open(place)
    except CollectionNotFound:
        return set()
    with opened:
        assert verify(opened).problems == ()
        keys = {item.key for root in opened.catalog.roots() for item in opened.catalog.known_items(root.id)}
        if keys:
            with SearchEngine(opened) as engine:
                some = min(key for key in keys if Path(key).exists())
                hit = engine.search(image=some, k=1)[0]
                assert (hit.item.uri, round(hit.similarity, 2)) == (some, 1.0)
                assert len(engine.search("a picture", k=len(keys) + 1)) == len(keys)
        return keys


def start(folder: Path, place: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.crash.indexing_child", str(folder), str(place), str(log)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def test_killed_at_random_moments(tmp_path: Path) -> None:
    folder, place = tmp_path / "pictures", tmp_path / "c"
    make_folder(folder, PICTURES)
    rng = random.Random(20261122)
    before: set[str] = set()
    kills = finished = progressed = 0
    while kills < KILLS:
        log = tmp_path / f"run-{kills}-{finished}.log"
        child = start(folder, place, log)
        if rng.random() < 0.8:  # most kills hit a run that has done some work, however slow the machine
            work = rng.randrange(PICTURES // 3)
            while child.poll() is None and not (log.exists() and len(log.read_text().splitlines()) > work):
                time.sleep(0.01)
            time.sleep(rng.uniform(0.0, 0.3))
        else:
            time.sleep(rng.uniform(0.0, 2.5))
        child.kill()
        _, err = child.communicate(timeout=60)
        if child.returncode == 0:  # it was faster: begin again, to be killed while it deletes and builds
            finished += 1
            for path in sorted(folder.iterdir())[::3]:
                path.unlink()
            make_folder(folder, PICTURES // 3, first=PICTURES * finished)
        else:
            assert child.returncode == -9, err.decode()
            kills += 1
        embedded = log.read_text().splitlines() if log.exists() else []
        assert not before & set(embedded), "a committed row was embedded again"
        assert len(embedded) == len(set(embedded))
        now = committed(place)
        progressed += child.returncode != 0 and now != before
        assert {key for key in before if Path(key).exists()} <= now, "a committed item was lost"
        before = now
    assert progressed >= 8, "the kills came too early or too late to tell anything"
    log = tmp_path / "last.log"
    child = start(folder, place, log)
    _, err = child.communicate(timeout=300)
    assert child.returncode == 0, err.decode()
    names = {str(path) for path in folder.iterdir()}
    after = committed(place)
    assert after == names
    embedded = set(log.read_text().splitlines()) if log.exists() else set()
    assert not before & embedded
    with Collection.open(place) as opened:
        part = opened.info().modalities[Modality.IMAGE]
        assert (part.items, part.vectors) == (len(names), len(names))
        assert part.segments > 0
        assert "IVF" in part.index
