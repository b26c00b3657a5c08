"""Teach texts where the pictures of like captions are: `python -m training.compact.refine --help`.

A text is moved a little towards the mean of the pictures whose captions are nearest to it (a k-nearest-neighbour
estimate, Nadaraya 1964, Watson 1964): that finds more, and most for short queries. The captions that it is worked out
from do not fit into an encoder, so the last layers of the text tower of MODEL, and its head, learn it: from the
training captions, from phrases in them and from captions without some of their words, none of which sees its own
picture. The image tower stays as it is. OUT gets both graphs; `hubs.py` makes an encoder of them.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from onnxruntime import InferenceSession
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import kl_div

from .boxes import read_all
from .common import (
    DEV_SHARDS,
    RESIZE,
    RESIZERS,
    Floats,
    Pieces,
    Sample,
    measure_recall,
    open_session,
    open_tokenizer,
    padded,
    pieces_of,
    run_pieces,
    to_pixels,
    train_shards,
)
from .graphs import save_text_graph
from .head import Encoder
from .nearest import Bank, Nearest, captions_of, phrases_of, refined, without_some
from .running import Descent, parse
from .stored import read_text_encoder

IMAGE_BATCH, THREADS = 4, 2
TOGETHER = 20  # batches that texts of like length are put into


@dataclass(frozen=True)
class Settings:
    """One run."""

    epochs: int = 1
    batch: int = 256
    head_rate: float = 4e-4
    tower_rate: float = 6e-5
    decay: float = 0.01
    first: int = 2  # layer of the text tower that learns, and those above
    nearest: int = 100  # captions that a text is compared with
    temperature: float = 0.05  # of their cosines
    share: float = 0.25  # of their pictures beside the text itself
    direction: float = 10.0  # what 1 − cosine counts for
    scale: float = 25.0  # of cosines with pictures
    pictures: int = 1280  # that the answers are compared on
    average: float = 0.98
    seed: int = 1


def embed_samples(session: InferenceSession, samples: Sequence[Sample]) -> Floats:
    """Return unit rows (n, dim) of whole pictures."""

    def look(first: int) -> Floats:
        some = [to_pixels(RESIZERS[RESIZE](sample.image())) for sample in samples[first : first + IMAGE_BATCH]]
        rows: Floats = session.run(["embedding"], {"pixels": np.stack(some)})[0]
        return rows

    with ThreadPoolExecutor(THREADS) as pool:
        return np.concatenate(list(pool.map(look, range(0, len(samples), IMAGE_BATCH))))


def pictures_of(graph: Path, samples: Sequence[Sample], work: Path) -> Floats:
    """Return unit rows (n, dim) of whole training pictures by a graph, from the disk once they were made."""
    path = work / f"pictures-{hashlib.sha256(graph.read_bytes()).hexdigest()[:16]}.npy"
    if not path.exists():
        np.save(path, embed_samples(open_session(graph, threads=1), samples))
    found: Floats = np.load(path)
    return found


class Dev(NamedTuple):
    """A dev shard: rows of its pictures, its captions, and the picture of each."""

    name: str
    pictures: Floats
    texts: list[Pieces]
    owner: NDArray[np.int64]


def read_dev(model: Path, data: Path, tokenizer: Tokenizer) -> Iterator[Dev]:
    """Yield the dev shards."""
    image = open_session(model / "image.onnx", threads=1)
    for shard in DEV_SHARDS:
        samples = read_all(data, [shard])
        captions, owner = captions_of(samples)
        yield Dev(shard, embed_samples(image, samples), pieces_of(tokenizer, captions), owner)


@torch.no_grad()
def report(encoder: Encoder, shards: Sequence[Dev], folder: Path) -> None:
    """Write the text graph, and print dev recall with it, without what makes up for hubs."""
    save_text_graph(encoder, folder / "text.onnx", output="embedding")
    session = open_session(folder / "text.onnx")
    for shard in shards:
        recall = measure_recall(shard.pictures, run_pieces(session, shard.texts, output="embedding"), shard.owner)
        print(f"{shard.name} {recall.row()}", flush=True)


class Run:
    """A run over texts: their word pieces, and the unit rows (n, dim) to learn."""

    def __init__(
        self, encoder: Encoder, texts: list[Pieces], wanted: Floats, pictures: Floats, settings: Settings
    ) -> None:
        """`pictures`: unit rows (p, dim) that answers are compared on."""
        self.encoder, self._texts, self._settings = encoder, texts, settings
        self._wanted, self._pictures = torch.from_numpy(wanted), torch.from_numpy(pictures)
        self._lengths = np.array([len(pieces) for pieces in texts])
        self.steps = len(texts) // settings.batch
        tower = list(encoder.tower.layers[settings.first :].parameters())
        self.descent = Descent(
            encoder,
            [(tower, settings.tower_rate), (list(encoder.head.parameters()), settings.head_rate)],
            steps=settings.epochs * self.steps,
            decay=settings.decay,
            average=settings.average,
        )

    def _rows(self, which: NDArray[np.int64]) -> Tensor:
        ids, mask = (torch.from_numpy(values) for values in padded([self._texts[i] for i in which]).values())
        with torch.autocast("cpu", torch.bfloat16):
            features, _ = self.encoder.tower(ids, mask)
        rows: Tensor = self.encoder.head(features.float())
        return rows

    def step(self, which: NDArray[np.int64], rng: np.random.Generator) -> float:
        """Learn from one batch and return its loss: 1 − cosine, and the divergence of the answers about pictures."""
        settings = self._settings
        rows, wanted = self._rows(which), self._wanted[which]
        pictures = self._pictures[rng.choice(len(self._pictures), settings.pictures, replace=False)]
        answers, right = ((settings.scale * each @ pictures.T).log_softmax(1) for each in (rows, wanted))
        loss = settings.direction * (1.0 - (rows * wanted).sum(1)).mean()
        loss = loss + kl_div(answers, right, log_target=True, reduction="batchmean")
        return self.descent.step(loss)

    def batches(self, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """Yield every text once, those of like length together."""
        order = rng.permutation(len(self._texts))[: self.steps * self._settings.batch].reshape(-1, self._settings.batch)
        found: list[NDArray[np.int64]] = []
        for first in range(0, len(order), TOGETHER):
            some = order[first : first + TOGETHER].ravel()
            found += np.split(some[np.argsort(self._lengths[some], kind="stable")], len(some) // self._settings.batch)
        yield from (found[i] for i in rng.permutation(len(found)))

    def epoch(self, number: int) -> float:
        """Learn from every text once, and return the mean loss."""
        rng = np.random.default_rng((self._settings.seed, number))
        losses: list[float] = []
        for which in self.batches(rng):
            losses.append(self.step(which, rng))
            if len(losses) % 100 == 0:
                print(f"epoch {number}: {len(losses)}/{self.steps}, loss {np.mean(losses[-100:]):.3f}", flush=True)
        return float(np.mean(losses))


def main() -> None:
    """Work out what is to be learned, learn it, and print what it does to dev before and after every epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    arguments, settings = parse(parser, Settings())
    torch.manual_seed(settings.seed)
    torch.set_num_threads(THREADS)
    model, data, out = arguments.model, arguments.data, arguments.out or arguments.work / "refined"
    out.mkdir(parents=True, exist_ok=True)
    for name in ("image.onnx", "tokenizer.json"):
        shutil.copyfile(model / name, out / name)
    tokenizer = open_tokenizer(model / "tokenizer.json")
    dev = list(read_dev(model, data, tokenizer))
    samples = read_all(data, train_shards(data, ".tar"))
    captions, owner = captions_of(samples)
    said, said_by = phrases_of(captions, owner, settings.seed)
    plain = pieces_of(tokenizer, captions)
    masked, shorter = (
        without_some(plain, np.random.default_rng((settings.seed, masked)), masked=masked) for masked in (True, False)
    )
    texts = [*plain, *pieces_of(tokenizer, said), *masked, *shorter]
    print(f"{len(samples)} pictures, {len(plain)} captions, {len(said)} phrases", flush=True)
    embed = partial(run_pieces, open_session(model / "text.onnx"), output="embedding")
    rows, pictures = embed(texts), pictures_of(model / "image.onnx", samples, arguments.work)
    bank = Bank(rows[: len(plain)], pictures[owner], owner)
    how = Nearest(settings.nearest, settings.temperature, settings.share)
    for shard in dev:
        recall = measure_recall(shard.pictures, refined(embed(shard.texts), bank, how), shard.owner)
        print(f"to be learned: {shard.name} {recall.row()}", flush=True)
    wanted = refined(rows, bank, how, np.concatenate([owner, said_by, owner, owner]))
    run = Run(read_text_encoder(model / "text.onnx"), texts, wanted, pictures, settings)
    report(run.encoder, dev, out)
    for number in range(settings.epochs):
        started = time.monotonic()
        loss = run.epoch(number)
        print(f"epoch {number}: loss {loss:.3f} ({time.monotonic() - started:.0f} s)", flush=True)
        report(run.descent.average, dev, out)


if __name__ == "__main__":
    main()
