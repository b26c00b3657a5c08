"""Tune the last blocks of both towers with their heads: `python -m training.compact.tune --data DIR --work DIR`.

Starts from `WORK/head.pt` (train.py) and the cuts that features.py cached. Each epoch leaves `WORK/tune-last.pt`, from
which a run that was stopped goes on; the last writes `WORK/tuned.pt`, which export.py reads.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.models._meta import _IMAGENET_CATEGORIES  # type: ignore[import-untyped]  # it ships no types

from .common import DEV_SHARDS, Recall, measure_recall, open_tokenizer, train_shards
from .cuts import Grids, Pictures, Words, augment, batches, neighbours
from .export import load_encoders
from .head import Encoder, ImageHead, Shape
from .towers import tokenizer_file

PARTS = 3  # of a batch of texts, by length
SHAPE = Shape(attention_heads=8)


@dataclass(frozen=True)
class Settings:
    """One run."""

    epochs: int = 5
    batch: int = 192
    group: int = 4
    queue: int = 20
    head_rate: float = 2e-4
    image_rate: float = 2e-5
    text_rate: float = 2e-5
    decay: float = 0.05
    noun_weight: float = 0.05
    phrase_share: float = 0.15
    masked: float = 0.1
    average: float = 0.99
    frozen_blocks: int = 18
    frozen_layers: int = 2
    views: tuple[str, ...] = ("squash",)
    seed: int = 1


class DualEncoder(nn.Module):
    """Both encoders, and what stays frozen in them."""

    def __init__(self, image: Encoder, text: Encoder, settings: Settings) -> None:
        super().__init__()
        self.image, self.text = image, text
        self.scale = nn.Parameter(torch.tensor(3.2))
        self._layers, self.start = settings.frozen_layers, settings.frozen_blocks
        net, tower = image.tower.net, text.tower
        for module in (net, tower.word, tower.position, tower.norm, *tower.layers[: self._layers]):
            module.requires_grad_(False)
        for module in (*net._blocks[self.start :], net._conv_head, net._bn1):
            module.requires_grad_(True)

    def train(self, mode: bool = True) -> DualEncoder:
        """Set the mode of the heads; the batch norms of the image tower keep the statistics of ImageNet."""
        super().train(mode)
        self.image.tower.eval()
        return self

    def images(self, grids: Grids) -> Tensor:
        """Return unit rows (n, 384)."""
        with torch.autocast("cpu", torch.bfloat16):
            features, tokens = self.image.tower.upper(grids.cut, grids.taps, grids.colour, start=self.start)
        rows: Tensor = self.image.head(features.float(), tokens.float())
        return rows

    def texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return unit rows (n, 384)."""
        with torch.autocast("cpu", torch.bfloat16):
            features, tokens = self.text.tower(ids, mask)
        rows: Tensor = self.text.head(features.float(), tokens.float())
        return rows

    def groups(self, settings: Settings) -> list[dict[str, object]]:
        """Return what AdamW trains: heads and towers at their own rates, biases and norms without decay."""
        heads = [self.image.head, self.text.head]
        parts = (
            (heads, settings.head_rate),
            ([self.image.tower], settings.image_rate),
            ([self.text.tower], settings.text_rate),
        )
        found: list[dict[str, object]] = [{"params": [self.scale], "lr": settings.head_rate, "weight_decay": 0.0}]
        for modules, rate in parts:
            weights = [p for module in modules for p in module.parameters() if p.requires_grad]
            found.append({"params": [p for p in weights if p.ndim > 1], "lr": rate, "weight_decay": settings.decay})
            found.append({"params": [p for p in weights if p.ndim < 2], "lr": rate, "weight_decay": 0.0})
        return found


def with_attention(image: Encoder, text: Encoder) -> tuple[Encoder, Encoder]:
    """Return the encoders of the first stage, attention pooling added to the head of the image tower."""
    head = ImageHead(SHAPE)
    head.load_state_dict(image.head.state_dict(), strict=False)
    image.head = head.eval()
    return image, text


@dataclass(frozen=True)
class Seen:
    """One batch as it was embedded: pictures (n,), and unit rows of them and of their texts (n, 384)."""

    pictures: NDArray[np.int64]
    images: Tensor
    texts: Tensor


