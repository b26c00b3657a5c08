"""How well the encoder that ships finds pictures by captions: text→image recall on the dev shards and on data/photos.

Every caption is a query over all pictures of its set; a tie counts against. Bars: recall@10 ≥ 60 on flickr8k-dev, ≥ 58
on coco-dev; on data/photos ≥ 75 % of the captions find their picture among the first 5.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable

import numpy as np
from PIL import Image

import mmsearch
from benchmarks.common import ROOT, shard, verdict
from mmsearch.images import open_image, to_rgb
from mmsearch.types import Float32


def main() -> None:
    """Print the figures."""
    encoder = mmsearch.load_encoder("compact")

    def embed(pictures: Iterable[Image.Image]) -> Float32:
        return encoder.encode_images(np.stack([encoder.prepare_image(picture) for picture in pictures]))

    for name, bar in (("flickr8k-dev", 60), ("coco-dev", 58)):
        pictures = list(shard(f"{name}-000"))
        images = embed(to_rgb(Image.open(io.BytesIO(picture.data))) for picture in pictures)
        captions = [(caption, row) for row, picture in enumerate(pictures) for caption in picture.captions]
        ranks = ranks_of(encoder.encode_texts([text for text, _ in captions]) @ images.T, [row for _, row in captions])
        recall = [100 * float((ranks < k).mean()) for k in (1, 5, 10)]
        print(
            f"{name:<13} text→image R@1/5/10 {recall[0]:.1f} / {recall[1]:.1f} / {recall[2]:.1f}"
            f" ({len(captions)} captions, {len(pictures)} pictures); bar R@10 {bar} {verdict(recall[2] >= bar)}"
        )
    photos = ROOT / "data" / "photos"
    records = [json.loads(line) for line in (photos / "captions.jsonl").read_text().splitlines()]
    images = embed(open_image(photos / record["image"]) for record in records)
    captions = [(caption, row) for row, record in enumerate(records) for caption in record["captions"]]
    ranks = ranks_of(encoder.encode_texts([text for text, _ in captions]) @ images.T, [row for _, row in captions])
    share = 100 * float((ranks < 5).mean())
    print(
        f"data/photos   {share:.1f} % of {len(captions)} captions find their picture among the first 5 of"
        f" {len(records)}; bar 75 % {verdict(share >= 75)}"
    )


def ranks_of(similarity: Float32, right: list[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Return the rank from 0 of the right column in each row (n, pictures); a tie counts against."""
    own = similarity[np.arange(len(right)), right][:, None]
    better: np.ndarray[tuple[int, ...], np.dtype[np.int64]] = (similarity >= own).sum(axis=1) - 1
    return better


if __name__ == "__main__":
    main()
