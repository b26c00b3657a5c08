"""What looking at the best candidates in several views does.

`python -m training.reranker.views --data DIR --work DIR --weights FILE…` prints recall at 1/5/10 of sets of views for
some weights of the matching score, over queries about every second picture of dev (those with odd numbers). SHIPPED was
chosen by it: the best of three views, which is what there is time for. `--half even` prints the others.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from mmsearch.encoders.compact import VIEWS, CompactEncoder, load
from mmsearch.encoders.views import View, with_views
from mmsearch.evaluation.dataset import Direction
from mmsearch.rerank.blending import blend
from mmsearch.rerank.multiview import VIEWED, multi_view_similarity
from mmsearch.training.rerank.candidates import Candidates, find_candidates, match
from mmsearch.training.rerank.export import widest
from mmsearch.training.rerank.matcher import Matcher
from mmsearch.training.rerank.tokens import TokenSet
from mmsearch.types import Float32, RerankerSpec

from ..compact.common import DEV_SHARDS, KS, read_shard
from .measure import HALVES

ASKED = 500
WEIGHTS = (0.025, 0.03, 0.035, 0.04)
WHOLE, CENTRE = (0.0, 0.0, 1.0, 1.0), (0.1, 0.1, 0.9, 0.9)
CORNERS = {
    "upper left": (0.0, 0.0, 0.8, 0.8),
    "upper right": (0.2, 0.0, 1.0, 0.8),
    "lower left": (0.0, 0.2, 0.8, 1.0),
    "lower right": (0.2, 0.2, 1.0, 1.0),
}
BOXES = {
    f"{name}{mirror}": View(*box, bool(mirror))
    for name, box in {"whole": WHOLE, "centre": CENTRE, **CORNERS}.items()
    for mirror in ("", "*")
}
"""Views by name, those with * mirrored."""

SHIPPED = tuple(next(name for name, box in BOXES.items() if box == view) for view in VIEWS)
SETS: tuple[tuple[str, ...], ...] = (
    (),
    ("whole*",),
    ("centre*",),
    ("whole*", "centre"),
    ("upper left*", "lower right"),
    ("upper right", "lower left*"),
    ("whole*", "centre", "centre*"),
    ("whole*", "upper left*", "lower right"),
    ("whole*", "upper left", "lower right*"),
    SHIPPED,
    ("centre*", "upper left*", "lower right"),
    ("centre*", "upper right", "lower left*"),
    ("whole*", "centre", "upper right*", "lower left"),
    ("upper left", "upper right*", "lower left*", "lower right"),
    ("whole*", "upper left", "upper right*", "lower left*", "lower right"),
    tuple(name for name in BOXES if name != "whole"),
)

Row = tuple[tuple[str, ...], float, int]
ROWS: tuple[Row, ...] = (
    *((names, weight, VIEWED) for names, weight in itertools.product(SETS, WEIGHTS)),
    *((SHIPPED, 0.03, most) for most in (3, 5, 10, 50)),
)
"""Sets, weights of the matching score, and how many candidates are looked at closer."""


def view_vectors(encoder: CompactEncoder, shard: Path) -> dict[str, Float32]:
    """Return the unit rows (n, dim) of every view in BOXES of the pictures of a shard."""
    found: dict[str, list[Float32]] = {name: [] for name in BOXES}
    samples = read_shard(shard)
    while some := [sample.image() for sample in itertools.islice(samples, encoder.image_batch)]:
        for name, view in BOXES.items():
            found[name].append(encoder.encode_images(np.stack([encoder.prepare_image(view.see(one)) for one in some])))
    return {name: np.concatenate(rows) for name, rows in found.items()}


def dict_of(rows: Float32, places: Sequence[int]) -> dict[int, Float32]:
    """Return some rows by their places."""
    return {place: rows[place] for place in places}


def recalls(
    some: Candidates, matched: Float32, tokens: TokenSet, sums: Float32 | None, weight: float, most: int
) -> Float32:
    """Return recall at KS in per cent, with the sums (n, dim) of the vectors of the views of all pictures, if any."""
    spec = RerankerSpec("measured", "", weight)
    images, texts = tokens.embedded.images, tokens.embedded.texts
    right = []
    for query, near, similarity, mine, answers in zip(
        some.queries, some.near, some.similarity, matched, some.right, strict=True
    ):
        if sums is not None and some.direction is Direction.IMAGE_TEXT:
            similarity = texts[near] @ with_views(images[query], sums[query])
        elif sums is not None:
            seen = with_views(images[near], sums[near])
            similarity = multi_view_similarity(
                similarity,
                mine,
                spec,
                query=texts[query],
                vectors_of=partial(dict_of, seen),
                most=most,
            )
        order = np.argsort(-blend(similarity, mine, weight), kind="stable")
        right.append([answers[order[:k]].any() for k in KS])
    return np.asarray(100 * np.mean(right, axis=0), np.float32)


def report(
    tokens: TokenSet, matchers: Sequence[Matcher], views: Mapping[str, Float32], *, half: str
) -> dict[Row, list[Float32]]:
    """Return recall at KS of text→image and image→text by ROWS."""
    found: dict[Row, list[Float32]] = {}
    for direction in (Direction.TEXT_IMAGE, Direction.IMAGE_TEXT):
        some = find_candidates(tokens, direction, most=ASKED, every=slice(HALVES.index(half), None, 2))
        matched = np.mean([match(matcher, tokens, some) for matcher in matchers], axis=0)
        for row in ROWS:
            names, weight, most = row
            sums = np.sum([views[name] for name in names], axis=0) if names else None
            found.setdefault(row, []).append(recalls(some, matched, tokens, sums, weight, most))
    return found


def main() -> None:
    """Print recall at 1/5/10: flickr8k-dev text→image, image→text, coco-dev text→image, image→text; the mean at 1."""
    from .export import load_matcher
    from .train import dev_tokens

    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("data", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--weights", type=Path, nargs="+", required=True)
    parser.add_argument("--half", choices=HALVES, default="odd", help="of the pictures that is asked about")
    arguments = parser.parse_args()
    encoder, matchers = load(), [load_matcher(path) for path in arguments.weights]
    dev = dev_tokens(encoder, arguments.data, arguments.work, cells=widest(matchers).cells)
    both = [
        report(tokens, matchers, view_vectors(encoder, arguments.data / f"{shard}.tar"), half=arguments.half)
        for shard, tokens in zip(DEV_SHARDS, dev, strict=True)
    ]
    for row in ROWS:
        names, weight, most = row
        every = [*both[0][row], *both[1][row]]
        figures = ", ".join("/".join(f"{value:.1f}" for value in values) for values in every)
        first = np.mean([values[0] for values in every])
        print(f"{weight:g}, {most}: {figures}: {first:.2f}  {' + '.join(names) or 'the whole alone'}")


if __name__ == "__main__":
    main()
