"""What the second stage reads: cuts of the image tower, tokens of the texts, and batches of pictures alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import normalize

from .common import FLICKR_SHARDS, Sample, read_shard, tokenize
from .nearest import FIRST_WORD, MASK
from .phrases import phrases
from .towers import COLOUR_CELLS, CUT, IMAGE_GROUPS, ImageTower

ALIKE = 32  # as many nearest pictures are known of each
TAPPED = slice(IMAGE_GROUPS["taps"][0], IMAGE_GROUPS["taps"][0] + 384)  # below the cut
COLOUR = slice(*IMAGE_GROUPS["colour"])


@dataclass(frozen=True)
class Grids:
    """What the tuned blocks start from: cut (n, channels, h, w), taps (n, 384), colour (n, 48)."""

    cut: Tensor
    taps: Tensor
    colour: Tensor


@torch.no_grad()
def forward(folder: Path, name: str, tower: ImageTower, start: int) -> NDArray[np.float16]:
    """Return the grids that block `start` takes, (n, channels, h, w), of cached cuts; written beside them, mapped."""
    path = folder / f"{name}{start}.npy"
    if not path.exists():
        parts = []
        for cut in torch.from_numpy(np.load(folder / f"{name}.npy")).split(100):
            with torch.autocast("cpu", torch.bfloat16):
                grid = cut.float()
                for block in tower.net._blocks[CUT:start]:
                    grid = block(grid)
            parts.append(grid.half().numpy())
        np.save(path, np.concatenate(parts))
    mapped: NDArray[np.float16] = np.load(path, mmap_mode="r")
    return mapped


class Pictures:
    """The cached views of the pictures of some shards, memory-mapped."""

    def __init__(
        self, work: Path, shards: tuple[str, ...], views: tuple[str, ...], tower: ImageTower, *, start: int
    ) -> None:
        """Open what features.py wrote for `shards`, brought forward once to what block `start` takes."""
        folder = work / "features"
        self.views = len(views)
        self._cuts = [[forward(folder, f"{s}-{v}-cut", tower, start) for s in shards] for v in views]
        self.features = [np.concatenate([np.load(folder / f"{s}-{v}.npy") for s in shards]) for v in views]
        sizes = [len(part) for part in self._cuts[0]]
        self._shard = np.repeat(np.arange(len(sizes)), sizes)
        self._row = np.concatenate([np.arange(size) for size in sizes])
        self.flickr = np.repeat([s in FLICKR_SHARDS for s in shards], sizes)

    def __len__(self) -> int:
        return len(self._row)

    def read(self, which: NDArray[np.int64], view: NDArray[np.int64]) -> Grids:
        """Return the grids of pictures, each in the view that is named for it."""
        cuts = [self._cuts[v][self._shard[i]][self._row[i]] for i, v in zip(which, view, strict=True)]
        rows = np.stack([self.features[v][i] for i, v in zip(which, view, strict=True)])
        features = torch.from_numpy(rows.astype(np.float32))
        return Grids(torch.from_numpy(np.stack(cuts)).float(), features[:, TAPPED], features[:, COLOUR])


def augment(grids: Grids, rng: np.random.Generator) -> Grids:
    """Return half of the grids mirrored, all cut to one window of eight or nine tenths of their side, or left whole."""
    mirrored = torch.from_numpy(rng.random(len(grids.cut)) < 0.5)
    cells = grids.colour.unflatten(1, (3, COLOUR_CELLS, COLOUR_CELLS))
    cut = torch.where(mirrored[:, None, None, None], grids.cut.flip(3), grids.cut)
    cells = torch.where(mirrored[:, None, None, None], cells.flip(3), cells)
    side = cut.shape[3]
    size = int(rng.integers(side - side // 8, side + 1))
    top, left = (int(rng.integers(0, side - size + 1)) for _ in range(2))
    return Grids(cut[:, :, top : top + size, left : left + size], grids.taps, cells.flatten(1))


class Words:
    """All texts of some shards as word pieces; text j belongs to picture owner[j], owners ascend."""

    def __init__(self, tokenizer: Tokenizer, data: Path, shards: tuple[str, ...], *, short: bool) -> None:
        """Read the captions, or with `short` the phrases in them, each once per picture."""
        samples: list[Sample] = [sample for shard in shards for sample in read_shard(data / f"{shard}.tar")]
        self.texts, owner = [], []
        for number, sample in enumerate(samples):
            found = [p for text in sample.captions for p in phrases(text)] if short else list(sample.captions)
            for text in dict.fromkeys(found) if short else found:
                self.texts.append(text)
                owner.append(number)
        self.owner = np.array(owner, np.int64)
        self._tokenizer = tokenizer

    def draw(self, pictures: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Return one text of each picture, chosen at random, or -1 where a picture has none."""
        first, last = (np.searchsorted(self.owner, pictures, side=side) for side in ("left", "right"))
        return np.where(last > first, first + rng.integers(0, np.maximum(last - first, 1)), -1)

    def tokens(self, texts: list[str], *, masked: float = 0.0, rng: np.random.Generator | None = None) -> list[Tensor]:
        """Return input_ids and attention_mask (n, t); a share `masked` of the words is hidden."""
        words = tokenize(self._tokenizer, texts)
        if rng is not None:
            hidden = (rng.random(words["input_ids"].shape) < masked) & (words["input_ids"] > FIRST_WORD)
            words["input_ids"][hidden] = MASK
        return [torch.from_numpy(words[name]) for name in ("input_ids", "attention_mask")]


def neighbours(rows: NDArray[np.float32], flickr: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the ALIKE nearest pictures (n, ALIKE) of each, of its own corpus; rows are unit vectors (n, dim)."""
    found = np.empty((len(rows), ALIKE), np.int64)
    for part in (np.flatnonzero(flickr), np.flatnonzero(~flickr)):
        own = normalize(torch.from_numpy(rows[part]), dim=1)
        for start in range(0, len(part), 1024):
            scores = own[start : start + 1024] @ own.T
            found[part[start : start + 1024]] = part[scores.topk(ALIKE + 1, dim=1).indices[:, 1:].numpy()]
    return found


def batches(
    near: NDArray[np.int64],
    flickr: NDArray[np.bool_],
    *,
    size: int,
    group: int,
    rounds: int,
    rng: np.random.Generator,
) -> list[NDArray[np.int64]]:
    """Return batches of one corpus each, made of groups of `group` pictures that look alike.

    Each picture once, and those of Flickr8k, which have five captions, `rounds` times.
    """
    found = []
    kinds = np.unique(flickr)
    for kind in np.repeat(kinds, np.where(kinds, rounds, 1)):
        left = flickr == kind
        groups = []
        for seed in rng.permutation(np.flatnonzero(left)):
            if left[seed]:
                alike = [other for other in rng.permutation(near[seed]) if left[other]][: group - 1]
                groups.append([seed, *alike])
                left[groups[-1]] = False
        order = np.concatenate([groups[i] for i in rng.permutation(len(groups))]).astype(np.int64)
        found += [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
    return [found[i] for i in rng.permutation(len(found))]
