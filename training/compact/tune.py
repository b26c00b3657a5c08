"""Tune the last blocks of both towers with their heads: `python -m training.compact.tune --data DIR --work DIR`.

Starts from `WORK/head.pt` (train.py), or from what an earlier run left (`--first`), and the cuts that features.py
cached. Each epoch leaves `OUT-last.pt`, from which a run that was stopped goes on; the last writes `OUT.pt`, which
export.py reads. With `--teacher`, what an earlier run makes of the same pictures and texts softens the targets.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
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
from .running import Stateful, keep, parse, resume
from .towers import WIDTH, tokenizer_file

PARTS = 2  # of a batch of texts, by length
SHAPE = Shape(attention_heads=8)


@dataclass(frozen=True)
class Settings:
    """One run."""

    epochs: int = 7
    batch: int = 384
    group: int = 4
    rounds: int = 2
    head_rate: float = 4e-4
    image_rate: float = 1e-4
    text_rate: float = 5e-5
    taught: float = 0.4
    decay: float = 0.05
    noun_weight: float = 0.05
    phrase_share: float = 0.15
    masked: float = 0.1
    average: float = 0.98
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
        for module in (*net._blocks[self.start :], net._conv_head):
            module.requires_grad_(True)
        for block in net._blocks[self.start :]:
            block._depthwise_conv.requires_grad_(False)  # 3 per cent of the weights, half of the time

    def train(self, mode: bool = True) -> DualEncoder:
        """Set the mode of the heads; the image tower has no other mode."""
        super().train(mode)
        self.image.tower.eval()
        return self

    def images(self, grids: Grids) -> Tensor:
        """Return unit rows (n, 384)."""
        with torch.autocast("cpu", torch.bfloat16):
            cut = grids.cut.contiguous(memory_format=torch.channels_last)
            features, tokens = self.image.tower.upper(cut, grids.taps, grids.colour, start=self.start)
            rows: Tensor = self.image.head(features.float(), tokens)
        return rows.float()

    def texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return unit rows (n, 384)."""
        with torch.autocast("cpu", torch.bfloat16):
            features, _ = self.text.tower(ids, mask)
            rows: Tensor = self.text.head(features.float())
        return rows.float()

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


def open_model(weights: Path, settings: Settings) -> DualEncoder:
    """Return the encoders of the first stage or of an earlier run; attention pooling is added where it is not there."""
    image, text = load_encoders(weights)
    head = ImageHead(SHAPE)
    head.load_state_dict(image.head.state_dict(), strict=False)
    image.head = head.eval()
    return DualEncoder(image, text, settings)


@dataclass(frozen=True)
class Teacher:
    """What an earlier run makes of the training set: unit rows (n, 384) of its pictures, captions and phrases."""

    images: Tensor
    captions: Tensor
    phrases: Tensor


def contrast(logits: Tensor, taught: Tensor | None, share: float) -> Tensor:
    """Return symmetric InfoNCE of logits (n, n) whose diagonal is right.

    Logits of a teacher get a `share` in the targets, as in momentum distillation (Li et al. 2021, ALBEF).
    """
    total = torch.zeros(())
    for own, other in ((logits, taught), (logits.T, None if taught is None else taught.T)):
        target = torch.eye(len(own))
        if other is not None:
            target = (1.0 - share) * target + share * other.softmax(1)
        total = total + cross_entropy(own, target) / 2
    return total


