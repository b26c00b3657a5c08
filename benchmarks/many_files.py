"""A hundred thousand tiny files: the second run over them, unchanged; and a thousand small commits, as of a watcher.

Bars: the second run ≤ 6 s and ≤ 600 MB in a fresh process; a change to one of them is committed within two seconds when
they are watched (`mmsearch[watch]`); opening and a first vector query stay under 0.1 s beyond the
imports after a thousand commits of one picture each. Vectors are made up: the encoder is not what is measured.

    python -m benchmarks.many_files [FILES]
"""

from __future__ import annotations

import hashlib
import io
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common import verdict
from mmsearch.types import EncoderSpec, Float32, UInt8

COMMITS = 1000
DIM = 64


class MadeUp:
    """An encoder that makes a vector of the pixels at next to no cost."""

    spec = EncoderSpec("benchmark:made-up", DIM, 8, hashlib.sha256(b"made up").hexdigest())
    min_side = None
    image_batch = 256

    def prepare_image(self, image: Image.Image) -> UInt8:
        """Return (3, 8, 8)."""
        return np.asarray(image.resize((8, 8)), dtype=np.uint8).transpose(2, 0, 1)

    def encode_images(self, pixels: UInt8) -> Float32:
        """Return unit rows (n, dim)."""
        rows = pixels.reshape(len(pixels), -1)[:, :DIM].astype(np.float32) - 127.5
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def encode_texts(self, texts: Sequence[str]) -> Float32:
        """Return unit rows (n, dim)."""
        return np.full((len(texts), DIM), DIM**-0.5, dtype=np.float32)

    def text_notes(self, text: str) -> tuple[str, ...]:
        """Return nothing."""
        return ()


def main() -> None:
    """Print the figures."""
    if sys.argv[1:2] == ["--again"]:
        print(*again(Path(sys.argv[2]), Path(sys.argv[3])))
        return
    files = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as name:
        folder, place = Path(name) / "pictures", Path(name) / "c"
        write(folder, files)
        seconds, megabytes = run(folder, place)
        print(f"{files:,} tiny files, first run: {seconds:.0f} s, {megabytes:.0f} MB", flush=True)
        seconds, megabytes = run(folder, place)
        good = verdict(seconds <= 6.0 and megabytes <= 600)
        print(f"unchanged second run: {seconds:.2f} s, {megabytes:.0f} MB; bars 6 s and 600 MB {good}", flush=True)
        watching(folder, place)
        commits(Path(name) / "small")


def write(folder: Path, files: int) -> None:
    """Write tiny pictures, a thousand in each folder."""
    rng = np.random.default_rng(0)
    for number in range(files):
        path = folder / f"{number // 1000:03d}" / f"{number:06d}.png"
        if number % 1000 == 0:
            path.parent.mkdir(parents=True)
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, "PNG", compress_level=1)
        path.write_bytes(buffer.getvalue())


def run(folder: Path, place: Path) -> tuple[float, float]:
    """Index in a fresh process, and return its seconds and megabytes."""
    command = [sys.executable, "-m", "benchmarks.many_files", "--again", str(folder), str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, megabytes = done.stdout.split()
    return float(seconds), float(megabytes)


def again(folder: Path, place: Path) -> tuple[float, float]:
    """Index, and return the seconds, imports included, and the megabytes of this process at its peak."""
    started = time.perf_counter()
    from indexer import index

    index([folder], collection=place, encoder=MadeUp())
    return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def watching(folder: Path, place: Path) -> None:
    """Watch all of it, add pictures one by one, and print how long each takes to be committed."""
    from indexer import IndexReport, index
    from indexer.watch import watch
    from mmsearch.collection.collection import Collection
    from mmsearch.types import Modality

    stop, ready, seconds = threading.Event(), threading.Event(), []

    def once(places: Sequence[str]) -> IndexReport:
        return index(list(places), collection=place, encoder=MadeUp())

    thread = threading.Thread(
        target=watch, args=(once, [folder]), kwargs={"collection": place, "stop": stop, "ready": ready.set}
    )
    thread.start()
    ready.wait()
    with Collection.open(place) as collection:
        for number in range(8):
            before = collection.info().modalities[Modality.IMAGE].items
            pixels = np.random.default_rng(number + 1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "000" / f"new-{number}.png")
            started = time.perf_counter()
            while collection.info().modalities[Modality.IMAGE].items == before:
                time.sleep(0.02)
            seconds.append(time.perf_counter() - started)
    stop.set()
    thread.join()
    good = verdict(max(seconds) <= 2.0)
    print(f"watched: committed {min(seconds):.2f} to {max(seconds):.2f} s after a change; bar 2 s {good}", flush=True)


def commits(place: Path) -> None:
    """Commit one picture after the other, and print how long opening takes before and after."""
    from mmsearch.catalog.rows import NewItem
    from mmsearch.collection.collection import Collection
    from mmsearch.types import Modality

    rows = np.random.default_rng(1).standard_normal((COMMITS, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    Collection.create(place, MadeUp.spec).close()
    opening: list[float] = []
    started = time.perf_counter()
    for number, row in enumerate(rows):
        path = f"/photos/{number:04d}.jpg"
        item = NewItem(path, Modality.IMAGE, path, path, number.to_bytes(32, "big"), 1, 2, 3)
        with Collection.open(place) as collection, collection.writer() as writer:
            writer.put(item, writer.root("folder", "/photos"), row)
        if number % 100 == 99:
            before = time.perf_counter()
            with Collection.open(place) as collection:
                assert len(collection.index(Modality.IMAGE)[1].search(row[np.newaxis], 10).ids[0]) == 10
            opening.append(time.perf_counter() - before)
    total = time.perf_counter() - started
    print(
        f"{COMMITS:,} commits of one picture, by its own writer: {1000 * total / COMMITS:.1f} ms each; opening and a"
        f" query {1000 * opening[0]:.0f} ms after the first hundred, {1000 * max(opening):.0f} ms at most; bar 100"
        f" {verdict(max(opening) < 0.1)}"
    )


if __name__ == "__main__":
    main()
