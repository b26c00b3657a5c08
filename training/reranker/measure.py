"""What reranking does to recall at 1 on a dev shard, for several weights of the matching score.

`python -m training.reranker.measure --data DIR --work DIR --weights FILE --matcher FILE` helps to choose one, on
the queries about every second picture; `benchmarks.reranking` reports on those about the others.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..compact.common import DEV_SHARDS
from .matching import Matcher

if TYPE_CHECKING:
    from .train import Frozen

CANDIDATES = 50
WEIGHTS = (0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 1.0)
ASKED = 400  # queries of each direction, of the 500 about odd pictures
AT_ONCE = 4  # queries


@dataclass(frozen=True)
class Dev:
    """Pictures of a dev shard and one caption of each, as the frozen encoder sees them."""

    name: str
    images: Tensor
    grids: Tensor
    texts: Tensor
    words: Tensor
    mask: Tensor

    @classmethod
    def of(cls, frozen: Frozen, name: str) -> Dev:
        """Return the first caption of every picture, and the pictures."""
        count = len(frozen.pictures)
        parts = [frozen.look(part) for part in np.array_split(np.arange(count), count // 100)]
        first = np.searchsorted(frozen.captions.owner, np.arange(count))
        texts, words, mask = frozen.read([frozen.captions.texts[i] for i in first])
        return cls(name, torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]).half(), texts, words, mask)


@torch.no_grad()
def match(matcher: Matcher, dev: Dev, images: NDArray[np.int64], texts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return matching scores (g, i, j) of texts (g, i) with pictures (g, j), all by number."""
    found = []
    with torch.autocast("cpu", torch.bfloat16):
        states = torch.cat([matcher.picture_states(part.float()) for part in dev.grids.split(100)])
        words = matcher.text_states(dev.words)
        for start in range(0, len(images), AT_ONCE):
            some, other = images[start : start + AT_ONCE], texts[start : start + AT_ONCE]
            found.append(matcher(states[some], words[other], dev.mask[other]).float().numpy())
    return np.concatenate(found)


def report(matcher: Matcher, dev: Dev) -> str:
    """Return recall at 1 by weight of the matching score, both directions, as a line of a log."""
    similarity = (dev.texts @ dev.images.T).numpy()
    odd = np.arange(1, len(similarity), 2)
    asked = odd[np.linspace(0, len(odd) - 1, ASKED).astype(np.int64)]
    told = []
    for name, scores in (("t→i", similarity), ("i→t", similarity.T)):
        near = np.argsort(-scores[asked], axis=1)[:, :CANDIDATES]
        pair = (near, asked[:, None]) if name == "t→i" else (asked[:, None], near)
        matched = match(matcher, dev, *pair).reshape(near.shape)
        base = np.take_along_axis(scores[asked], near, axis=1)
        best = [near[np.arange(ASKED), (base + w * matched).argmax(1)] for w in WEIGHTS]
        told.append(
            f"{name} " + " ".join(f"{w:g}:{100 * np.mean(b == asked):.1f}" for w, b in zip(WEIGHTS, best, strict=True))
        )
    return f"{dev.name} {'; '.join(told)}"


def main() -> None:
    """Print the table of both dev shards."""
    from .export import load_matcher
    from .train import Frozen

    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("data", "work", "weights", "matcher"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    matcher = load_matcher(arguments.matcher)
    for shard in DEV_SHARDS:
        print(report(matcher, Dev.of(Frozen(arguments.data, arguments.work, arguments.weights, (shard,)), shard)))


if __name__ == "__main__":
    main()