class Run:
    """A run over the training shards."""

    def __init__(
        self, model: DualEncoder, settings: Settings, data: Path, work: Path, teacher: DualEncoder | None = None
    ) -> None:
        shards = train_shards(data, ".tar")
        self.model, self.settings = model, settings
        self.pictures = Pictures(work, shards, settings.views, model.image.tower, start=model.start)
        tokenizer = open_tokenizer(tokenizer_file())
        self.captions = Words(tokenizer, data, shards, short=False)
        self.phrases = Words(tokenizer, data, shards, short=True)
        self.nouns = self.captions.tokens(list(_IMAGENET_CATEGORIES))
        self.average = copy.deepcopy(model).eval()
        self.optimizer = torch.optim.AdamW(model.groups(settings), fused=True)
        self._teacher = teacher and self._ask(teacher)
        known = image_rows(model, self.pictures) if self._teacher is None else self._teacher.images
        self._near = neighbours(known.numpy(), self.pictures.flickr)
        shown = len(self.pictures) + (settings.rounds - 1) * int(self.pictures.flickr.sum())
        self._steps = settings.epochs * (shown // settings.batch)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._share)
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

    def _ask(self, teacher: DualEncoder) -> Teacher:
        """Return what a teacher makes of the training set."""
        print("asking the teacher", flush=True)
        images = image_rows(teacher, self.pictures)
        return Teacher(images, text_rows(teacher, self.captions), text_rows(teacher, self.phrases))

    def _texts(self, which: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, Tensor | None]:
        """Return unit rows (n, 384) of one text of each picture, and those of the teacher.

        Texts of like length are padded together.
        """
        captions, phrases = self.captions.draw(which, rng), self.phrases.draw(which, rng)
        short = (rng.random(len(which)) < self.settings.phrase_share) & (phrases >= 0)
        taught = None
        if self._teacher is not None:
            taught = self._teacher.captions[captions]
            taught[short] = self._teacher.phrases[phrases[short]]
        texts = [
            self.phrases.texts[p] if use else self.captions.texts[c]
            for use, p, c in zip(short, phrases, captions, strict=True)
        ]
        order = np.argsort([len(text) for text in texts])
        rows = [
            self.model.texts(*self.captions.tokens([texts[i] for i in part], masked=self.settings.masked, rng=rng))
            for part in np.array_split(order, PARTS)
        ]
        return torch.cat(rows)[np.argsort(order)], taught

    def step(self, which: NDArray[np.int64], rng: np.random.Generator) -> float:
        """Learn from one batch and return its loss."""
        view = rng.integers(0, self.pictures.views, len(which))
        grids = self.pictures.read(which, view)
        with torch.autocast("cpu", torch.bfloat16):  # so that weights are cast once
            images, (texts, taught) = self.model.images(augment(grids, rng)), self._texts(which, rng)
        scale = self.model.scale.exp()
        asked = None
        if self._teacher is not None and taught is not None:
            asked = scale.detach() * self._teacher.images[which] @ taught.T
        loss = contrast(scale * images @ texts.T, asked, self.settings.taught)
        if self.settings.noun_weight:
            rows = np.stack([self.pictures.features[v][i] for i, v in zip(which, view, strict=True)])
            with torch.no_grad():
                classes = self.model.image.head.classes(torch.from_numpy(rows).float())
            loss = loss + self.settings.noun_weight * cross_entropy(scale * images @ self._noun_rows.T, classes)
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
        order = batches(
            self._near, self.pictures.flickr, size=settings.batch, group=settings.group, rounds=settings.rounds, rng=rng
        )
        for index, which in enumerate(order):
            yield index, len(order), self.step(which, rng)

    @property
    def parts(self) -> dict[str, Stateful]:
        """What a continued run needs."""
        return {"model": self.model, "average": self.average, "optimizer": self.optimizer, "schedule": self.schedule}


def write_weights(model: DualEncoder, path: Path) -> None:
    """Write what export.py and another run read."""
    state = {"image": model.image.state_dict(), "text": model.text.state_dict(), "shape": asdict(SHAPE)}
    torch.save(state, path)


@torch.no_grad()
def image_rows(model: DualEncoder, pictures: Pictures) -> Tensor:
    """Return unit rows (n, 384) of the first view of all pictures."""
    parts = np.array_split(np.arange(len(pictures)), max(1, len(pictures) // 100))
    return torch.cat([model.images(pictures.read(part, np.zeros_like(part))) for part in parts])


@torch.no_grad()
def text_rows(model: DualEncoder, words: Words) -> Tensor:
    """Return unit rows (m, 384) of all texts."""
    order = sorted(range(len(words.texts)), key=lambda i: len(words.texts[i]))
    rows = torch.empty(len(order), WIDTH)
    for part in np.array_split(order, max(1, len(order) // 100)):
        rows[part] = model.texts(*words.tokens([words.texts[i] for i in part]))
    return rows


def dev_recall(model: DualEncoder, data: Path, work: Path, shard: str) -> Recall:
    """Return recall on a dev shard."""
    pictures = Pictures(work, (shard,), ("squash",), model.image.tower, start=model.start)
    words = Words(open_tokenizer(tokenizer_file()), data, (shard,), short=False)
    return measure_recall(image_rows(model, pictures).numpy(), text_rows(model, words).numpy(), words.owner)


def main() -> None:
    """Train, and print dev recall after every epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=Path, help="weights to start from [WORK/head.pt]")
    parser.add_argument("--teacher", type=Path, help="weights of an earlier run whose answers soften the targets")
    parser.add_argument("--batches", type=int, help="stop after so many batches of each epoch: for a trial")
    arguments, settings = parse(parser, Settings())
    torch.manual_seed(settings.seed)
    torch.set_num_threads(2)
    model = open_model(arguments.first or arguments.work / "head.pt", settings)
    teacher = arguments.teacher and open_model(arguments.teacher, settings)
    run = Run(model, settings, arguments.data, arguments.work, teacher)
    out: Path = arguments.out or arguments.work / "tuned"
    last = out.with_name(f"{out.name}-last.pt")
    done = resume(last, run.parts) if last.exists() else 0
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
        keep(last, run.parts, epoch=number + 1)
        told = "; ".join(f"{s} {dev_recall(run.average, arguments.data, arguments.work, s).row()}" for s in DEV_SHARDS)
        print(f"epoch {number}: {told} ({time.monotonic() - started:.0f} s)", flush=True)
    write_weights(run.average, out.with_suffix(".pt"))


if __name__ == "__main__":
    main()
