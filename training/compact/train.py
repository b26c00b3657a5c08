"""Train the heads on frozen features: `python -m training.compact.train --work DIR`.

Writes `DIR/head.pt` and prints dev recall.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torchvision.models._meta import _IMAGENET_CATEGORIES  # type: ignore[import-untyped]  # it ships no types

from .common import DEV_SHARDS, Recall, measure_recall, open_session, open_tokenizer, run_texts, train_shards
from .head import ImageHead, Shape, TextHead
from .towers import WIDTH, ImageTower, tokenizer_file


@dataclass(frozen=True)
class Settings:
    """One training run."""

    epochs: int = 20
    batch: int = 1024
    rate: float = 1e-3
    decay: float = 0.05
    noise: float = 0.2
    dropout: float = 0.4
    text_dropout: float = 0.3
    noun_weight: float = 0.1
    phrase_share: float = 0.2
    average: float = 0.98
    views: tuple[str, ...] = ("squash", "random")
    seed: int = 1


@dataclass(frozen=True)
class Texts:
    """Frozen features (m, 1152) of texts; text j belongs to picture owner[j], owners ascend."""

    features: Tensor
    owner: NDArray[np.int64]

    @classmethod
    def load(cls, folder: Path, shards: tuple[str, ...], kind: str, sizes: list[int]) -> Texts:
        """Return the texts of shards that hold `sizes` pictures."""
        bases = np.cumsum([0, *sizes[:-1]])
        owners = [np.load(folder / f"{s}-{kind}-owner.npy") + b for s, b in zip(shards, bases, strict=True)]
        rows = np.concatenate([np.load(folder / f"{s}-{kind}.npy") for s in shards])
        return cls(torch.from_numpy(rows), np.concatenate(owners))

    def draw(self, pictures: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Return one text of each picture, chosen at random, or -1 where a picture has none."""
        first, last = (np.searchsorted(self.owner, pictures, side=side) for side in ("left", "right"))
        return np.where(last > first, first + rng.integers(0, np.maximum(last - first, 1)), -1)


@dataclass(frozen=True)
class Features:
    """Frozen features of shards: views of images (n, 3696) and what is said about them."""

    views: tuple[Tensor, ...]
    texts: Texts
    phrases: Texts

    @classmethod
    def load(cls, work: Path, shards: tuple[str, ...], views: tuple[str, ...]) -> Features:
        """Return what features.py wrote, as float16."""
        folder = work / "features"
        parts = [[np.load(folder / f"{s}-{v}.npy") for s in shards] for v in views]
        sizes = [len(part) for part in parts[0]]
        texts, phrases = (Texts.load(folder, shards, kind, sizes) for kind in ("captions", "phrases"))
        return cls(tuple(torch.from_numpy(np.concatenate(part)) for part in parts), texts, phrases)


class Heads(nn.Module):
    """Both heads, the learned logit scale and the features of the class names."""

    nouns: Tensor

    def __init__(self, shape: Shape, settings: Settings, names: Tensor) -> None:
        """`names`: text features of the 1000 ImageNet class names (1000, 1152)."""
        super().__init__()
        self.image = ImageHead(shape, noise=settings.noise, dropout=settings.dropout)
        self.text = TextHead(shape, noise=settings.noise / 2, dropout=settings.text_dropout)
        self.scale = nn.Parameter(torch.tensor(3.0))
        self.register_buffer("nouns", names)
        self.image.names.copy_(normalize(names[:, :WIDTH], dim=-1))

    def loss(self, pictures: Tensor, captions: Tensor, noun_weight: float) -> Tensor:
        """Return symmetric InfoNCE of matching rows, plus class names against the tower's own classes."""
        images, texts, scale = self.image(pictures), self.text(captions), self.scale.exp()
        logits = scale * images @ texts.T
        target = torch.arange(len(images))
        loss = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
        if noun_weight:
            with torch.no_grad():
                classes = self.image.classes(pictures)
            loss = loss + noun_weight * cross_entropy(scale * images @ self.text(self.nouns).T, classes)
        return loss


