"""Teach one view what several say: `python -m training.compact.distil --model DIR --data DIR --work DIR --out DIR`.

The last blocks of the image tower of MODEL, and its head, learn the mean direction of several views (`boxes.py`), of
random boxes of the training pictures; texts stay where they are. Starts from the graph itself. Prints how well training
pictures are known, and after every epoch dev recall of whole pictures, without what makes up for hubs, and how near
dev pictures come to their own teachers. OUT gets the graph, and the text tower as it is; `hubs.py` makes an encoder of
it.
"""

from __future__ import annotations

import argparse
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import kl_div

from .boxes import Kept
from .common import DEV_SHARDS, joined, measure_recall
from .graphs import save_image_graph
from .head import Encoder
from .running import Descent, parse
from .stored import read_image_encoder
from .towers import COLOUR_CELLS, CUT


@dataclass(frozen=True)
class Settings:
    """One run."""

    epochs: int = 2
    batch: int = 256
    head_rate: float = 3e-4
    image_rate: float = 1e-4
    decay: float = 0.05
    direction: float = 10.0  # what 1 − cosine counts for
    committee: float = 0.0  # share of what the members of the committee (committee.py) say in the answers
    scale: float = 25.0  # of cosines with texts
    texts: int = 1280  # of other pictures, that the answers are compared on
    average: float = 0.98
    mirrored: float = 0.5  # of the boxes
    seed: int = 1


def rows_of(encoder: Encoder, kept: Kept, which: NDArray[np.int64], turned: NDArray[np.bool_] | None = None) -> Tensor:
    """Return unit rows (n, 384) of some pictures, from the cut on; those that are `turned` are mirrored there."""
    grids = kept.grids(which)
    cut, colour = grids.cut, grids.colour.unflatten(1, (3, COLOUR_CELLS, COLOUR_CELLS))
    if turned is not None:
        chosen = torch.from_numpy(turned)[:, None, None, None]
        cut, colour = torch.where(chosen, cut.flip(3), cut), torch.where(chosen, colour.flip(3), colour)
    with torch.autocast("cpu", torch.bfloat16):
        cut = cut.contiguous(memory_format=torch.channels_last)
        features, tokens = encoder.tower.upper(cut, grids.taps, colour.flatten(1))
        rows: Tensor = encoder.head(features.float(), tokens)
    return rows.float()


@dataclass(frozen=True)
class Round:
    """A box of every picture, and rows (n, …) whose products with those of the texts are to be learned."""

    kept: Kept
    images: Tensor


class Run:
    """A run over the boxes of the training pictures."""

    def __init__(self, encoder: Encoder, rounds: list[Round], texts: Tensor, asked: Tensor, settings: Settings) -> None:
        """`texts`: unit rows (m, 384) of the student's texts; `asked`: the teachers' rows (m, …) of the same."""
        self.encoder = encoder
        self._rounds, self._texts, self._asked, self._settings = rounds, texts, asked, settings
        tower = [
            weight
            for module in (*encoder.tower.net._blocks[CUT:], encoder.tower.net._conv_head)
            for name, weight in module.named_parameters()
            if "depthwise" not in name
        ]
        head = [weight for name, weight in encoder.head.named_parameters() if not name.startswith("classifier")]
        self.steps = len(rounds[0].kept) // settings.batch
        self.descent = Descent(
            encoder,
            [(tower, settings.image_rate), (head, settings.head_rate)],
            steps=settings.epochs * self.steps,
            decay=settings.decay,
            average=settings.average,
        )

    def step(self, boxes: Round, which: NDArray[np.int64], rng: np.random.Generator) -> float:
        """Learn from one batch and return its loss: 1 − cosine, and the divergence of the answers to texts.

        Those of its own pictures are left out: the teacher, which was trained on them, knows them too well.
        """
        settings = self._settings
        turned = rng.random(len(which)) < settings.mirrored
        rows, taught = rows_of(self.encoder, boxes.kept, which, turned), torch.from_numpy(boxes.kept.taught[which])
        others = rng.choice(np.setdiff1d(np.arange(len(self._texts)), which), settings.texts, replace=False)
        answers = (rows @ self._texts[others].T * settings.scale).log_softmax(1)
        wanted = (boxes.images[which] @ self._asked[others].T * settings.scale).log_softmax(1)
        loss = settings.direction * (1.0 - (rows * taught).sum(1)).mean()
        loss = loss + kl_div(answers, wanted, log_target=True, reduction="batchmean")
        return self.descent.step(loss)

    def epoch(self, number: int) -> float:
        """Learn from one box of every picture, and return the mean loss; rounds of boxes take turns."""
        rng = np.random.default_rng((self._settings.seed, number))
        boxes, losses = self._rounds[number % len(self._rounds)], []
        for index, which in enumerate(np.array_split(rng.permutation(len(boxes.kept)), self.steps)):
            losses.append(self.step(boxes, np.sort(which), rng))
            if index % 20 == 19:
                print(f"epoch {number}: {index + 1}/{self.steps}, loss {np.mean(losses[-20:]):.3f}", flush=True)
        return float(np.mean(losses))


