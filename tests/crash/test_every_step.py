"""Every change of a collection is killed at every step that reaches the disk, and at random moments.

Whatever the step, the collection opens, is whole, holds what was committed, and the same command finishes the work.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from indexer import index
from mmsearch.collection.collection import Collection
from mmsearch.collection.portable import export_collection
from mmsearch.engine.engine import SearchEngine
from mmsearch.errors import CollectionNotFound
from mmsearch.types import Modality
from tests.compat.test_stored import problems_of
from tests.crash.scenarios import SCENARIOS, other_toy
from tests.support import ROOT, ToyEncoder, make_folder, picture

STORED = ROOT / "tests" / "compat" / "collection-v1"
MANY = 200


class Server:
    """The fork server of `scenarios`."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.crash.scenarios"]
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "MMSEARCH_THREADS": "1", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def play(
        self, name: str, world: World, *, kill_at: int = 0, kill_after: float = 0.0, limit: int = 0
    ) -> tuple[int, str]:
        """Return the status of the child (−9: killed) and what it said."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        told: dict[str, Any] = {"name": name, "place": str(world.place), "pictures": str(world.pictures)}
        told |= {"kill_at": kill_at, "kill_after": kill_after, "limit": limit}
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer["status"], answer["said"]

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()


@dataclass(frozen=True)
class World:
    """A collection and the pictures it is of, before a scenario."""

    place: Path
    pictures: Path

    def again(self, folder: Path) -> World:
        """Return a copy of the collection elsewhere; the pictures stay where they are."""
        shutil.rmtree(folder, ignore_errors=True)
        if self.place.exists():
            shutil.copytree(self.place, folder)
        return World(folder, self.pictures)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def world(tmp_path: Path, server: Server, request: pytest.FixtureRequest) -> World:
    """Return the state in which the scenario `request.param` begins."""
    name = request.param
    made = World(tmp_path / "begin", tmp_path / "pictures")
    if name == "upgrade":
        shutil.copytree(STORED, made.place)
        return made
    make_folder(made.pictures, 50)
    make_folder(made.pictures / "below", 40, first=100)
    for number in range(0, 30, 3):
        (made.pictures / f"p{number:04d}.txt").write_text(f"picture number {number}")
    assert server.play("index", made)[0] == 0
    for number in range(0, 30, 5):  # there are dead rows, then
        (made.pictures / f"p{number:04d}.png").unlink()
    make_folder(made.pictures / "below", 3, first=200)
    if name not in ("index", "watch"):
        assert server.play("index", made)[0] == 0
        with Collection.open(made.place) as collection:
            assert "IVF" in collection.info().modalities[Modality.IMAGE].index, "too few for an index"
    if name in ("index", "watch"):
        for number in range(100, 106):
            picture(500 + number).save(made.pictures / "below" / f"p{number:04d}.png")
        make_folder(made.pictures / "below", 25, first=300)
    if name == "repair":
        with Collection.open(made.place) as collection:
            segment = collection.catalog.state(collection.spec).modalities[Modality.IMAGE].segments[-1]
            path = collection.layout.path(segment.file)
        path.write_bytes(path.read_bytes()[:-50])
    if name == "reembed":
        (made.pictures / "p0001.png").unlink()
        picture(600).save(made.pictures / "p0002.png")
    if name == "import":
        with Collection.open(made.place) as collection:
            export_collection(collection, tmp_path / "exported.tar")
        shutil.rmtree(made.place)
    return made


def held(world: World) -> dict[str, str]:
    """Return the hash of each item's content by its key; nothing where there is no collection."""
    try:
        collection = Collection.open(world.place)
    except CollectionNotFound:
        return {}
    with collection:
        return {
            item.key: item.content_hash.hex()
            for root in collection.catalog.roots()
            for item in collection.catalog.known_items(root.id)
        }


def assert_whole(world: World, name: str) -> None:
    """The collection opens, verifies, and finds a picture that it holds."""
    try:
        collection = Collection.open(world.place)
    except CollectionNotFound:
        assert name == "import"
        return
    encoder = next(one for one in (ToyEncoder(), other_toy()) if one.spec.fingerprint == collection.spec.fingerprint)
    with SearchEngine(collection, encoder) as engine:
        if name != "repair":
            assert problems_of(collection) == []
            items = engine.info().modalities[Modality.IMAGE].items
            assert len(engine.search("a picture", k=items + 5)) == items
    with Collection.open(world.place) as opened, opened.writer():
        pass  # whoever writes next finds nothing in the way


def assert_between(now: dict[str, str], before: dict[str, str], after: dict[str, str]) -> None:
    """Nothing was lost that both ends hold, nothing is there that neither does."""
    assert before.items() & after.items() <= now.items()
    assert now.items() <= before.items() | after.items()