def contrast(now: Seen, before: deque[Seen], scale: Tensor) -> Tensor:
    """Return symmetric InfoNCE; earlier batches (Wang et al. 2020, cross-batch memory) give more negatives.

    What shows or describes a picture of this batch is no negative.
    """
    pictures = np.concatenate([now.pictures, *(seen.pictures for seen in before)])
    same = torch.from_numpy(now.pictures[:, None] == pictures[None, :])
    same[:, : len(now.pictures)] &= ~torch.eye(len(now.pictures), dtype=torch.bool)
    target = torch.arange(len(now.pictures))
    total = torch.zeros(())
    for rows, columns in (
        (now.images, [now.texts, *(seen.texts for seen in before)]),
        (now.texts, [now.images, *(seen.images for seen in before)]),
    ):
        logits = (scale.exp() * rows @ torch.cat(columns).T).masked_fill(same, -torch.inf)
        total = total + cross_entropy(logits, target) / 2
    return total


class Run:
    """A run over the training shards."""

    def __init__(self, model: DualEncoder, settings: Settings, data: Path, work: Path) -> None:
        shards = train_shards(data, ".tar")
        self.model, self.settings, self.work = model, settings, work
        self.pictures = Pictures(work, shards, settings.views, model.image.tower, start=model.start)
        tokenizer = open_tokenizer(tokenizer_file())
        self.captions = Words(tokenizer, data, shards, short=False)
        self.phrases = Words(tokenizer, data, shards, short=True)
        self.nouns = self.captions.tokens(list(_IMAGENET_CATEGORIES))
        self.average = copy.deepcopy(model).eval()
        self.optimizer = torch.optim.AdamW(model.groups(settings))
        self._near = neighbours(self._embedded(), self.pictures.flickr)
        self._steps = settings.epochs * (len(self.pictures) // settings.batch)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._share)
        self._queue: deque[Seen] = deque(maxlen=settings.queue)
        with torch.no_grad():
            self._noun_rows = model.texts(*self.nouns)

    def _share(self, step: int) -> float:
        """Return the share of the rates at a step: a short ramp, then a cosine."""
        ramp = 60
        return (
            step / ramp
            if step < ramp
            else 0.5 + 0.5 * float(np.cos(np.pi * min(1.0, (step - ramp) / (self._steps - ramp))))
        )

    @torch.no_grad()
    def _embedded(self) -> NDArray[np.float32]:
        """Return what the heads of the first stage make of the pictures, (n, 384)."""
        rows = torch.from_numpy(self.pictures.features[0])
        return np.concatenate([self.model.image.head(part.float()).numpy() for part in rows.split(2048)])

    def _texts(self, which: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        """Return unit rows (n, 384) of one text of each picture; those of like length are padded together."""
        captions, phrases = self.captions.draw(which, rng), self.phrases.draw(which, rng)
        short = (rng.random(len(which)) < self.settings.phrase_share) & (phrases >= 0)
        texts = [
            self.phrases.texts[p] if use else self.captions.texts[c]
            for use, p, c in zip(short, phrases, captions, strict=True)
        ]
        order = np.argsort([len(text) for text in texts])
        rows = [
            self.model.texts(*self.captions.tokens([texts[i] for i in part], masked=self.settings.masked, rng=rng))
            for part in np.array_split(order, PARTS)
        ]
        return torch.cat(rows)[np.argsort(order)]

    def step(self, which: NDArray[np.int64], rng: np.random.Generator) -> float:
        """Learn from one batch and return its loss."""
        view = rng.integers(0, self.pictures.views, len(which))
        grids = self.pictures.read(which, view)
        images, texts = self.model.images(augment(grids, rng)), self._texts(which, rng)
        loss = contrast(Seen(which, images, texts), self._queue, self.model.scale)
        if self.settings.noun_weight:
            rows = np.stack([self.pictures.features[v][i] for i, v in zip(which, view, strict=True)])
            with torch.no_grad():
                classes = self.model.image.head.classes(torch.from_numpy(rows).float())
            loss = loss + self.settings.noun_weight * cross_entropy(
                self.model.scale.exp() * images @ self._noun_rows.T, classes
            )
        self._queue.append(Seen(which, images.detach(), texts.detach()))
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], 2.0)
        self.optimizer.step()
        self.schedule.step()
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), self.model.parameters(), strict=True):
                if fast.requires_grad:
                    slow.lerp_(fast, 1.0 - self.settings.average)
        return loss.item()

    def epoch(self, number: int) -> Iterator[tuple[int, int, float]]:
        """Yield (batch, batches, loss) over all pictures once; an epoch depends on its number and the seed alone."""
        rng = np.random.default_rng((self.settings.seed, number))
        self.model.train()
        with torch.no_grad():
            self._noun_rows = self.average.texts(*self.nouns)
        settings = self.settings
        order = batches(self._near, self.pictures.flickr, size=settings.batch, group=settings.group, rng=rng)
        for index, which in enumerate(order):
            yield index, len(order), self.step(which, rng)

    def save(self, path: Path, epoch: int) -> None:
        """Keep all that a continued run needs."""
        parts = {name: getattr(self, name).state_dict() for name in ("model", "average", "optimizer", "schedule")}
        torch.save({**parts, "epoch": epoch}, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)

    def load(self, path: Path) -> int:
        """Go on from what `save` kept, and return the number of epochs that are done."""
        state = torch.load(path, weights_only=True)
        for name in ("model", "average", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        return int(state["epoch"])


@torch.no_grad()
def dev_recall(model: DualEncoder, data: Path, work: Path, shard: str) -> Recall:
    """Return recall on a dev shard."""
    pictures = Pictures(work, (shard,), ("squash",), model.image.tower, start=model.start)
    everything = np.arange(len(pictures))
    images = torch.cat(
        [
            model.images(pictures.read(everything[i : i + 100], np.zeros(100, np.int64)))
            for i in range(0, len(pictures), 100)
        ]
    )
    words = Words(open_tokenizer(tokenizer_file()), data, (shard,), short=False)
    order = sorted(range(len(words.texts)), key=lambda i: len(words.texts[i]))
    texts = torch.empty(len(order), images.shape[1])
    for start in range(0, len(order), 100):
        part = order[start : start + 100]
        texts[part] = model.texts(*words.tokens([words.texts[i] for i in part]))
    return measure_recall(images.numpy(), texts.numpy(), words.owner)


def parse() -> tuple[argparse.Namespace, Settings]:
    """Return the arguments, and the settings with those that were given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--batches", type=int, help="stop after so many batches of each epoch: for a trial")
    for field in fields(Settings):
        if field.name != "views":
            parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    arguments = parser.parse_args()
    given = {field.name: getattr(arguments, field.name) for field in fields(Settings) if field.name != "views"}
    return arguments, replace(Settings(), **given)


def main() -> None:
    """Train, and print dev recall after every epoch."""
    arguments, settings = parse()
    torch.manual_seed(settings.seed)
    torch.set_num_threads(2)
    run = Run(
        DualEncoder(*with_attention(*load_encoders(arguments.work / "head.pt")), settings),
        settings,
        arguments.data,
        arguments.work,
    )
    last = arguments.work / "tune-last.pt"
    done = run.load(last) if last.exists() else 0
    print(settings, f"{done} epochs were done", flush=True)
    for number in range(done, settings.epochs):
        started, losses = time.monotonic(), []
        for index, count, loss in run.epoch(number):
            losses.append(loss)
            if index % 20 == 19:
                speed = (index + 1) * settings.batch / (time.monotonic() - started)
                print(
                    f"epoch {number}: {index + 1}/{count}, loss {np.mean(losses[-20:]):.3f}, {speed:.0f}/s", flush=True
                )
            if arguments.batches and index + 1 == arguments.batches:
                break
        run.save(last, number + 1)
        told = "; ".join(f"{s} {dev_recall(run.average, arguments.data, arguments.work, s).row()}" for s in DEV_SHARDS)
        print(f"epoch {number}: {told} ({time.monotonic() - started:.0f} s)", flush=True)
    image, text = run.average.image, run.average.text
    state = {"image": image.state_dict(), "text": text.state_dict(), "shape": asdict(SHAPE)}
    torch.save(state, arguments.work / "tuned.pt")


if __name__ == "__main__":
    main()