@torch.no_grad()
def report(encoder: Encoder, folder: Path) -> None:
    """Print dev recall of whole pictures, and their mean cosine with what they are taught."""
    for shard in DEV_SHARDS:
        kept = Kept(folder, shard)
        parts = np.array_split(np.arange(len(kept)), max(1, len(kept) // 100))
        rows = torch.cat([rows_of(encoder, kept, part) for part in parts]).numpy()
        texts, owner = np.load(folder / f"{shard}-texts.npy"), np.load(folder / f"{shard}-owner.npy")
        near = float((rows * kept.taught).sum(axis=1).mean())
        print(f"{shard} {measure_recall(rows, texts, owner).row()}, cosine to the teacher {near:.4f}", flush=True)


def report_by_heart(kept: Kept, texts: NDArray[np.float32]) -> None:
    """Print the recall of a thousand boxes of training pictures, by one view of them and by all."""
    some = np.sort(np.random.default_rng(0).permutation(len(texts))[:1000])
    for name, rows in (("one view", kept.own), ("the teacher", kept.taught)):
        recall = measure_recall(rows[some], texts[some], np.arange(len(some)))
        print(f"{len(some)} training pictures, {name}: {recall.row()}", flush=True)


def open_rounds(work: Path, texts: NDArray[np.float32], share: float) -> tuple[list[Round], Tensor]:
    """Return the rounds of boxes and the teachers' rows (m, …) of texts; the committee has a share in both.

    Boxes of captioned pictures come first, in the order of their texts, then the others.
    """
    folder, committee = work / "boxes", work / "committee"
    train, others = (
        sorted(path.name.removesuffix("-own.npy") for path in folder.glob(f"{kind}-*-own.npy"))
        for kind in ("train", "unlabelled")
    )
    said = sorted(committee.glob("train-texts-member*.npy")) if share else []
    if share and not said:
        raise SystemExit(f"{committee} holds no member: run training.compact.committee first")
    rounds = []
    for number, name in enumerate(train):
        names = [name, others[number % len(others)]] if others else [name]
        kept = Kept(folder, *names)
        members = [path.name.removeprefix("train-texts-") for path in said]
        rows = [np.concatenate([np.load(committee / f"{each}-{member}") for each in names]) for member in members]
        rounds.append(Round(kept, torch.from_numpy(joined(kept.taught, rows, share))))
    return rounds, torch.from_numpy(joined(texts, [np.load(path) for path in said], share))


def main() -> None:
    """Train, print what it does to dev after every epoch, and write the graph."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    arguments, settings = parse(parser, Settings())
    torch.manual_seed(settings.seed)
    torch.set_num_threads(2)
    folder: Path = arguments.work / "boxes"
    encoder = read_image_encoder(arguments.model / "image.onnx")
    out: Path = arguments.out or arguments.work / "distilled"
    out.mkdir(parents=True, exist_ok=True)
    for name in ("text.onnx", "tokenizer.json"):
        shutil.copyfile(arguments.model / name, out / name)
    texts = np.load(folder / "train-texts.npy")
    rounds, asked = open_rounds(arguments.work, texts, settings.committee)
    report_by_heart(rounds[0].kept, texts)
    run = Run(encoder, rounds, torch.from_numpy(texts), asked, settings)
    report(encoder, folder)
    for number in range(settings.epochs):
        started = time.monotonic()
        loss = run.epoch(number)
        print(f"epoch {number}: loss {loss:.3f} ({time.monotonic() - started:.0f} s)", flush=True)
        report(run.descent.average, folder)
        save_image_graph(run.descent.average, out / "image.onnx", outputs=("embedding", "tokens"))


if __name__ == "__main__":
    main()
