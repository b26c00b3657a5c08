"""Measure the shipped files: `python -m training.compact.evaluate --model DIR --data DIR`.

Recall on the dev shards, then size, time to open and speed; needs onnxruntime, tokenizers and pillow only.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession

from .common import (
    DEV_SHARDS,
    IMAGE_SIZE,
    RESIZE,
    RESIZERS,
    Floats,
    Pixels,
    Recall,
    measure_recall,
    open_session,
    open_tokenizer,
    read_shard,
    run_texts,
    to_pixels,
    tokenize,
)

BATCH = 16
REPEATS = 5
PROBE = "a dog on the beach"


def embed_pictures(session: InferenceSession, pictures: list[Pixels]) -> Floats:
    """Return unit rows (n, dim) of uint8 pictures (3, 260, 260)."""
    starts = range(0, len(pictures), BATCH)
    parts = [session.run(["embedding"], {"pixels": np.stack(pictures[i : i + BATCH])})[0] for i in starts]
    return np.concatenate(parts)


def shard_recall(model: Path, shard: Path) -> Recall:
    """Return recall of the shipped encoder on one shard."""
    samples = list(read_shard(shard))
    pictures = [to_pixels(RESIZERS[RESIZE](sample.image())) for sample in samples]
    images = embed_pictures(open_session(model / "image.onnx"), pictures)
    captions = [text for sample in samples for text in sample.captions]
    owner = np.array([i for i, sample in enumerate(samples) for _ in sample.captions], np.int64)
    tokenizer = open_tokenizer(model / "tokenizer.json")
    texts = run_texts(open_session(model / "text.onnx"), tokenizer, captions, output="embedding")
    return measure_recall(images, texts, owner)


def fastest(action: Callable[[], object]) -> float:
    """Return the least of REPEATS wall-clock times in seconds."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return min(times)


def report_speed(path: Path, inputs: Mapping[str, NDArray[np.generic]], *, unit: str) -> None:
    """Print the size of one file, the time to open it and the time of one run with one and two threads."""
    took = fastest(partial(open_session, path))
    print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB, opens in {1000 * took:.0f} ms")
    rows = len(next(iter(inputs.values())))
    for threads in (1, 2):
        session = open_session(path, threads=threads)
        took = fastest(partial(session.run, ["embedding"], inputs))
        print(f"  {threads} threads: {1000 * took:.1f} ms for {rows} {unit}, {rows / took:.0f}/s")


def main() -> None:
    """Print the whole report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    for shard in DEV_SHARDS:
        print(f"{shard}: {shard_recall(arguments.model, arguments.data / f'{shard}.tar').row()}")
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, 3, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    report_speed(arguments.model / "image.onnx", {"pixels": pixels}, unit="pictures")
    words = tokenize(open_tokenizer(arguments.model / "tokenizer.json"), [PROBE])
    report_speed(arguments.model / "text.onnx", words, unit="short text")
    print(f"all files {sum(p.stat().st_size for p in arguments.model.iterdir()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
