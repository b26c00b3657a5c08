"""Heads on frozen features, whose answers join those of the teacher: `python -m training.compact.committee --help`.

Each member has the towers as their packages have them, EfficientNet-Lite0, -Lite1 or -Lite2, and heads of its own,
trained as in the first stage on the boxes that `boxes.py` saw. Alone it finds less than the tuned encoder, but it errs
elsewhere: together they find more than the encoder alone. Writes what every member says of the boxes and of the texts,
for `distil.py`, and prints what the committee finds on dev.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .boxes import UNLABELLED_SEED, Kept, box_of, captions_said, read_all
from .common import (
    DEV_SHARDS,
    UNLABELLED_SHARDS,
    Floats,
    Pixels,
    Sample,
    joined,
    measure_recall,
    open_session,
    open_tokenizer,
    read_shard,
    run_texts,
    to_pixels,
    train_shards,
    unit,
)
from .head import Shape
from .towers import IMAGE_GROUPS, ImageTower, tokenizer_file
from .train import Features, Heads, Settings, Texts, class_name_features, new_heads, train

BATCH, THREADS = 32, 2
WIDTH = IMAGE_GROUPS["colour"][1]
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4)


class Member(NamedTuple):
    """One pair of heads: the tower that it reads, and the seed of its training."""

    tower: str
    seed: int


MEMBERS = (Member("lite2", 1), Member("lite1", 1), Member("lite2", 2), Member("lite1", 2), Member("lite0", 1))


@torch.no_grad()
def of_cuts(tower: ImageTower, kept: Kept) -> NDArray[np.float16]:
    """Return features (n, 3696) of boxes by the tower whose grids were kept."""
    parts = []
    for which in np.array_split(np.arange(len(kept)), max(1, len(kept) // 64)):
        grids = kept.grids(which)
        with torch.autocast("cpu", torch.bfloat16):
            cut = grids.cut.contiguous(memory_format=torch.channels_last)
            features, _ = tower.upper(cut, grids.taps, grids.colour)
        parts.append(features.float().numpy().astype(np.float16))
    return np.concatenate(parts)


def batches_of(samples: list[Sample], seed: int | None, size: int) -> Iterator[Tensor]:
    """Yield pixels (n, 3, size, size) of the boxes that boxes.py saw, each batch when it is asked for."""

    def look(number: int) -> Pixels:
        box = box_of(samples, number, seed)
        return to_pixels(box.resize((size, size), Image.Resampling.BICUBIC))

    with ThreadPoolExecutor(THREADS) as pool:
        for first in range(0, len(samples), BATCH):
            numbers = range(first, min(first + BATCH, len(samples)))
            yield torch.from_numpy(np.stack(list(pool.map(look, numbers))))


@torch.no_grad()
def of_boxes(tower: ImageTower, samples: list[Sample], seed: int | None) -> NDArray[np.float16]:
    """Return features (n, 3696) of boxes by a narrower tower; zeros between its taps and the colours."""
    parts = []
    colours = IMAGE_GROUPS["colour"][1] - IMAGE_GROUPS["colour"][0]
    for number, pixels in enumerate(batches_of(samples, seed, tower.kind.size)):
        with torch.autocast("cpu", torch.bfloat16):
            features, _ = tower(pixels.float().contiguous(memory_format=torch.channels_last))
        rows = np.zeros((len(features), WIDTH), np.float16)
        rows[:, : features.shape[1] - colours] = features[:, :-colours].float().numpy()
        rows[:, -colours:] = features[:, -colours:].float().numpy()
        parts.append(rows)
        if number % 100 == 99:
            print(f"{(number + 1) * BATCH} of {len(samples)}", flush=True)
    return np.concatenate(parts)


class Committee:
    """Where the boxes are, and what the members need."""

    def __init__(self, data: Path, work: Path) -> None:
        self.work, self.boxes, self.folder = work, work / "boxes", work / "committee"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._data = data
        self._towers: dict[str, ImageTower] = {}
        self._texts: dict[str, Texts] = {}

    def tower(self, name: str) -> ImageTower:
        """Return a tower, opened once."""
        if name not in self._towers:
            self._towers[name] = ImageTower(name).to(memory_format=torch.channels_last)
        return self._towers[name]

    def samples(self, name: str) -> tuple[list[Sample], int | None]:
        """Return the pictures of a shard or round of boxes, and the seed of the boxes."""
        kind, _, number = name.partition("-")
        if kind == "train":
            return read_all(self._data, train_shards(self._data, ".tar")), int(number)
        if kind == "unlabelled":
            return read_all(self._data, UNLABELLED_SHARDS), int(number) + UNLABELLED_SEED
        return list(read_shard(self._data / f"{name}.tar")), None

    def features(self, name: str, tower: str) -> NDArray[np.float16]:
        """Return features (n, 3696) of boxes, from the disk once they were made."""
        path = self.folder / f"{name}-{tower}.npy"
        if not path.exists():
            started = time.monotonic()
            if tower == "lite2":
                rows = of_cuts(self.tower(tower), Kept(self.boxes, name))
            else:
                rows = of_boxes(self.tower(tower), *self.samples(name))
            np.save(path, rows)
            print(f"{path.name}: {len(rows) / (time.monotonic() - started):.0f} pictures/s", flush=True)
        found: NDArray[np.float16] = np.load(path)
        return found

    def texts(self, name: str) -> Texts:
        """Return features (m, 1152) of the captions of a shard, or of all training shards."""
        if name not in self._texts:
            samples, _ = self.samples(name)
            session = open_session(self.work / "towers" / "text.onnx")
            captions = [caption for sample in samples for caption in sample.captions]
            rows = run_texts(session, open_tokenizer(tokenizer_file()), captions, output="features")
            owner = np.repeat(np.arange(len(samples)), [len(sample.captions) for sample in samples])
            self._texts[name] = Texts(torch.from_numpy(rows.astype(np.float16)), owner)
        return self._texts[name]

    def train(self, member: Member, rounds: list[str]) -> Heads:
        """Return trained heads."""
        views = tuple(torch.from_numpy(self.features(name, member.tower)) for name in rounds)
        captions = self.texts(rounds[0])
        nothing = Texts(captions.features[:0], captions.owner[:0])
        data = Features(views, captions, phrases=nothing)
        settings = Settings(seed=member.seed, phrase_share=0.0)
        names = class_name_features(self.work)
        return train(new_heads(Shape(), settings, data, names, self.tower(member.tower)), data, settings)


@torch.no_grad()
def image_rows(heads: Heads, features: NDArray[np.float16]) -> Floats:
    """Return unit rows (n, 384)."""
    return np.concatenate(
        [heads.image(torch.from_numpy(part).float()).numpy() for part in np.array_split(features, 50)]
    )


@torch.no_grad()
def text_rows(heads: Heads, texts: Texts) -> Floats:
    """Return unit rows (m, 384)."""
    return np.concatenate([heads.text(part.float()).numpy() for part in texts.features.split(1000)])


def report(committee: Committee, members: int) -> None:
    """Print dev recall of the teacher with the first members, by their share."""
    for share in SHARES:
        total = 0.0
        for shard in DEV_SHARDS:
            folder, boxes = committee.folder, committee.boxes
            rows = [np.load(folder / f"{shard}-member{n}.npy") for n in range(members)]
            texts = [np.load(folder / f"{shard}-texts-member{n}.npy") for n in range(members)]
            owner = np.load(boxes / f"{shard}-owner.npy")
            images = joined(unit(np.load(boxes / f"{shard}-taught.npy")), rows, share)
            found = measure_recall(images, joined(np.load(boxes / f"{shard}-texts.npy"), texts, share), owner)
            total += sum(found.text_to_image) + sum(found.image_to_text)
            print(f"{members} members, share {share}: {shard} {found.row()}", flush=True)
        print(f"{members} members, share {share}: sum {total:.1f}", flush=True)


def main() -> None:
    """Train the members one after another; what is there already stays."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rounds", nargs="+", default=["train-0"], help="of boxes, to train on")
    parser.add_argument("--members", type=int, default=len(MEMBERS))
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    committee = Committee(arguments.data, arguments.work)
    first = arguments.rounds[0]
    boxes = sorted(path.name.removesuffix("-taught.npy") for path in committee.boxes.glob("*-taught.npy"))
    samples, _ = committee.samples(first)
    said = np.searchsorted(committee.texts(first).owner, np.arange(len(samples))) + captions_said(samples)
    for number, member in enumerate(MEMBERS[: arguments.members]):
        if not (committee.folder / f"train-texts-member{number}.npy").exists():
            started = time.monotonic()
            heads = committee.train(member, arguments.rounds)
            for name in boxes:
                rows = image_rows(heads, committee.features(name, member.tower))
                np.save(committee.folder / f"{name}-member{number}.npy", rows)
            for shard in DEV_SHARDS:
                np.save(
                    committee.folder / f"{shard}-texts-member{number}.npy", text_rows(heads, committee.texts(shard))
                )
            rows = text_rows(heads, committee.texts(first))
            np.save(committee.folder / f"train-texts-member{number}.npy", rows[said])
            print(f"{member}: {time.monotonic() - started:.0f} s", flush=True)
        report(committee, number + 1)


if __name__ == "__main__":
    main()
