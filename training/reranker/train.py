"""Train the reranker on the tokens of `compact`: `python -m training.reranker.train --data DIR --work DIR`.

Tokens are read once into WORK. Each epoch leaves `OUT-last.pt`, from which a run that was stopped goes on, and
`OUT.pt`, which export.py reads.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mmsearch.corpora.records import CorpusOptions
from mmsearch.encoders.compact import CompactEncoder, load
from mmsearch.evaluation.embed import EmbeddedSet, embed_set
from mmsearch.rerank.cells import CHANNELS
from mmsearch.training.corpus import read_captioned
from mmsearch.training.rerank.feed import Feed, Said
from mmsearch.training.rerank.learner import Learner, shape_of
from mmsearch.training.rerank.recipe import MatchRecipe, Pairs
from mmsearch.training.rerank.tokens import PictureTokens, TextTokens, TokenSet, read_tokens
from mmsearch.types import EncoderSpec, UInt8

from ..compact.common import DEV_SHARDS, FLICKR_SHARDS, random_box, train_shards
from ..compact.phrases import phrases
from ..compact.running import keep, parse, resume
from .export import load_matcher
from .measure import report
from .swaps import swapped

BEGIN, AT_ONCE = 4000, 100  # pairs that the first weights are worked out from
LEAST_AREA = 0.5  # of a random box


@dataclass(frozen=True)
class Settings(MatchRecipe):
    """One run: the recipe of `mmsearch train --reranker`, and what only this one does."""

    epochs: int = 6
    groups: int = 12
    kept: float = 0.5
    hidden: float = 0.15
    phrase_share: float = 0.1
    swap_share: float = 0.5
    seed: int = 1


class Boxed:
    """An encoder that sees a random box of every picture, at least half of its area, the same one every time."""

    def __init__(self, encoder: CompactEncoder) -> None:
        self._encoder = encoder
        spec = encoder.spec
        self.spec = EncoderSpec(spec.uri, spec.dim, spec.image_size, f"{spec.fingerprint} boxed")
        self.min_side, self.image_batch = encoder.min_side, encoder.image_batch
        self.image_tokens, self.text_tokens = encoder.image_tokens, encoder.text_tokens
        self.encode_images, self.encode_texts = encoder.encode_images, encoder.encode_texts
        self.text_notes = encoder.text_notes

    def prepare_image(self, image: Image.Image) -> UInt8:
        """Return the pixels (3, S, S) of a box of the picture."""
        small = image.resize((8, 8)).tobytes()
        rng = np.random.default_rng(list(hashlib.sha256(small).digest()))
        return self._encoder.prepare_image(random_box(image, rng, least=LEAST_AREA))


class Source:
    """Captioned pictures: each as a whole or a box of it, mirrored half of the time, with a caption or a phrase."""

    def __init__(self, encoder: CompactEncoder, data: Path, work: Path, shards: Sequence[str], settings: Settings):
        folder = work / "reranker"
        embedded = embedded_shards(encoder, data, work, shards)
        owners = embedded.data.owners
        self.rows, count = embedded.images, len(embedded.images)
        tokens = read_tokens(encoder, embedded, folder, cells=settings.cells)
        boxed = PictureTokens(Boxed(encoder), embedded.data.pictures, folder, cells=settings.cells)
        self._views = [tokens.pictures, boxed]
        self._captions = tokens.words
        self.kinds = np.array([any(name in place for name in FLICKR_SHARDS) for place in embedded.data.pictures], int)
        self._first, self._count = np.searchsorted(owners, np.arange(count)), np.bincount(owners, minlength=count)
        said = [phrases(caption) for caption in embedded.data.captions]
        unique = sorted({phrase for some in said for phrase in some})
        number = {phrase: place for place, phrase in enumerate(unique)}
        self._phrases = TextTokens(encoder, unique, folder)
        self._phrases_of = [np.array([number[phrase] for phrase in some], np.int64) for some in said]
        spoken = [(text, owner) for some, owner in zip(said, owners.tolist(), strict=True) for text in some]
        everything = [*embedded.data.captions, *unique, *(text for text, _ in spoken)]
        nobody = np.full(len(unique), count)  # phrases by number, behind the captions
        self._said = Said(everything, np.concatenate([owners, nobody, [owner for _, owner in spoken]]), count + 1)
        rng = np.random.default_rng(settings.seed)
        wrong = [list(swapped(caption, rng).values()) for caption in embedded.data.captions]
        self._wrong_count = np.array([len(some) for some in wrong])
        self._wrong_first = np.cumsum(self._wrong_count) - self._wrong_count
        self._wrong = TextTokens(encoder, [text for some in wrong for text in some], folder)
        self._settings = settings

    def draw(self, which: NDArray[np.int64], rng: np.random.Generator) -> Pairs:
        """Return pictures with a text of each, and wrong texts of some."""
        settings = self._settings
        view = rng.integers(0, len(self._views), len(which))
        order = np.argsort(view, kind="stable")
        seen = [self._views[number](which[view == number]) for number in np.unique(view)]
        pictures = mirrored(np.concatenate(seen)[np.argsort(order)], rng.random(len(which)) < 0.5, cells=settings.cells)
        captions = self._first[which] + rng.integers(0, self._count[which])
        short = rng.random(len(which)) < settings.phrase_share
        words, mask, texts = self._texts(captions, short, rng)
        also = self._said.also(which, texts)
        has = ~short & (self._wrong_count[captions] > 0) & (rng.random(len(which)) < settings.swap_share)
        if not has.any():
            return Pairs(pictures, words, mask, also)
        asked = captions[has]
        wrong = self._wrong_first[asked] + rng.integers(0, self._wrong_count[asked])
        return Pairs(pictures, words, mask, also, *self._wrong(wrong), np.flatnonzero(has))

    def _texts(
        self, captions: NDArray[np.int64], short: NDArray[np.bool_], rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        """Return the tokens of captions, or of a phrase in those that are to be short, and the texts by number."""
        words, mask = self._captions(captions)
        texts = captions.copy()
        for row in np.flatnonzero(short):
            some = self._phrases_of[captions[row]]
            if len(some):
                chosen = some[rng.integers(0, len(some), 1)]
                texts[row] = len(self._phrases_of) + chosen[0]
                phrase, real = self._phrases(chosen)
                length = min(phrase.shape[1], words.shape[1])
                words[row], mask[row] = 0.0, 0.0
                words[row, :length], mask[row, :length] = phrase[0, :length], real[0, :length]
        return words, mask, texts


def mirrored(tokens: NDArray[np.float32], which: NDArray[np.bool_], *, cells: int) -> NDArray[np.float32]:
    """Return tokens (n, p, width) of square grids, those of some pictures turned left to right, and their cells."""
    side = round(tokens.shape[1] ** 0.5)
    grid = tokens.reshape(len(tokens), side, side, -1)
    turned = grid[:, :, ::-1].copy()
    if cells:
        colours = turned[..., -CHANNELS * cells**2 :].reshape(*turned.shape[:3], cells, cells, CHANNELS)
        turned[..., -CHANNELS * cells**2 :] = colours[..., ::-1, :].reshape(*turned.shape[:3], -1)
    return np.where(which[:, None, None, None], turned, grid).reshape(tokens.shape)


def embedded_shards(encoder: CompactEncoder, data: Path, work: Path, shards: Sequence[str]) -> EmbeddedSet:
    """Return the pictures and captions of shards with their vectors."""
    some = read_captioned([data / f"{shard}.tar" for shard in shards], CorpusOptions(), split="train")
    return embed_set(encoder, some, cache=work / "vectors")


def dev_tokens(encoder: CompactEncoder, data: Path, work: Path, *, cells: int) -> list[TokenSet]:
    """Return the dev shards."""
    return [
        read_tokens(encoder, embedded_shards(encoder, data, work, [shard]), work / "reranker", cells=cells)
        for shard in DEV_SHARDS
    ]


def main() -> None:
    """Train, and print what reranking does to a part of dev after every epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=Path, help="what a run of the same shape wrote, to begin with")
    arguments, settings = parse(parser, Settings())
    torch.set_num_threads(2)
    encoder, out = load(), arguments.out or arguments.work / "matcher"
    source = Source(encoder, arguments.data, arguments.work, train_shards(arguments.data, ".tar"), settings)
    dev = dev_tokens(encoder, arguments.data, arguments.work, cells=settings.cells)
    feed = Feed(source.rows, source.kinds, source.draw, settings)
    rng = np.random.default_rng(settings.seed)
    blocks = [source.draw(some, rng) for some in rng.permutation(len(source.rows))[:BEGIN].reshape(-1, AT_ONCE)]
    learner = Learner(shape_of(blocks[0], settings), settings, blocks, steps=settings.epochs * feed.steps())
    del blocks
    if arguments.first is not None:
        first = load_matcher(arguments.first).state_dict()
        for matcher in (learner.matcher, learner.average):
            matcher.load_state_dict(first)
    last = out.with_name(f"{out.name}-last.pt")
    done = resume(last, {"learner": learner}) if last.exists() else 0
    size = sum(p.numel() for p in learner.matcher.parameters()) / 1e6
    print(settings, f"{size:.2f} M weights, {len(source.rows)} pictures, {done} epochs were done", flush=True)
    for number in range(done, settings.epochs):
        started, losses, seen = time.monotonic(), [], 0
        for parts, drawn in feed.epoch(number):
            losses.append(learner.step(parts, drawn))
            seen += sum(len(part.pictures) for part in parts)
            if len(losses) % 40 == 0:
                speed = seen / (time.monotonic() - started)
                print(f"epoch {number}: {seen}, loss {np.mean(losses[-40:]):.3f}, {speed:.0f}/s", flush=True)
        keep(last, {"learner": learner}, epoch=number + 1)
        made = learner.averaged()
        torch.save({"matcher": made.state_dict(), "shape": asdict(made.shape)}, out.with_suffix(".pt"))
        for name, some in zip(DEV_SHARDS, dev, strict=True):
            print(f"epoch {number}: {name} {report(made, some)} ({time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
