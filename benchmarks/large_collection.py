"""A collection of a million pictures (CLIP-like vectors of 512 numbers): what waits for its catalog.

Bars: `mmsearch.open()` and a first vector query ≤ 0.5 s in a fresh process; `info` ≤ 0.5 s; the metadata of 1,000 hits
≤ 50 ms; from a filter to its mask ≤ 150 ms. Medians of several runs; the vectors stand for an encoder that is not
needed here. With a folder it is made there once, and found again.

    python -m benchmarks.large_collection [FOLDER]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.clip_like import blocks, queries
from benchmarks.common import verdict
from benchmarks.million import DIM

ROWS = 1_000_000
YEAR_NS = 365 * 86_400 * 10**9
RUNS = 5

OPENING = """
import sys, time
started = time.perf_counter()
import numpy as np, mmsearch
photos = mmsearch.open(sys.argv[1])
photos.search(vector=np.load(sys.argv[2])[0], k=10)
print(time.perf_counter() - started)
"""


def main() -> None:
    """Print the figures."""
    if len(sys.argv) > 1:
        measure(Path(sys.argv[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder))


def measure(folder: Path) -> None:
    """Make the collection where it is not there, and print what is asked of it."""
    import numpy as np

    import mmsearch
    from mmsearch import Filter
    from mmsearch.types import Modality

    place, asked = folder / "million", folder / "asked.npy"
    if not place.exists():
        started = time.perf_counter()
        make(place)
        print(f"made in {time.perf_counter() - started:.0f} s")
    np.save(asked, queries("text", 50, DIM))
    command = [sys.executable, "-c", OPENING, str(place), str(asked)]
    opening = [float(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(RUNS)]
    told("open() and a first vector query, fresh process", statistics.median(opening), 0.5)
    with mmsearch.open(place) as engine:
        told("info", median(engine.info), 0.5)
        vectors = np.load(asked)
        ids = engine.collection.index(Modality.IMAGE)[1].search(vectors[:1], 1000).ids[0].tolist()
        read = partial(engine.collection.catalog.items_of_vectors, Modality.IMAGE, ids)
        told("metadata of 1,000 hits", median(read), 0.05)
        year = Filter(modified_from_ns=3 * YEAR_NS, modified_before_ns=4 * YEAR_NS)
        for words, wanted in (
            ("a folder of 10,000 pictures", Filter(under=("/photos/07",))),
            ("a year, a tenth of all", year),
            ("at least 2,000 pixels wide, half of all", Filter(min_width=2000)),
            ("JPEG, all of them", Filter(formats=("JPEG",))),
        ):
            find = partial(engine.collection.catalog.vectors_matching, Modality.IMAGE, wanted)
            told(f"filter → mask: {words}", median(find), 0.15)
            engine.search(vector=vectors[0], only=wanted)
            again = median(partial(engine.search, vector=vectors[1], k=10, only=wanted))
            print(f"  a whole search with its mask: {1000 * again:.1f} ms")


def make(place: Path) -> None:
    """Write a million items with their vectors, and build the index."""
    from mmsearch.catalog.rows import NewItem
    from mmsearch.collection.collection import Collection
    from mmsearch.collection.maintenance import maintain
    from mmsearch.types import EncoderSpec, Modality

    spec = EncoderSpec(uri="benchmark:none", dim=DIM, image_size=224, fingerprint="0" * 64)
    number = 0
    with Collection.create(place, spec) as collection, collection.writer() as writer:
        root = writer.root("folder", "/photos")
        for block in blocks(ROWS, DIM):
            for row in block:
                path = f"/photos/{number // 10_000:02d}/IMG_{number:07d}.jpg"
                item = NewItem(
                    key=path,
                    modality=Modality.IMAGE,
                    uri=path,
                    group=path,
                    content_hash=number.to_bytes(32, "big"),
                    size=100_000 + number,
                    mtime_ns=(number % 10) * YEAR_NS + number,
                    scanned_ns=10 * YEAR_NS,
                    width=1000 + number % 2000,
                    height=1000,
                    format="JPEG",
                )
                writer.put(item, root, row)
                number += 1
            writer.commit()
        maintain(collection, writer)


def median(call: Callable[[], object]) -> float:
    """Return the median time of a call in seconds."""
    seconds = []
    for _ in range(RUNS):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def told(words: str, seconds: float, bar: float) -> None:
    """Print a figure beside its bar."""
    print(f"{words}: {1000 * seconds:.0f} ms; bar {1000 * bar:.0f} {verdict(seconds <= bar)}", flush=True)


if __name__ == "__main__":
    main()