EVERY = [(name, name) for name in SCENARIOS]


@pytest.mark.exhaustive
@pytest.mark.parametrize(("world", "name"), EVERY, indirect=["world"])
def test_killed_at_every_step(world: World, name: str, server: Server, tmp_path: Path) -> None:
    check_kills(world, name, server, tmp_path, most=10_000)


@pytest.mark.parametrize(("world", "name"), EVERY, indirect=["world"])
def test_killed_at_some_steps(world: World, name: str, server: Server, tmp_path: Path) -> None:
    check_kills(world, name, server, tmp_path, most=5)


def check_kills(world: World, name: str, server: Server, tmp_path: Path, *, most: int) -> None:
    """Play a scenario, killed at each of its steps (at most so many of them, spread evenly), and finish it."""
    before = held(world) if name != "upgrade" else held(world.again(tmp_path / "looked at"))
    finished = world.again(tmp_path / "finished")
    status, said = server.play(name, finished)
    assert status == 0, said
    steps, after = int(said), held(finished)
    assert steps >= 3
    assert_whole(finished, "")
    for step in range(1 + steps // most // 2, steps + 1, -(-steps // most)):
        killed = world.again(tmp_path / "killed")
        status, said = server.play(name, killed, kill_at=step)
        if status == 0:  # decoding in threads makes a batch, and with it a commit, more or less
            assert step > 0.8 * steps, f"step {step} of {steps}"
            assert held(killed) == after
            break
        assert status == -9, said
        assert_whole(killed, name)
        assert_between(held(killed), before, after)
        status, said = server.play(name, killed)
        assert status == 0, f"after step {step}: {said}"
        assert held(killed) == after, f"after step {step}"
        assert_whole(killed, "")
        assert not (killed.place / "reembed").exists()
        assert not list((killed.place / "tmp").glob("*")) if (killed.place / "tmp").is_dir() else True


@pytest.mark.parametrize(
    ("world", "name"), [(n, n) for n in ("index", "build", "compact", "import", "reembed")], indirect=["world"]
)
def test_a_full_disk_leaves_the_old_state(world: World, name: str, server: Server, tmp_path: Path) -> None:
    """At twenty sizes that a file may have: one error that we mean, nothing lost, and it goes on once there is room."""
    before = held(world)
    finished = world.again(tmp_path / "finished")
    assert server.play(name, finished)[0] == 0
    after = held(finished)
    largest = max(path.stat().st_size for path in finished.place.rglob("*") if path.is_file())
    refused = 0
    for number in range(1, 21):
        full = world.again(tmp_path / "full")
        status, said = server.play(name, full, limit=max(1, largest * number // 20 - 1))
        assert status in (0, 1), said
        if status:
            refused += 1
            assert said.startswith(("DiskFull: ", "OSError: [Errno 27]", "CollectionError: ")), said
        assert_whole(full, name)
        assert_between(held(full), before, after)
        assert server.play(name, full)[0] == 0
        assert held(full) == after
    assert refused >= 3


@pytest.mark.exhaustive
def test_killed_at_two_hundred_random_moments(tmp_path: Path, server: Server) -> None:
    """One collection lives through kills in all that is done to it, one after the other."""
    world = World(tmp_path / "c", tmp_path / "pictures")
    make_folder(world.pictures, 40)
    make_folder(world.pictures / "below", 40, first=100)
    rng = random.Random(20261127)
    names = ["index", "watch", "build", "seal", "compact", "repair", "remove"]
    kills = 0
    while kills < MANY:
        for path in rng.sample(sorted(world.pictures.rglob("*.png")), 3):
            picture(rng.randrange(10**6)).save(path)
        if rng.random() < 0.1:  # an old collection can be upgraded but once
            old = World(tmp_path / "old", world.pictures)
            shutil.rmtree(old.place, ignore_errors=True)
            shutil.copytree(STORED, old.place)
            kills += server.play("upgrade", old, kill_after=rng.uniform(0.005, 0.2))[0] == -9
            assert_whole(old, "upgrade")
            continue
        before = held(world)
        name = rng.choice(names) if before else "index"
        status, said = server.play(name, world, kill_after=rng.uniform(0.005, 0.4))
        assert status in (0, -9), said
        kills += status == -9
        if held(world):
            assert_whole(world, name)
        now = held(world)
        if name in ("build", "seal", "compact", "repair"):
            assert now == before
        else:
            untouched = {k: v for k, v in before.items() if name != "remove" or "/below/" not in k}
            assert set(untouched) <= set(now)
    assert server.play("index", world)[0] == 0
    assert set(held(world)) == {str(path) for path in world.pictures.rglob("*.png")}
    report = index([world.pictures], collection=world.place, encoder=ToyEncoder())
    assert (report.added, report.changed, report.failed) == (0, 0, [])
