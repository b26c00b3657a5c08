"""What is killed: every way to change a collection, as a function of (collection folder, folder of pictures).

Run as a program it is a fork server: it has imported everything, and for each line of JSON on stdin ("name", "place",
"pictures", "kill_at", "kill_after", "limit") forks a child that plays the scenario and is killed at the n-th durable
step (0: never) or after so many seconds, or may write no file of more than `limit` bytes, and answers with a line of
JSON: the child's status and how many steps it made, or its error. So a kill costs no imports.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import indexer.load
import indexer.pipeline
import indexer.renewal
import mmsearch.collection.compaction
import mmsearch.collection.switching
import mmsearch.collection.writer
from indexer import IndexReport, index, reembed
from indexer.watch import watch
from mmsearch.catalog.database import Database
from mmsearch.collection.collection import Collection
from mmsearch.collection.compaction import compact, merge_segments
from mmsearch.collection.maintenance import maintain
from mmsearch.collection.portable import import_collection
from mmsearch.collection.relocation import relocate
from mmsearch.collection.removal import remove
from mmsearch.collection.repair import repair
from mmsearch.decoding.decoder import DirectDecoder
from mmsearch.errors import SourceError
from tests.support import ToyEncoder


def run_index(place: Path, pictures: Path) -> None:
    """Index what is new, changed and gone; commits and seals many times."""
    index([pictures], collection=place, encoder=ToyEncoder(), index_kind="ivfpq", allow_mass_delete=True)


def run_watched(place: Path, pictures: Path) -> None:
    """Watch one folder below the root, until it has been brought up to date once."""
    stop = threading.Event()

    def once(places: Sequence[str]) -> IndexReport:
        return index(list(places), collection=place, encoder=ToyEncoder(), allow_mass_delete=True)

    watch(once, [pictures / "below"], collection=place, stop=stop, ready=stop.set)


def run_build(place: Path, _pictures: Path) -> None:
    """Build the indexes anew, of another kind."""
    with Collection.open(place) as collection, collection.writer() as writer:
        maintain(collection, writer, kind="ivfsq8", recall=0.9, encoder=ToyEncoder)


def run_seal(place: Path, _pictures: Path) -> None:
    """Seal what is not, and merge."""
    with Collection.open(place) as collection, collection.writer() as writer:
        for modality in collection.info().modalities:
            writer.seal(modality)
        merge_segments(collection, writer)
        writer.collect_garbage()


def run_compact(place: Path, _pictures: Path) -> None:
    """Drop the rows of what was deleted, then build anew."""
    with Collection.open(place) as collection, collection.writer() as writer:
        compact(collection, writer)
        maintain(collection, writer, rebuild=True, encoder=ToyEncoder)


def run_repair(place: Path, _pictures: Path) -> None:
    """Mend a collection, of which one segment is lost when the scenario begins."""
    with Collection.open(place) as collection, collection.writer() as writer:
        repair(collection, writer, ToyEncoder)


def run_upgrade(place: Path, _pictures: Path) -> None:
    """Open a collection of an old schema."""
    Collection.open(place).close()


def run_remove(place: Path, pictures: Path) -> None:
    """Forget a folder."""
    with Collection.open(place) as collection, suppress(SourceError):  # it may be forgotten already
        remove(collection, [str(pictures / "below")], allow_mass_delete=True)


def run_relocate(place: Path, pictures: Path) -> None:
    """Rename everything."""
    with Collection.open(place) as collection:
        if any(root.path == str(pictures) for root in collection.catalog.roots()):
            relocate(collection, str(pictures), str(pictures.with_name("elsewhere")), missing_ok=True)


def run_import(place: Path, pictures: Path) -> None:
    """Bring an exported collection in."""
    if not (place / "mmsearch.json").exists():
        import_collection(pictures.with_name("exported.tar"), place)


def run_reembed(place: Path, _pictures: Path) -> None:
    """Move to another encoder; the files of some pictures have gone or changed since they were indexed."""
    reembed(place, encoder=other_toy(), allow_mass_delete=True)


def other_toy() -> ToyEncoder:
    """Return the encoder that a collection moves to."""
    return ToyEncoder("toy:2", side=6)


SCENARIOS: dict[str, Callable[[Path, Path], None]] = {
    "index": run_index,
    "watch": run_watched,
    "build": run_build,
    "seal": run_seal,
    "compact": run_compact,
    "repair": run_repair,
    "upgrade": run_upgrade,
    "remove": run_remove,
    "relocate": run_relocate,
    "import": run_import,
    "reembed": run_reembed,
}


class Steps:
    """Counts what reaches the disk, and ends the process at the n-th step."""

    def __init__(self, kill_at: int) -> None:
        self.made = 0
        self._kill_at = kill_at

    def step(self) -> None:
        """One more; perhaps the last."""
        self.made += 1
        if self.made == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a call with a step before and one behind it."""

        def stepped(*args: Any, **kwargs: Any) -> Any:
            self.step()
            result = call(*args, **kwargs)
            self.step()
            return result

        return stepped

    def install(self) -> None:
        """Watch files being made durable, renamed and removed, and the transactions of the catalog."""
        os.fsync = self.around(os.fsync)
        shutil.copy2 = self.around(shutil.copy2)
        for name in ("replace", "rename", "unlink", "rmdir", "mkdir"):
            setattr(Path, name, self.around(getattr(Path, name)))
        write, outside = Database.write, Database._outside_transaction

        @contextmanager
        def stepped_write(database: Database) -> Iterator[Any]:
            with write(database) as connection:
                yield connection
                self.step()
            self.step()

        setattr(Database, "write", stepped_write)  # noqa: B010 - for this process, which is there to be killed
        setattr(Database, "_outside_transaction", self.around(outside))  # noqa: B010 - as above


def play(told: dict[str, Any], report: int) -> None:
    """Play a scenario, and write the number of its steps to a descriptor."""
    mmsearch.collection.writer.SEAL_ROWS = 12
    mmsearch.collection.compaction.MERGE_FROM = 3
    indexer.pipeline.COMMIT_ROWS = 9
    indexer.pipeline.COMMIT_SECONDS = 1e9  # the same steps every time
    indexer.renewal.BATCH_ROWS = 20
    indexer.renewal.BATCH_SECONDS = 1e9
    mmsearch.collection.switching.SEGMENT_ROWS = 50
    indexer.load.make_decoder = DirectDecoder  # a process of its own for each would cost more than all else
    if limit := told.get("limit"):  # a disk that takes no file longer than this: EFBIG is what a full disk is to us
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    steps = Steps(told["kill_at"])
    steps.install()
    SCENARIOS[told["name"]](Path(told["place"]), Path(told["pictures"]))
    os.write(report, str(steps.made).encode())


def main() -> None:
    """Serve until stdin ends."""
    for line in sys.stdin:
        told = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            status = 1
            try:
                play(told, writing)
                status = 0
            except BaseException as error:  # noqa: BLE001 - whatever it is, the test is told
                os.write(writing, f"{type(error).__name__}: {error}".encode())
            finally:
                os._exit(status)
        os.close(writing)
        if delay := told.get("kill_after"):
            _kill_after(child, delay)
        _, status = os.waitpid(child, 0)
        said = os.read(reading, 10_000).decode(errors="replace")
        os.close(reading)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status), "said": said}), flush=True)


def _kill_after(child: int, seconds: float) -> None:
    """Kill the child unless it has ended by then."""
    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main()
