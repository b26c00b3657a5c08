"""Measure the shipped files: `python -m training.compact.evaluate --model DIR --data DIR`.

Recall on the dev shards, precision of short queries, then size, time to open and speed; needs onnxruntime, tokenizers
and pillow only.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession

from mmsearch.encoders.hubs import Hubs

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
from .phrases import phrases

BATCH = 16
REPEATS = 5
PROBE = "a dog on the beach"
LEAST = 10
COLOUR_NAMES = "red orange yellow green blue purple pink brown black white grey gray"
COLOURS = frozenset(COLOUR_NAMES.split())


def embed_pictures(session: InferenceSession, pictures: list[Pixels]) -> Floats:
    """Return unit rows (n, dim) of uint8 pictures (3, 260, 260)."""
    starts = range(0, len(pictures), BATCH)
    parts = [session.run(["embedding"], {"pixels": np.stack(pictures[i : i + BATCH])})[0] for i in starts]
    return np.concatenate(parts)


@dataclass(frozen=True)
class Embedded:
    """The captions of a shard's pictures, and unit rows (n, dim) of the pictures."""

    captions: tuple[tuple[str, ...], ...]
    images: Floats


def embed_shard(model: Path, shard: Path) -> Embedded:
    """Return what the image tower makes of a shard."""
    samples = list(read_shard(shard))
    pictures = [to_pixels(RESIZERS[RESIZE](sample.image())) for sample in samples]
    images = embed_pictures(open_session(model / "image.onnx"), pictures)
    return Embedded(tuple(sample.captions for sample in samples), open_hubs(model).pictures(images))


def open_hubs(model: Path) -> Hubs:
    """Return what makes up for hubs."""
    return Hubs.from_bytes((model / "hubs.npz").read_bytes())


def embed_texts(model: Path, texts: list[str]) -> Floats:
    """Return unit rows (n, dim) of texts."""
    tokenizer = open_tokenizer(model / "tokenizer.json")
    rows = run_texts(open_session(model / "text.onnx"), tokenizer, texts, output="embedding")
    return open_hubs(model).texts(rows)


def shard_recall(model: Path, embedded: Embedded) -> Recall:
    """Return recall on one shard."""
    captions = [text for some in embedded.captions for text in some]
    owner = np.array([i for i, some in enumerate(embedded.captions) for _ in some], np.int64)
    return measure_recall(embedded.images, embed_texts(model, captions), owner)


def kind_of(phrase: str) -> str:
    """Return what kind of query a phrase is."""
    first, *others = phrase.split()
    if not others:
        return "single words"
    return "colour and noun" if first in COLOURS and len(others) == 1 else "two to four words"


def report_short_queries(model: Path, shards: list[Embedded]) -> None:
    """Print precision at 10 of short queries over all pictures.

    Queries are the phrases that LEAST pictures or more match: all words of the query stand in their captions. That
    misses much of what is right, so only differences between models count.
    """
    words = [{w for text in some for w in re.findall(r"[a-z]+", text.lower())} for s in shards for some in s.captions]
    said = {phrase for s in shards for some in s.captions for text in some for phrase in phrases(text)}
    right = {p: np.array([set(p.split()) <= known for known in words]) for p in sorted(said)}
    queries = [p for p, matches in right.items() if matches.sum() >= LEAST]
    scores = embed_texts(model, queries) @ np.concatenate([s.images for s in shards]).T
    first = np.argsort(-scores, axis=1)[:, :LEAST]
    precision = [float(right[p][rows].mean()) for p, rows in zip(queries, first, strict=True)]
    for kind in sorted(set(map(kind_of, queries))):
        some = [value for query, value in zip(queries, precision, strict=True) if kind_of(query) == kind]
        print(f"short queries, {len(some)} of {kind}: precision at {LEAST} {100 * np.mean(some):.1f}")


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
    shards = [embed_shard(arguments.model, arguments.data / f"{shard}.tar") for shard in DEV_SHARDS]
    for name, embedded in zip(DEV_SHARDS, shards, strict=True):
        print(f"{name}: {shard_recall(arguments.model, embedded).row()}")
    report_short_queries(arguments.model, shards)
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, 3, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    report_speed(arguments.model / "image.onnx", {"pixels": pixels}, unit="pictures")
    words = tokenize(open_tokenizer(arguments.model / "tokenizer.json"), [PROBE])
    report_speed(arguments.model / "text.onnx", words, unit="short text")
    print(f"all files {sum(p.stat().st_size for p in arguments.model.iterdir()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
