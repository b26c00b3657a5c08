"""How long an evaluation of 5,000 pictures and 25,000 captions takes once it is embedded, and in what memory.

Random vectors with a little of the truth in them; the report with all its intervals. Bars: 30 s and 2 GB.
"""

from __future__ import annotations

import resource
import time

import numpy as np

from benchmarks.common import verdict
from mmsearch.evaluation.dataset import EvalSet
from mmsearch.evaluation.embed import EmbeddedSet
from mmsearch.evaluation.runner import Evaluation
from mmsearch.evaluation.systems import EncoderSystem
from mmsearch.types import Float32

PICTURES, CAPTIONS, DIM = 5_000, 5, 512


def main() -> None:
    """Print the figures."""
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(PICTURES), CAPTIONS)
    images = units(rng.standard_normal((PICTURES, DIM), dtype=np.float32))
    texts = units(images[owners] + 3.0 * units(rng.standard_normal((len(owners), DIM), dtype=np.float32)))
    data = EvalSet(
        name="random",
        pictures=tuple(f"/p{n}.jpg" for n in range(PICTURES)),
        captions=tuple(f"caption {n}" for n in range(len(owners))),
        owners=owners,
        picture_labels=(None,) * PICTURES,
        caption_labels=(None,) * len(owners),
    )
    started = time.perf_counter()
    report = Evaluation(EncoderSystem("random", EmbeddedSet(data, images, texts), None)).report(worst=20)
    seconds = time.perf_counter() - started
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    for one in report.directions:
        print(f"{one.direction}: {one.queries:,} queries, {one.candidates:,} candidates, R@10 {100 * one['R@10']:.1f}")
    print(f"all of it in {seconds:.1f} s; bar 30 s {verdict(seconds < 30)}")
    print(f"at most {gigabytes:.2f} GB of memory; bar 2 GB {verdict(gigabytes < 2)}")


def units(rows: Float32) -> Float32:
    """Return rows (n, dim) at length 1."""
    made: Float32 = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return made


if __name__ == "__main__":
    main()