def class_name_features(work: Path) -> Tensor:
    """Return text features (1000, 1152) of torchvision's ImageNet category names."""
    tokenizer = open_tokenizer(tokenizer_file())
    session = open_session(work / "towers" / "text.onnx")
    return torch.from_numpy(run_texts(session, tokenizer, list(_IMAGENET_CATEGORIES), output="features"))


def new_heads(
    shape: Shape, settings: Settings, data: Features, names: Tensor, tower: ImageTower | None = None
) -> Heads:
    """Return heads that start as ConSE on one side and the plain sentence embedding on the other."""
    torch.manual_seed(settings.seed)
    heads = Heads(shape, settings, names)
    weight, bias = (tower or ImageTower()).classifier()
    heads.image.classifier.weight.data.copy_(weight)
    heads.image.classifier.bias.data.copy_(bias)
    heads.image.residual.standardise(data.views[0].float())
    heads.text.residual.standardise(data.texts.features.float())
    return heads


def draw_pictures(data: Features, order: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
    """Return features (n, 3696) of the pictures in `order`, each in a view chosen at random."""
    view = rng.integers(0, len(data.views), len(order))
    rows = torch.empty(len(order), data.views[0].shape[1])
    for index, features in enumerate(data.views):
        rows[view == index] = features[order[view == index]].float()
    return rows


def draw_texts(data: Features, order: NDArray[np.int64], share: float, rng: np.random.Generator) -> Tensor:
    """Return features (n, 1152) of one caption per picture, or of a phrase for a random `share` of them."""
    rows = data.texts.features[data.texts.draw(order, rng)].float()
    phrase = data.phrases.draw(order, rng)
    chosen = (rng.random(len(order)) < share) & (phrase >= 0)
    rows[chosen] = data.phrases.features[phrase[chosen]].float()
    return rows


def train(heads: Heads, data: Features, settings: Settings) -> Heads:
    """Return the exponential average of the heads' weights over AdamW with a cosine schedule."""
    rng = np.random.default_rng(settings.seed)
    steps = settings.epochs * (len(data.views[0]) // settings.batch)
    weights = [p for p in heads.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in weights if p.ndim > 1], "weight_decay": settings.decay},
        {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.rate, total_steps=steps, pct_start=0.1)
    average = copy.deepcopy(heads).eval()
    heads.train()
    for _ in range(settings.epochs):
        order = rng.permutation(len(data.views[0]))
        for start in range(0, len(order) - settings.batch + 1, settings.batch):
            part = order[start : start + settings.batch]
            captions = draw_texts(data, part, settings.phrase_share, rng)
            loss = heads.loss(draw_pictures(data, part, rng), captions, settings.noun_weight)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                for slow, fast in zip(average.parameters(), heads.parameters(), strict=True):
                    slow.lerp_(fast, 1.0 - settings.average)
    return average


@torch.no_grad()
def dev_recall(heads: Heads, data: Features, view: int) -> Recall:
    """Return recall on dev features, pictures seen in one view."""
    images = heads.image(data.views[view].float()).numpy()
    return measure_recall(images, heads.text(data.texts.features.float()).numpy(), data.texts.owner)


def main() -> None:
    """Train the heads and print recall for both ways to resize."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument(
        "--views", nargs="+", default=Settings().views, help="of the pictures, as features.py made them"
    )
    arguments = parser.parse_args()
    work: Path = arguments.work
    settings, shape = Settings(views=tuple(arguments.views)), Shape()
    started = time.monotonic()
    data = Features.load(work, train_shards(work / "features", "-squash.npy"), settings.views)
    heads = train(new_heads(shape, settings, data, class_name_features(work)), data, settings)
    print(f"{settings} {shape} {time.monotonic() - started:.0f} s")
    resizes = ("squash", "crop")
    for shard in DEV_SHARDS:
        dev = Features.load(work, (shard,), resizes)
        for view, name in enumerate(resizes):
            print(f"{shard} {name}: {dev_recall(heads, dev, view).row()}")
    state = {"image": heads.image.state_dict(), "text": heads.text.state_dict(), "shape": asdict(shape)}
    torch.save(state, work / "head.pt")


if __name__ == "__main__":
    main()
