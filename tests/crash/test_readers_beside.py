"""Readers in threads and a process beside a writer that commits, seals, compacts and collects: none of them fails."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mmsearch.catalog.rows import NewItem
from mmsearch.collection.collection import Collection
from mmsearch.collection.compaction import compact
from mmsearch.collection.maintenance import maintain, verify
from mmsearch.engine.engine import SearchEngine
from mmsearch.errors import CollectionLocked
from mmsearch.types import Modality
from tests.support import ROOT, ToyEncoder, random_units

BATCH = 7  # pictures come and go by so many, so a reader that sees another number has seen half a commit
COMMITS = 24  # the first compaction is at 18, the second kind of index at 12
SEARCHES = 10  # of each reader at least, however slow the machine

READER = """
import sys, threading
from pathlib import Path
from mmsearch.collection.collection import Collection
from mmsearch.engine.engine import SearchEngine
from tests.support import ToyEncoder, random_units
place, batch = Path(sys.argv[1]), int(sys.argv[2])
query = random_units(1, 192, seed=3)[0]
searches, done = 0, threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), done.set()), daemon=True).start()
while searches < int(sys.argv[3]) or not done.is_set():
    with SearchEngine(Collection.open(place), ToyEncoder()) as engine:
        for _ in range(5):
            hits = engine.search(vector=query, k=5000)
            assert len(hits) % batch == 0, len(hits)
            searches += 1
print(searches)
"""


def write(place: Path, enough: Callable[[int], bool]) -> None:
    """Commit, seal, build, compact and collect until there were enough commits."""
    vectors, commits = random_units(4000, 192, seed=5), 0
    with Collection.open(place) as collection:
        while not enough(commits):
            with collection.writer() as writer:
                (root,) = collection.catalog.roots()
                for _ in range(6):
                    for number in range(BATCH * commits, BATCH * commits + BATCH):
                        path = f"/pictures/{number:06d}.png"
                        item = NewItem(path, Modality.IMAGE, path, path, number.to_bytes(32, "big"), 1, 2, 3)
                        writer.put(item, root, vectors[number % len(vectors)])
                    if commits >= 12:
                        gone = range(BATCH * (commits - 12), BATCH * (commits - 11))
                        known = [writer.known_item(f"/pictures/{number:06d}.png") for number in gone]
                        writer.delete(item.id for item in known if item is not None)
                    writer.commit()
                    commits += 1
                maintain(collection, writer, kind=("ivfpq", "flat")[commits // 6 % 2], recall=0.5)
                if commits % 18 == 0:
                    compact(collection, writer)


def test_nobody_fails_or_sees_half_a_commit(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmsearch.collection.writer.SEAL_ROWS", 20)
    monkeypatch.setattr("mmsearch.collection.compaction.MERGE_FROM", 2)
    with Collection.create(place, ToyEncoder().spec) as collection, collection.writer() as writer:
        writer.root("folder", "/pictures")
    query = random_units(1, 192, seed=3)[0]
    done = threading.Event()
    failures: list[BaseException] = []
    searches = [0, 0, 0]

    def read(number: int, engine: SearchEngine) -> None:
        try:
            while not done.is_set():
                hits = engine.search(vector=query, k=5000)
                assert len(hits) % BATCH == 0, len(hits)
                searches[number] += 1
        except BaseException as error:  # noqa: BLE001 - a thread cannot fail a test, so it is kept and asserted on below
            failures.append(error)

    command = [sys.executable, "-c", READER, str(place), str(BATCH), str(SEARCHES)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    with SearchEngine(Collection.open(place), ToyEncoder()) as engine:
        threads = [threading.Thread(target=read, args=(number, engine)) for number in range(3)]
        for thread in threads:
            thread.start()
        try:
            write(place, lambda commits: failures != [] or (commits >= COMMITS and min(searches) >= SEARCHES))
        finally:
            done.set()
            out, err = process.communicate(timeout=120)  # closes its stdin, which ends it
            for thread in threads:
                thread.join()
        assert failures == []
        assert verify(engine.collection).problems == ()
    assert process.returncode == 0, err
    assert int(out) >= SEARCHES


def test_a_second_writer_is_told_within_a_second(place: Path) -> None:
    with Collection.create(place, ToyEncoder().spec) as first, Collection.open(place) as second, first.writer():
        started = time.monotonic()
        with pytest.raises(CollectionLocked, match="Another process is writing"), second.writer():
            pass
        assert time.monotonic() - started < 1.0  # it does not wait
