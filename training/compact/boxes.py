"""What several views say of random boxes of the training pictures: `python -m training.compact.boxes --help`.

Of each picture, captioned or not (`unlabelled.py`), a random box is seen as the shipped encoder sees pictures in a
second look: whole, and in its views (`mmsearch.encoders.views`). Kept are the mean direction of all of them, which is
what `distil.py` teaches, and what the blocks above the cut take of the whole box. The dev shards are kept as well,
their pictures as they are.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnxruntime import InferenceSession, SessionOptions
from PIL import Image

from mmsearch.encoders.compact import VIEWS
from mmsearch.encoders.views import with_views

from .common import (
    DEV_SHARDS,
    RESIZE,
    RESIZERS,
    UNLABELLED_SHARDS,
    Floats,
    Sample,
    open_session,
    open_tokenizer,
    random_box,
    read_shard,
    run_texts,
    to_pixels,
    train_shards,
)
from .cuts import COLOUR, TAPPED, Grids
from .towers import CUT, CUT_SHAPE

BATCH, THREADS = 4, 2
WHOLE_SHARE = 0.25  # of the pictures are seen as they are
LEAST_AREA = 0.4  # of a box
UNLABELLED_SEED = 1000
TAPS = 384  # columns of Kept.features before those of colour
CUT_NAME = f"/tower/_blocks.{CUT - 1}/Add_output_0"
FEATURES_NAME = "/tower/Concat_output_0"


def open_with_cut(path: Path) -> InferenceSession:
    """Return the graph of the image tower with two more outputs: the grid at the cut, and the pooled features."""
    model = onnx.load(path)
    for name in (CUT_NAME, FEATURES_NAME):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    options = SessionOptions()
    options.intra_op_num_threads = 1
    return InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def seen(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return a random box of a picture, or all of it."""
    return image if rng.random() < WHOLE_SHARE else random_box(image, rng, least=LEAST_AREA)


def box_of(samples: Sequence[Sample], number: int, seed: int | None) -> Image.Image:
    """Return the box of a picture that a seed stands for; the picture itself without one."""
    image = samples[number].image()
    if seed is None:
        return image
    return seen(image, np.random.default_rng((seed, number // BATCH * BATCH, number % BATCH)))


class Kept:
    """What is known of some pictures, on the disk: see NAMES."""

    NAMES = ("cut", "features", "own", "taught")

    def __init__(self, folder: Path, *names: str) -> None:
        """Open what `write` wrote, one after another: taps and colour (n, 432); rows (n, dim), their own and taught."""
        self._cuts = [np.load(folder / f"{name}-cut.npy", mmap_mode="r") for name in names]
        self._ends = np.cumsum([len(cut) for cut in self._cuts])
        self.features, self.own, self.taught = (
            np.concatenate([np.load(folder / f"{name}-{part}.npy") for name in names]) for part in self.NAMES[1:]
        )

    def __len__(self) -> int:
        return len(self.own)

    def grids(self, which: NDArray[np.int64]) -> Grids:
        """Return what the blocks above the cut take of some pictures."""
        parts = np.searchsorted(self._ends, which, side="right")
        cuts = [self._cuts[part][i - self._ends[part]] for part, i in zip(parts, which, strict=True)]
        below = torch.from_numpy(self.features[which].astype(np.float32))
        return Grids(torch.from_numpy(np.stack(cuts)).float(), below[:, :TAPS], below[:, TAPS:])


def write(folder: Path, name: str, session: InferenceSession, samples: Sequence[Sample], seed: int | None) -> None:
    """Write what is known of pictures, of a random box of each where there is a seed; nothing where it is there."""
    if (folder / f"{name}-taught.npy").exists():
        return
    cut = np.lib.format.open_memmap(folder / f"{name}-cut.npy", "w+", np.float16, (len(samples), *CUT_SHAPE))
    rows: dict[str, list[NDArray[Any]]] = {part: [] for part in Kept.NAMES[1:]}
    done = 0
    for grids, features, own, taught in _seen(session, samples, seed):
        cut[done : done + len(own)] = grids
        for part, some in zip(rows, (features, own, taught), strict=True):
            rows[part].append(some)
        done += len(own)
        if done // 1000 > (done - len(own)) // 1000:
            print(f"{name}: {done} of {len(samples)}", flush=True)
    cut.flush()
    for part, some in rows.items():
        np.save(folder / f"{name}-{part}.npy", np.concatenate(some))


def _seen(
    session: InferenceSession, samples: Sequence[Sample], seed: int | None
) -> Iterator[tuple[NDArray[np.float16], NDArray[np.float16], Floats, Floats]]:
    """Yield the cut, taps and colour, the rows of the whole and the mean directions of all views, batch by batch."""

    def look(first: int) -> tuple[NDArray[np.float16], NDArray[np.float16], Floats, Floats]:
        images = [box_of(samples, n, seed) for n in range(first, min(first + BATCH, len(samples)))]
        whole = np.stack([to_pixels(RESIZERS[RESIZE](one)) for one in images])
        own, grids, features = session.run(["embedding", CUT_NAME, FEATURES_NAME], {"pixels": whole})
        sums = np.zeros_like(own)
        for view in VIEWS:
            pixels = np.stack([to_pixels(RESIZERS[RESIZE](view.see(one))) for one in images])
            sums += session.run(["embedding"], {"pixels": pixels})[0]
        below = np.concatenate([features[:, TAPPED], features[:, COLOUR]], axis=1)
        return grids.astype(np.float16), below.astype(np.float16), own, with_views(own, sums)

    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(look, range(0, len(samples), BATCH))


def read_all(data: Path, shards: Sequence[str]) -> list[Sample]:
    """Return the pictures of several shards, in order."""
    return list(itertools.chain.from_iterable(read_shard(data / f"{shard}.tar") for shard in shards))


def captions_said(samples: Sequence[Sample]) -> NDArray[np.int64]:
    """Return which of its captions stands for each picture in what is taught."""
    return np.random.default_rng(0).integers(0, [len(sample.captions) for sample in samples])


def main() -> None:
    """Write everything that distil.py reads; what is there already stays."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "data", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=1, help="boxes of each picture")
    arguments = parser.parse_args()
    model, data, folder = arguments.model, arguments.data, arguments.work / "boxes"
    folder.mkdir(parents=True, exist_ok=True)
    session, text = open_with_cut(model / "image.onnx"), open_session(model / "text.onnx")
    tokenizer = open_tokenizer(model / "tokenizer.json")
    for shard in DEV_SHARDS:
        samples = list(read_shard(data / f"{shard}.tar"))
        write(folder, shard, session, samples, None)
        captions = [caption for sample in samples for caption in sample.captions]
        np.save(folder / f"{shard}-texts.npy", run_texts(text, tokenizer, captions, output="embedding"))
        np.save(folder / f"{shard}-owner.npy", np.repeat(np.arange(len(samples)), [len(s.captions) for s in samples]))
    samples = read_all(data, train_shards(data, ".tar"))
    said = [sample.captions[n] for sample, n in zip(samples, captions_said(samples), strict=True)]
    np.save(folder / "train-texts.npy", run_texts(text, tokenizer, said, output="embedding"))
    others = read_all(data, tuple(shard for shard in UNLABELLED_SHARDS if (data / f"{shard}.tar").exists()))
    for number in range(arguments.rounds):
        write(folder, f"train-{number}", session, samples, number)
        if others:
            write(folder, f"unlabelled-{number}", session, others, number + UNLABELLED_SEED)


if __name__ == "__main__":
    main()
