"""Whether FAISS, torch and ONNX Runtime in one process slow each other down: each right after another, and alone.

Alone is after a pause in which a large array is copied: the caches are as cold as after another engine, and no thread
still spins. A ratio of 1 is no slower than alone. Claim: no batch takes more than 1.25 times as long.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.common import verdict
from benchmarks.open_clip_speed import save_model
from mmsearch.encoders import load_encoder
from mmsearch.vectors.index import VectorIndex
from mmsearch.vectors.store import Block, VectorStore

ROUNDS = 20
QUERY = "text query"


def main() -> None:
    """Print the figures."""
    work = engines()
    elsewhere = np.ones(16_000_000, dtype=np.float32)  # 64 MB

    def pause() -> object:
        return elsewhere.copy()

    worst = 0.0
    for name in work:
        alone, after = times(work, name, pause)
        ratios = {other: usual(some) / usual(alone) for other, some in after.items()}
        if name != QUERY:
            worst = max([worst, *ratios.values()])
        told = ", ".join(f"{ratio:.2f} × after {other}" for other, ratio in ratios.items())
        print(f"{name}: {1000 * usual(alone):.1f} ms alone; {told}")
    print(
        f"the slowest batch after another takes {worst:.2f} times as long as alone; bar 1.25 {verdict(worst <= 1.25)}"
    )


def engines() -> dict[str, Callable[[], object]]:
    """Return a piece of work of each engine, with the threads that mmsearch gives it."""
    rng = np.random.default_rng(0)
    compact = load_encoder("compact")
    pixels = rng.integers(0, 256, (16, 3, 260, 260), dtype=np.uint8)
    rows = rng.standard_normal((100_000, 384), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    index = VectorIndex(VectorStore(384, [Block(0, rows.astype(np.float16))]))
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder, "model"))
        clip = load_encoder(f"open_clip:local-dir:{folder}/model", device="cpu")
    pictures = rng.integers(0, 256, (8, 3, 224, 224), dtype=np.uint8)
    return {
        "torch": lambda: clip.encode_images(pictures),
        "onnx": lambda: compact.encode_images(pixels),
        "faiss": lambda: index.search(rows[:32], 10),
        QUERY: lambda: compact.encode_texts(["a red car"]),
    }


def times(
    work: dict[str, Callable[[], object]], name: str, pause: Callable[[], object]
) -> tuple[list[float], dict[str, list[float]]]:
    """Return the seconds of the named work after a pause, and right after each other work; one of each every round."""

    def timed(before: Callable[[], object]) -> float:
        before()
        started = time.perf_counter()
        work[name]()
        return time.perf_counter() - started

    others = [other for other in work if other not in (name, QUERY)]
    alone: list[float] = []
    after: dict[str, list[float]] = {other: [] for other in others}
    for _ in range(ROUNDS):
        alone.append(timed(pause))
        for other in others:
            after[other].append(timed(work[other]))
    return alone, after


def usual(seconds: list[float]) -> float:
    """Return the lower quartile: what others do on the machine only ever adds to it."""
    return statistics.quantiles(seconds, n=4)[0]


if __name__ == "__main__":
    main()
