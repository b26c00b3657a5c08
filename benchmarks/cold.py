"""A million vectors with nothing in memory: opening, the first query, cold and warm queries, also within 512 MB.

The pages of all files are dropped before each run (`posix_fadvise`, and the kernel's own switch where we are root).
Then a process opens the index, answers one text query, then 200 that it has not seen (cold), then these again (warm).
The same in a memory cgroup of 512 MB, where the machine lets us make one. Beside the index that is chosen (4-bit
fast-scan codes, read whole) one of 8-bit codes whose lists stay on the disk: from which size on does mapping win?

    python -m benchmarks.cold [ROWS …]
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clip_like import queries
from benchmarks.million import DIM, QUERIES, K, anonymous, store, write_vectors
from mmsearch.types import Float32
from mmsearch.vectors.ann import AnnIndex
from mmsearch.vectors.index import VectorIndex
from mmsearch.vectors.spec import choose_spec
from mmsearch.vectors.tuning import QuerySet, tune

LIMIT = 512 << 20
CGROUP = Path("/sys/fs/cgroup")
ASKED = 200


def main() -> None:
    """Print the figures."""
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(Path(sys.argv[2]), sys.argv[3])))
        return
    for rows in [int(value) for value in sys.argv[1:]] or [250_000, 1_000_000]:
        with tempfile.TemporaryDirectory(dir=os.environ.get("MMSEARCH_BENCH_DIR")) as folder:
            compare(Path(folder), rows)


def compare(place: Path, rows: int) -> None:
    """Build both indexes and print what a cold process does with each."""
    write_vectors(place, rows)
    chosen = choose_spec(rows, DIM, "ivfpq")
    lists = chosen.factory[chosen.factory.index("IVF") : chosen.factory.rindex(",")]
    for kind in ("ivfpq", f"{lists},PQ64np"):
        build(place, kind, rows)
        for limit in (None, LIMIT):
            group = cgroup(limit)
            if limit is not None and group is None:
                print("no memory cgroup can be made here: cold pages only")
                continue
            drop_pages(place)
            done = child(place, kind, group)
            where = "in a memory cgroup of 512 MB" if group else "no limit"
            print(
                f"{rows:,} vectors, {done['factory']}, nprobe {done['nprobe']}, {where}: opened and first query"
                f" {done['first']:.0f} ms; p50 cold {done['cold']:.2f} ms, warm {done['warm']:.2f} ms (recall@10"
                f" {done['recall']:.3f}); {done['memory']:.0f} MB of anonymous memory; file {done['disk']:.0f} MB",
                flush=True,
            )


def build(place: Path, kind: str, rows: int) -> None:
    """Write an index and what it was tuned to."""
    vectors = store(place)
    spec = choose_spec(rows, DIM, kind)
    ann = AnnIndex.build(spec, vectors, vectors.ids())
    sets = {"text": QuerySet(queries("text", QUERIES + 300, DIM)[QUERIES:])}
    built = VectorIndex(vectors, ann=ann, covered=rows)
    tuned = tune(built, sets, nlist=ann.nlist, nprobe=spec.nprobe, target=0.95)
    with (place / f"{kind}.faiss").open("wb") as file:
        ann.save(file)
        os.fsync(file.fileno())
    told = {"factory": spec.factory, "nprobe": tuned.nprobe, "candidates": tuned.candidates}
    (place / f"{kind}.json").write_text(json.dumps(told))


def one(place: Path, kind: str) -> dict[str, Any]:
    """Open, search once, cold and warm."""
    told = json.loads((place / f"{kind}.json").read_text())
    asked: Float32 = np.load(place / "text.npy")
    truth = np.load(place / "text-truth.npy")
    before = anonymous()
    started = time.perf_counter()
    file = place / f"{kind}.faiss"
    vectors = store(place)
    ann = AnnIndex.load(file, dim=DIM, vectors=len(vectors))
    index = VectorIndex(vectors, ann=ann, covered=vectors.end_id, nprobe=told["nprobe"], candidates=told["candidates"])
    index.search(asked[:1], K)
    first = 1000 * (time.perf_counter() - started)
    passes, hits = [], 0
    for _ in range(2):
        seconds, hits = [], 0
        for row, true in zip(asked[1 : ASKED + 1], truth[1 : ASKED + 1], strict=True):
            started = time.perf_counter()
            found = index.search(row[np.newaxis], K).ids[0]
            seconds.append(time.perf_counter() - started)
            hits += len(np.intersect1d(found, true))
        passes.append(1000 * float(np.median(seconds)))
    size = file.stat().st_size / 1e6
    memory = anonymous() - before
    told |= {"first": first, "cold": passes[0], "warm": passes[1], "recall": hits / ASKED / K}
    return {**told, "memory": memory, "disk": size}


def child(place: Path, kind: str, group: Path | None) -> dict[str, Any]:
    """Return what a process of its own did, within a memory cgroup where one is given."""

    def enter() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    command = [sys.executable, "-m", "benchmarks.cold", "--one", str(place), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=enter)
    if group is not None:
        group.rmdir()
    if done.returncode:
        raise SystemExit(f"{kind} failed: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def cgroup(limit: int | None) -> Path | None:
    """Return a new memory cgroup of so many bytes (version 1 or 2), None where there is no limit or no permission."""
    if limit is None:
        return None
    for parent, name in ((CGROUP / "memory", "memory.limit_in_bytes"), (CGROUP, "memory.max")):
        group = parent / f"mmsearch-{os.getpid()}"
        try:
            group.mkdir()
            (group / name).write_text(str(limit))
        except OSError:
            if group.is_dir():
                group.rmdir()
            continue
        return group
    return None


def drop_pages(place: Path) -> None:
    """Have the kernel forget the pages of the files."""
    for path in place.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    with contextlib.suppress(OSError):  # not root: what we dropped ourselves is enough
        Path("/proc/sys/vm/drop_caches").write_text("1")


if __name__ == "__main__":
    main()
