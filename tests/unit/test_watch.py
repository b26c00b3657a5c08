"""Watching: what changes is soon in the collection, with as little scanning as can be, whatever goes away meanwhile."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import filelock
import pytest

from indexer import IndexReport, index
from indexer.patterns import FolderOptions
from indexer.watch import watch
from mmsearch.collection.collection import Collection
from mmsearch.collection.maintenance import verify
from mmsearch.collection.removal import remove
from mmsearch.errors import MissingExtra, SourceError
from tests.support import ToyEncoder, make_folder, picture, run, uris

pytest.importorskip("watchfiles")
PATIENCE = 60.0


class Watching:
    """A watch in a thread; `rounds` are the places of each run."""

    def __init__(self, place: Path, toy: ToyEncoder, *sources: Path) -> None:
        self.rounds: list[list[str]] = []
        self.at_the_end: list[Callable[[], object]] = []
        self.stop = threading.Event()
        self.error: BaseException | None = None
        self._ready = threading.Event()
        self._place, self._toy, self._sources = place, toy, sources
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        try:
            watch(self._run, self._sources, collection=self._place, stop=self.stop, ready=self._ready.set)
        except BaseException as error:  # noqa: BLE001 - told by __exit__
            self.error = error

    def _run(self, places: Sequence[str]) -> IndexReport:
        report = index(list(places), collection=self._place, encoder=self._toy)
        assert report.failed == []
        self.rounds.append(list(places))
        while self.at_the_end:
            self.at_the_end.pop()()
        return report

    def __enter__(self) -> Watching:
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "it stops when it is told to"
        assert self.error is None
        with Collection.open(self._place) as opened:
            assert verify(opened).problems == ()


def soon(condition: Callable[[], bool]) -> None:
    """Wait until something is so; how long that may take is measured by benchmarks.many_files."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < PATIENCE, "it did not come about"
        time.sleep(0.05)


def has(place: Path, name: str) -> bool:
    return name in uris(place)


@pytest.fixture
def watching(tmp_path: Path, place: Path, toy: ToyEncoder) -> Iterator[Watching]:
    """Return a watch of photos/, with two pictures in a/ and one in b/, and of a corpus beside it."""
    make_folder(tmp_path / "photos" / "a", 2)
    make_folder(tmp_path / "photos" / "b", 1, first=10)
    (tmp_path / "c.jsonl").write_text('{"text": "one"}\n')
    with Watching(place, toy, tmp_path / "photos", tmp_path / "c.jsonl") as running:
        yield running


