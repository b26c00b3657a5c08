"""Find what makes up for hubs: `python -m training.compact.hubs --model DIR --data DIR`.

Embeds pictures, captions and phrases that were trained on with the graphs in DIR, writes `DIR/hubs.npz`
(`mmsearch.encoders.hubs`), and with it the canonical vectors and the manifest: everything except the model card and the
notice, which are written by hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from mmsearch.encoders.hubs import Bank, Hubs

from .common import (
    FLICKR_SHARDS,
    RESIZE,
    RESIZERS,
    Floats,
    Pixels,
    open_session,
    open_tokenizer,
    read_shard,
    run_texts,
    to_pixels,
    train_shards,
)
from .evaluate import embed_pictures
from .phrases import phrases

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """How many pictures stand in the bank of texts, how many captions and phrases in that of pictures.

    As many of each corpus. Rows have `axes` dimensions there; a cosine loses `share` of the hubness.
    """

    pictures: int = 2000
    captions: int = 1500
    phrases: int = 750
    axes: int = 96
    sharpness: float = 17.0
    share: float = 0.75
    beta: float = 0.35
    limit: float = 0.3
    seed: int = 0


def find_hubs(shown: Floats, said: Floats, settings: Settings) -> Hubs:
    """Return what makes up for hubs, of the unit rows (n, dim) of the pictures and texts of the banks."""
    both = np.concatenate([shown, said])
    least = np.linalg.eigh(both.T @ both)[1][:, :2].T
    gain = (1.0 - settings.beta**2) * settings.share / settings.beta
    return Hubs(
        turns=_turns(least),
        picture=_bank(said, shown, settings),
        text=_bank(shown, said, settings),
        beta=settings.beta,
        gain=gain,
        limit=settings.limit,
    )


def _turns(least: Floats) -> Floats:
    """Return two Householder reflections (2, dim) that turn two orthonormal directions (2, dim) to the last axes."""
    dim = least.shape[1]
    found = []
    for place, direction in enumerate(least, start=1):
        turned = direction.astype(np.float64)
        for turn in found:
            turned = turned - 2.0 * (turned @ turn) * turn
        turn = turned - np.eye(dim)[-place]
        found.append(turn / np.linalg.norm(turn))
    return np.array(found, dtype=np.float32)


def _bank(rows: Floats, others: Floats, settings: Settings) -> Bank:
    """Return a bank of rows (b, dim), in which `others` (n, dim) have hubness 0 on average."""
    axes = np.linalg.eigh(rows.T @ rows)[1][:, -settings.axes :].astype(np.float16)
    short = rows @ axes.astype(np.float32)
    scales = np.abs(short).max(axis=1) / 127.0
    kept = np.rint(short / scales[:, np.newaxis]).astype(np.int8)
    bank = Bank(axes, kept, scales.astype(np.float32), 0.0, settings.sharpness)
    return Bank(axes, kept, bank.scales, float(bank.hubness(others).mean()), settings.sharpness)


def some(things: Sequence[T], count: int, rng: np.random.Generator) -> list[T]:
    """Return so many of some things, drawn at random."""
    return [things[place] for place in rng.permutation(len(things))[:count].tolist()]


def main() -> None:
    """Write hubs.npz, and what tells of the whole folder."""
    from .export import canonical, write_golden, write_manifest

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    model: Path = arguments.model
    image, text = open_session(model / "image.onnx"), open_session(model / "text.onnx")
    tokenizer = open_tokenizer(model / "tokenizer.json")
    settings = Settings()
    rng = np.random.default_rng(settings.seed)
    pictures: list[Pixels] = []
    texts: list[str] = []
    for is_flickr in (True, False):
        shards = [s for s in train_shards(arguments.data, ".tar") if (s in FLICKR_SHARDS) is is_flickr]
        samples = [sample for shard in shards for sample in read_shard(arguments.data / f"{shard}.tar")]
        captions = [caption for sample in samples for caption in sample.captions]
        short = sorted({phrase for caption in captions for phrase in phrases(caption)})
        pictures += [to_pixels(RESIZERS[RESIZE](s.image())) for s in some(samples, settings.pictures, rng)]
        texts += [*some(captions, settings.captions, rng), *some(short, settings.phrases, rng)]
    said = run_texts(text, tokenizer, texts, output="embedding")
    hubs = find_hubs(embed_pictures(image, pictures), said, settings)
    (model / "hubs.npz").write_bytes(hubs.to_bytes())
    made = canonical(model)
    write_golden(model, hubs.pictures(made[0]), hubs.texts(made[1]))
    write_manifest(model)
    total = sum(path.stat().st_size for path in model.iterdir())
    print(f"hubs.npz {(model / 'hubs.npz').stat().st_size / 1e6:.2f} MB; {total / 1e6:.2f} MB in {model}")


if __name__ == "__main__":
    main()
