"""Train the reranker on a tuned encoder's frozen tokens: `python -m training.reranker.train --data DIR --work DIR`.

Reads the cuts that training/compact left in WORK, and the weights of its last run. Each epoch leaves `OUT-last.pt`,
from which a run that was stopped goes on, and `OUT.pt`, which export.py reads.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..compact.common import DEV_SHARDS, open_tokenizer, train_shards
from ..compact.cuts import Pictures, Words
from ..compact.export import load_encoders
from ..compact.running import Stateful, keep, parse, resume
from ..compact.towers import tokenizer_file
from .matching import Matcher
from .measure import Dev, report

BLOCK = 18  # of the image tower; what lies below is cached


@dataclass(frozen=True)
class Settings:
    """One run."""

    epochs: int = 3
    group: int = 8
    groups: int = 12
    among: int = 1500
    rate: float = 4e-4
    decay: float = 0.05
    dropout: float = 0.0
    smoothing: float = 0.05
    phrase_share: float = 0.1
    average: float = 0.99
    width: int = 192
    layers: int = 2
    seed: int = 1


def look_alikes(
    rows: NDArray[np.float32], flickr: NDArray[np.bool_], *, among: int, group: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Yield groups of `group` pictures of one corpus that stand near each other among `among` drawn at random.

    Hard negatives as the first stage finds them in a collection of that size. Rows are unit vectors (n, dim).
    """
    for kind in np.unique(flickr):
        order = rng.permutation(np.flatnonzero(flickr == kind))
        for part in np.array_split(order, max(1, len(order) // among)):
            scores = rows[part] @ rows[part].T
            left = np.ones(len(part), np.bool_)
            for seed in rng.permutation(len(part)):
                if left[seed] and left.sum() >= group:
                    near = [i for i in np.argsort(-scores[seed]) if left[i] and i != seed][: 3 * group]
                    chosen = [seed, *rng.permutation(near)[: group - 1]]
                    left[chosen] = False
                    yield part[chosen]


class Frozen:
    """The encoder whose tokens the matcher reads, and the training set as it sees it."""

    def __init__(self, data: Path, work: Path, weights: Path, shards: tuple[str, ...]) -> None:
        self.image, self.text = load_encoders(weights)
        for encoder in (self.image, self.text):
            encoder.requires_grad_(False)
        self.pictures = Pictures(work, shards, ("squash",), self.image.tower, start=BLOCK)
        tokenizer = open_tokenizer(tokenizer_file())
        self.captions = Words(tokenizer, data, shards, short=False)
        self.phrases = Words(tokenizer, data, shards, short=True)

    @torch.no_grad()
    def look(self, which: NDArray[np.int64], mirrored: NDArray[np.bool_] | None = None) -> tuple[Tensor, Tensor]:
        """Return unit rows (n, 384) and tokens (n, 81, 1280) of pictures."""
        grids = self.pictures.read(which, np.zeros_like(which))
        cut = grids.cut
        if mirrored is not None:
            cut = torch.where(torch.from_numpy(mirrored)[:, None, None, None], cut.flip(3), cut)
        with torch.autocast("cpu", torch.bfloat16):
            cut = cut.contiguous(memory_format=torch.channels_last)
            features, tokens = self.image.tower.upper(cut, grids.taps, grids.colour, start=BLOCK)
            rows = self.image.head(features.float(), tokens)
        return rows.float(), tokens.float()

    @torch.no_grad()
    def read(self, texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Return unit rows (n, 384), tokens (n, t, 384) and the mask (n, t) of texts."""
        ids, mask = self.captions.tokens(texts)
        with torch.autocast("cpu", torch.bfloat16):
            features, tokens = self.text.tower(ids, mask)
            rows = self.text.head(features.float())
        return rows.float(), tokens.float(), mask

    def rows(self) -> NDArray[np.float32]:
        """Return unit rows (n, 384) of all pictures."""
        parts = np.array_split(np.arange(len(self.pictures)), max(1, len(self.pictures) // 100))
        return torch.cat([self.look(part)[0] for part in parts]).numpy()


class Run:
    """A run over the training shards."""

    def __init__(self, frozen: Frozen, settings: Settings) -> None:
        self.frozen, self.settings = frozen, settings
        self.matcher = Matcher(width=settings.width, layers=settings.layers, dropout=settings.dropout)
        head = frozen.image.head
        self.matcher.begin(head.classifier.weight, head.names)
        self.average = copy.deepcopy(self.matcher).eval()
        weights = list(self.matcher.parameters())
        groups = [
            {"params": [p for p in weights if p.ndim > 1], "weight_decay": settings.decay},
            {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.rate, fused=True)
        steps = settings.epochs * (len(frozen.pictures) // (settings.group * settings.groups))
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, settings.rate, total_steps=steps + settings.epochs, pct_start=0.08
        )
        self._rows = frozen.rows()

    def texts(self, which: NDArray[np.int64], rng: np.random.Generator) -> list[str]:
        """Return one text of each picture."""
        captions, phrases = (words.draw(which, rng) for words in (self.frozen.captions, self.frozen.phrases))
        short = (rng.random(len(which)) < self.settings.phrase_share) & (phrases >= 0)
        return [
            self.frozen.phrases.texts[p] if use else self.frozen.captions.texts[c]
            for use, p, c in zip(short, phrases, captions, strict=True)
        ]

    def step(self, groups: list[NDArray[np.int64]], rng: np.random.Generator) -> float:
        """Learn from groups of pictures, each against the texts of its group, and return the loss."""
        count, size = len(groups), len(groups[0])
        which = np.concatenate(groups)
        _, tokens = self.frozen.look(which, rng.random(len(which)) < 0.5)
        _, words, mask = self.frozen.read(self.texts(which, rng))
        with torch.autocast("cpu", torch.bfloat16):
            images, texts = self.matcher.picture_states(tokens), self.matcher.text_states(words)
            parts = (part.unflatten(0, (count, size)) for part in (images, texts, mask))
            scores = self.matcher(*parts).float()
        target = torch.arange(size).expand(count, size).flatten()
        loss = torch.zeros(())
        for logits in (scores, scores.transpose(1, 2)):
            loss = loss + cross_entropy(logits.flatten(0, 1), target, label_smoothing=self.settings.smoothing) / 2
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.matcher.parameters(), 2.0)
        self.optimizer.step()
        self.schedule.step()
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), self.matcher.parameters(), strict=True):
                slow.lerp_(fast, 1.0 - self.settings.average)
        return loss.item()

    def epoch(self, number: int) -> Iterator[tuple[int, float]]:
        """Yield (pictures seen, loss) over all pictures once; an epoch depends on its number and the seed alone."""
        rng = np.random.default_rng((self.settings.seed, number))
        self.matcher.train()
        settings = self.settings
        found = list(
            look_alikes(self._rows, self.frozen.pictures.flickr, among=settings.among, group=settings.group, rng=rng)
        )
        order = [found[i] for i in rng.permutation(len(found))]
        for start in range(0, len(order) - settings.groups + 1, settings.groups):
            yield (start + settings.groups) * settings.group, self.step(order[start : start + settings.groups], rng)

    @property
    def parts(self) -> dict[str, Stateful]:
        """What a continued run needs."""
        return {
            "matcher": self.matcher,
            "average": self.average,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
        }


def main() -> None:
    """Train, and print what reranking does to a part of dev after every epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="of the encoder, as tune.py wrote them")
    arguments, settings = parse(parser, Settings())
    torch.manual_seed(settings.seed)
    torch.set_num_threads(2)
    weights: Path = arguments.weights
    out: Path = arguments.out or arguments.work / "matcher"
    run = Run(Frozen(arguments.data, arguments.work, weights, train_shards(arguments.data, ".tar")), settings)
    dev = [Dev.of(Frozen(arguments.data, arguments.work, weights, (shard,)), shard) for shard in DEV_SHARDS]
    last = out.with_name(f"{out.name}-last.pt")
    done = resume(last, run.parts) if last.exists() else 0
    size = sum(p.numel() for p in run.matcher.parameters()) / 1e6
    print(settings, f"{size:.1f} M weights, {done} epochs were done", flush=True)
    for number in range(done, settings.epochs):
        started, losses = time.monotonic(), []
        for seen, loss in run.epoch(number):
            losses.append(loss)
            if len(losses) % 40 == 0:
                speed = seen / (time.monotonic() - started)
                print(f"epoch {number}: {seen}, loss {np.mean(losses[-40:]):.3f}, {speed:.0f}/s", flush=True)
        keep(last, run.parts, epoch=number + 1)
        torch.save(
            {"matcher": run.average.state_dict(), "width": settings.width, "layers": settings.layers},
            out.with_suffix(".pt"),
        )
        for one in dev:
            print(f"epoch {number}: {report(run.average, one)} ({time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
