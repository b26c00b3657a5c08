"""The encoder that ships finds what it is said to find (the figures themselves: `python -m benchmarks.retrieval`)."""

from __future__ import annotations

import json

import pytest

from benchmarks.retrieval import photo_ranks, shard_ranks, share_within
from tests.support import PHOTOS


def test_captions_find_their_photographs() -> None:
    ranks, pictures = photo_ranks()
    assert pictures == 87
    assert share_within(ranks, 5) >= 85


def test_groups_that_are_easy_to_confuse_are_told_apart_better_than_by_chance() -> None:
    records = [json.loads(line) for line in (PHOTOS / "captions.jsonl").read_text().splitlines()]
    ranks, _ = photo_ranks()
    grouped = {name for group in json.loads((PHOTOS / "groups.json").read_text()) for name in group["images"]}
    mine = [row for row, record in enumerate(records) if record["image"] in grouped]
    first = [ranks[2 * row + caption] == 0 for row in mine for caption in (0, 1)]
    assert len(first) > 100
    assert sum(first) / len(first) > 0.5


@pytest.mark.needs_shared
@pytest.mark.parametrize(("shard", "bar"), [("flickr8k-dev-000", 68), ("coco-dev-000", 67)])
def test_recall_on_the_dev_shards(shard: str, bar: float) -> None:
    ranks, pictures = shard_ranks(shard)
    assert pictures == 1000
    assert share_within(ranks, 10) >= bar
    assert share_within(ranks, 1) < share_within(ranks, 5) < share_within(ranks, 10)
