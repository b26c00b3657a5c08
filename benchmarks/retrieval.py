"""How well the encoder that ships finds pictures by captions: text→image recall on the dev shards and on data/photos.

Every caption is a query over all pictures of its set; a tie counts against. Bars: recall@1 ≥ 27 and recall@10 ≥ 68 on
flickr8k-dev, ≥ 25 and ≥ 67 on coco-dev; on data/photos ≥ 85 % of the captions find their picture among the first 5.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import mmsearch
from benchmarks.common import ROOT, SHARDS, verdict
from mmsearch.evaluation.dataset import Direction

Ranks = NDArray[np.int64]


def main() -> None:
    """Print the figures."""
    for name, first, tenth in (("flickr8k-dev", 27, 68), ("coco-dev", 25, 67)):
        ranks, pictures = shard_ranks(f"{name}-000")
        recall = [share_within(ranks, k) for k in (1, 5, 10)]
        print(
            f"{name:<13} text→image R@1/5/10 {recall[0]:.1f} / {recall[1]:.1f} / {recall[2]:.1f}"
            f" ({len(ranks)} captions, {pictures} pictures); bars R@1 {first}, R@10 {tenth}"
            f" {verdict(recall[0] >= first and recall[2] >= tenth)}"
        )
    ranks, pictures = photo_ranks()
    share = share_within(ranks, 5)
    print(
        f"data/photos   {share:.1f} % of {len(ranks)} captions find their picture among the first 5 of {pictures};"
        f" bar 85 % {verdict(share >= 85)}"
    )


def shard_ranks(name: str) -> tuple[Ranks, int]:
    """Return the rank from 0 of each caption's own picture among all, and the number of pictures, in a shared shard."""
    path = SHARDS / f"{name}.tar"
    if not path.is_file():
        raise SystemExit(f"{path} is not there: this benchmark needs the shared shards.")
    return ranks_of(path)


def photo_ranks() -> tuple[Ranks, int]:
    """Return the same for data/photos."""
    return ranks_of(ROOT / "data" / "photos" / "captions.jsonl")


def ranks_of(corpus: Path) -> tuple[Ranks, int]:
    """Return the same for a corpus; a tie counts against."""
    with mmsearch.evaluate(corpus, directions=[Direction.TEXT_IMAGE], cache=False) as evaluation:
        return evaluation.measured[0].ranks.first - 1, len(evaluation.system.data.pictures)


def share_within(ranks: Ranks, k: int) -> float:
    """Return how many per cent of the ranks are among the first k."""
    return 100 * float((ranks < k).mean())


if __name__ == "__main__":
    main()
