"""What reranking does to recall at 1 on dev, for several weights of the matching score.

`python -m training.reranker.measure --data DIR --work DIR --weights FILE…` helps to choose one, on queries about every
second picture (those with odd numbers); `benchmarks.reranking`, and this with `--half even`, report on the others.
Several files are measured together, by the mean of their scores.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmsearch.encoders.compact import load
from mmsearch.evaluation.dataset import Direction
from mmsearch.training.rerank.candidates import WEIGHTS, find_candidates, match
from mmsearch.training.rerank.export import widest
from mmsearch.training.rerank.matcher import Matcher
from mmsearch.training.rerank.tokens import TokenSet
from mmsearch.types import DEFAULT_BOUND

from ..compact.common import DEV_SHARDS

HALVES = ("even", "odd")
ASKED = 400  # queries of each direction


def report(
    matchers: Matcher | Sequence[Matcher],
    tokens: TokenSet,
    *,
    asked: int = ASKED,
    bound: float = DEFAULT_BOUND,
    half: str = "odd",
) -> str:
    """Return the mean score of candidates, and recall at 1 by weight, both directions, as a line of a log."""
    every = slice(HALVES.index(half), None, 2)
    told = []
    for direction in (Direction.TEXT_IMAGE, Direction.IMAGE_TEXT):
        some = find_candidates(tokens, direction, most=asked, every=every)
        several = [matchers] if isinstance(matchers, Matcher) else matchers
        matched = np.mean([match(matcher, tokens, some) for matcher in several], axis=0)
        weights = (0.0, *WEIGHTS, 1.0)
        recalls = [f"{weight:g}:{100 * some.recalls(matched, weight, bound)['R@1'].mean():.1f}" for weight in weights]
        told.append(f"{direction} (mean {matched.mean():.2f}) {' '.join(recalls)}")
    return "; ".join(told)


def main() -> None:
    """Print the table of both dev shards."""
    from .export import load_matcher
    from .train import dev_tokens

    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("data", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--weights", type=Path, nargs="+", required=True)
    parser.add_argument("--bound", type=float, default=DEFAULT_BOUND, help="of matching scores; 1e6: as they are")
    parser.add_argument("--half", choices=HALVES, default="odd", help="of the pictures that is asked about")
    arguments = parser.parse_args()
    matchers = [load_matcher(path) for path in arguments.weights]
    dev = dev_tokens(load(), arguments.data, arguments.work, cells=widest(matchers).cells)
    for name, tokens in zip(DEV_SHARDS, dev, strict=True):
        print(name, report(matchers, tokens, asked=500, bound=arguments.bound, half=arguments.half))


if __name__ == "__main__":
    main()
