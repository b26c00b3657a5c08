"""How well the encoder that ships finds pictures by captions: text→image recall on the dev shards and on data/photos.

Every caption is a query over all pictures of its set; a tie counts against. Bars: recall@10 ≥ 60 on flickr8k-dev, ≥ 58
on coco-dev; on data/photos ≥ 75 % of the captions find their picture among the first 5.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import mmsearch
from benchmarks.common import ROOT, shard, verdict
from mmsearch.images import open_image, to_rgb

Ranks = NDArray[np.int64]


def main() -> None:
    """Print the figures."""
    for name, bar in (("flickr8k-dev", 60), ("coco-dev", 58)):
        ranks, pictures = shard_ranks(f"{name}-000")
        recall = [share_within(ranks, k) for k in (1, 5, 10)]
        print(
            f"{name:<13} text→image R@1/5/10 {recall[0]:.1f} / {recall[1]:.1f} / {recall[2]:.1f}"
            f" ({len(ranks)} captions, {pictures} pictures); bar R@10 {bar} {verdict(recall[2] >= bar)}"
        )
    ranks, pictures = photo_ranks()
    share = share_within(ranks, 5)
    print(
        f"data/photos   {share:.1f} % of {len(ranks)} captions find their picture among the first 5 of {pictures};"
        f" bar 75 % {verdict(share >= 75)}"
    )


def shard_ranks(name: str) -> tuple[Ranks, int]:
    """Return the rank of each caption's own picture, and the number of pictures, in a shared shard."""
    pictures = list(shard(name))
    return ranks_of((to_rgb(Image.open(io.BytesIO(p.data))) for p in pictures), [p.captions for p in pictures])


def photo_ranks() -> tuple[Ranks, int]:
    """Return the same for data/photos."""
    photos = ROOT / "data" / "photos"
    records = [json.loads(line) for line in (photos / "captions.jsonl").read_text().splitlines()]
    return ranks_of((open_image(photos / r["image"]) for r in records), [r["captions"] for r in records])


def ranks_of(pictures: Iterable[Image.Image], captions: list[list[str]]) -> tuple[Ranks, int]:
    """Return the rank from 0 of each caption's own picture among all; a tie counts against."""
    encoder = mmsearch.load_encoder("compact")
    images = encoder.encode_images(np.stack([encoder.prepare_image(picture) for picture in pictures]))
    texts = encoder.encode_texts([caption for some in captions for caption in some])
    right = np.repeat(np.arange(len(captions)), [len(some) for some in captions])
    similarity = texts @ images.T
    own = similarity[np.arange(len(right)), right][:, None]
    ranks: Ranks = (similarity >= own).sum(axis=1) - 1
    return ranks, len(images)


def share_within(ranks: Ranks, k: int) -> float:
    """Return how many per cent of the ranks are among the first k."""
    return 100 * float((ranks < k).mean())


if __name__ == "__main__":
    main()