def test_changes_are_indexed_where_they_are(watching: Watching, tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    photos = tmp_path / "photos"
    assert watching.rounds == [[str(tmp_path / "c.jsonl"), str(photos)]]
    make_folder(photos / "a", 3)
    soon(lambda: "p0002.png" in uris(place))
    (photos / "b" / "p0010.png").rename(photos / "a" / "moved.png")
    soon(lambda: "moved.png" in uris(place))
    (photos / "a" / "p0000.png").unlink()
    soon(lambda: "p0000.png" not in uris(place))
    make_folder(photos / "new" / "deep", 1, first=20)
    soon(lambda: "p0020.png" in uris(place))
    shutil.rmtree(photos / "new")
    soon(lambda: "p0020.png" not in uris(place))
    assert set(uris(place)) == {"moved.png", "p0001.png", "p0002.png"}
    assert watching.rounds[1] == [str(photos / "a")], "only the folder that changed is scanned"
    assert toy.images == 5, "and what was moved is not embedded again"


def test_every_change_is_a_round_of_its_own(watching: Watching, tmp_path: Path, place: Path) -> None:
    for number in range(60, 63):
        time.sleep(0.3 * (number - 59))  # at another moment of the watcher's beat each time
        make_folder(tmp_path / "photos" / "a", 1, first=number)
        soon(partial(has, place, f"p{number:04d}.png"))
    soon(lambda: len(watching.rounds) == 4)


def test_a_corpus_is_read_again_when_it_changes(watching: Watching, tmp_path: Path, place: Path) -> None:
    (tmp_path / "c.new").write_text('{"text": "one"}\n{"text": "two"}\n')
    (tmp_path / "c.new").replace(tmp_path / "c.jsonl")
    soon(lambda: len(watching.rounds) > 1)
    assert watching.rounds[1:] == [[str(tmp_path / "c.jsonl")]]


def test_what_changes_while_it_indexes_is_indexed_after_that(watching: Watching, tmp_path: Path, place: Path) -> None:
    corpus, photos = tmp_path / "c.jsonl", tmp_path / "photos"
    watching.at_the_end += [
        lambda: corpus.write_text('{"text": "three"}\n'),
        lambda: make_folder(photos / "b", 2, first=10),
    ]
    make_folder(photos / "a", 3)
    soon(lambda: [str(corpus), str(photos / "b")] in watching.rounds)
    assert {"p0002.png", "p0011.png"} <= set(uris(place))


def test_what_no_scan_would_see_wakes_nobody(watching: Watching, tmp_path: Path) -> None:
    (tmp_path / "photos" / ".hidden.png").write_text("x")
    (tmp_path / "photos" / "a" / "notes.log").write_text("x")
    time.sleep(2.5)
    assert len(watching.rounds) == 1


def test_a_source_that_goes_away_is_waited_for(watching: Watching, tmp_path: Path, place: Path) -> None:
    photos = tmp_path / "photos"
    photos.rename(tmp_path / "away")
    time.sleep(2.5)
    assert len(uris(place)) == 3, "nothing of it is forgotten"
    make_folder(tmp_path / "away", 1, first=30)
    (tmp_path / "away").rename(photos)
    soon(lambda: "p0030.png" in uris(place))
    make_folder(photos, 1, first=31)
    soon(lambda: "p0031.png" in uris(place))


def test_another_writer_is_waited_for(watching: Watching, tmp_path: Path, place: Path) -> None:
    with filelock.FileLock(place / "writer.lock"):
        make_folder(tmp_path / "photos" / "a", 1, first=40)
        time.sleep(2.5)
        assert "p0040.png" not in uris(place)
    soon(lambda: "p0040.png" in uris(place))


def test_a_source_that_was_removed_is_left_alone(watching: Watching, tmp_path: Path, place: Path) -> None:
    with Collection.open(place) as opened:
        remove(opened, [str(tmp_path / "photos")])
    make_folder(tmp_path / "photos" / "a", 1, first=50)
    time.sleep(2.5)
    assert uris(place) == {}


def test_patterns_hold_and_a_burst_is_one_round(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    photos = tmp_path / "photos"
    make_folder(photos, 1)
    run(place, toy, photos, folder=FolderOptions(exclude=("raw",)))
    with Watching(place, toy) as running:  # all that was indexed before
        make_folder(photos / "raw", 1, first=5)
        for number in range(10, 16):
            picture(number).save(photos / f"burst{number}.png")
            time.sleep(0.1)
        soon(lambda: len(uris(place)) == 7)
        soon(lambda: len(running.rounds) == 2)
        picture(3).save(photos / "raw" / "more.png")
        time.sleep(2.0)
        assert len(running.rounds) == 2


def test_nothing_to_watch(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    make_folder(tmp_path / "photos", 1)
    run(place, toy, tmp_path / "photos")
    (tmp_path / "photos").rename(tmp_path / "away")
    with pytest.raises(SourceError, match="No source of the collection is there to be watched"):
        watch(lambda places: pytest.fail("run"), collection=place, stop=threading.Event())


def test_without_watchfiles_the_extra_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with pytest.raises(MissingExtra, match=r"pip install \"mmsearch\[cpu,watch\]\""):
        watch(lambda places: pytest.fail("run"), collection=place, stop=threading.Event())
