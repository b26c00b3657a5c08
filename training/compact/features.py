"""Extract the frozen features once: `python -m training.compact.features --data DIR --work DIR`.

Writes `WORK/features/{shard}-{view}.npy` (float16, (n, 3696)), with `--cuts` `{shard}-{view}-cut.npy` (float16,
(n, 120, 17, 17): what the tuned blocks of the image tower start from; 70 KB each), and for "captions" and "phrases"
`{shard}-{kind}.npy` (float16, (m, 1152)) and `{shard}-{kind}-owner.npy` (int64 (m,): number of the picture).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession
from PIL import Image

from .common import (
    DEV_SHARDS,
    IMAGE_SIZE,
    Pixels,
    Sample,
    centre_crop,
    open_session,
    open_tokenizer,
    read_shard,
    run_texts,
    squash,
    to_pixels,
    train_shards,
)
from .graphs import save_image_graph, save_text_graph
from .phrases import phrases
from .towers import CUT_SHAPE, FeatureTower, ImageTower, TextTower, tokenizer_file

BATCH = 8
THREADS = 2
SMALLEST_AREA = 0.5
SEED = 3
Halves = NDArray[np.float16]
View = Callable[[Image.Image, np.random.Generator], Image.Image]


def _random_crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return a random box of at least half the area, mirrored half of the time, squashed to 260×260."""
    shares = np.sqrt(rng.uniform(SMALLEST_AREA, 1.0)) * np.exp(rng.uniform(-0.1, 0.1) * np.array([1.0, -1.0]))
    width, height = (max(1, round(side * min(1.0, s))) for side, s in zip(image.size, shares, strict=True))
    left, top = (int(rng.integers(0, room + 1)) for room in (image.width - width, image.height - height))
    box = (left, top, left + width, top + height)
    cut = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC, box=box)
    return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else cut


VIEWS: dict[str, View] = {
    "squash": lambda image, _: squash(image),
    "crop": lambda image, _: centre_crop(image),
    "random": _random_crop,
}


def _captions(samples: list[Sample]) -> tuple[list[str], list[int]]:
    """Return all captions and the number of the picture each belongs to."""
    pairs = [(text, i) for i, sample in enumerate(samples) for text in sample.captions]
    return [text for text, _ in pairs], [i for _, i in pairs]


def _phrases(samples: list[Sample]) -> tuple[list[str], list[int]]:
    """Return short phrases, each once per picture, and the number of the picture each belongs to."""
    pairs = [
        (text, i)
        for i, sample in enumerate(samples)
        for text in dict.fromkeys(phrase for caption in sample.captions for phrase in phrases(caption))
    ]
    return [text for text, _ in pairs], [i for _, i in pairs]


TEXTS = {"captions": _captions, "phrases": _phrases}


def extract_view(
    session: InferenceSession, samples: list[Sample], view: View, outputs: tuple[str, ...], *, seed: int
) -> list[Halves]:
    """Return outputs of one view of every sample, float16: "features" (n, 3696), "cut" (n, 120, 17, 17)."""

    def pixels(index: int) -> Pixels:
        return to_pixels(view(samples[index].image(), np.random.default_rng((seed, index))))

    def rows(start: int) -> list[Halves]:
        batch = np.stack([pixels(index) for index in range(start, min(start + BATCH, len(samples)))])
        return [values.astype(np.float16) for values in session.run(outputs, {"pixels": batch})]

    with ThreadPoolExecutor(THREADS) as pool:  # each decodes and runs its own batches, on one thread
        parts = list(pool.map(rows, range(0, len(samples), BATCH)))
    return [np.concatenate(of_output) for of_output in zip(*parts, strict=True)]


def main() -> None:
    """Export the bare towers, then run them over every shard; files that exist are kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cuts", action="store_true", help="keep the cuts, too: tune.py starts from them")
    parser.add_argument("--views", nargs="+", default=["squash", "random"], help="of the training pictures")
    arguments = parser.parse_args()
    towers, folder = arguments.work / "towers", arguments.work / "features"
    folder.mkdir(parents=True, exist_ok=True)
    if not (towers / "text.onnx").exists():
        tower = FeatureTower(ImageTower())
        save_image_graph(tower, towers / "image.onnx", outputs=("features", "cut"), shape=CUT_SHAPE)
        save_text_graph(TextTower(), towers / "text.onnx", output="features")
    image_session, text_session = open_session(towers / "image.onnx", threads=1), open_session(towers / "text.onnx")
    tokenizer = open_tokenizer(tokenizer_file())

    jobs = [(view, shard) for view in ("squash", "crop") for shard in DEV_SHARDS]
    jobs += [(view, shard) for view in arguments.views for shard in train_shards(arguments.data, ".tar")]
    for view, shard in jobs:
        started, target, cut = time.monotonic(), folder / f"{shard}-{view}.npy", folder / f"{shard}-{view}-cut.npy"
        with_cut = arguments.cuts and view != "crop"
        if target.exists() and (cut.exists() or not with_cut):
            continue
        samples = list(read_shard(arguments.data / f"{shard}.tar"))
        if view == "squash":
            for kind, split in TEXTS.items():
                texts, owner = split(samples)
                encoded = run_texts(text_session, tokenizer, texts, output="features")
                np.save(folder / f"{shard}-{kind}.npy", encoded.astype(np.float16))
                np.save(folder / f"{shard}-{kind}-owner.npy", np.array(owner, np.int64))
        outputs = ("features", "cut") if with_cut else ("features",)
        rows = extract_view(image_session, samples, VIEWS[view], outputs, seed=SEED)
        for path, values in zip((target, cut), rows, strict=False):
            np.save(path, values)
        print(f"{target.name}: {len(samples) / (time.monotonic() - started):.0f} pictures/s", flush=True)


if __name__ == "__main__":
    main()
