"""From ten thousand vectors to ten million: latency, memory, build time and recall, as a table and a plot.

CLIP-like vectors of 512 numbers, what `choose_spec` chooses for each size, single queries on one thread. The largest
needs 15 GB on the disk (under `$MMSEARCH_BENCH_DIR`) and half an hour. Bar: from a million to ten, latency grows less
than four times. `--plot FILE` draws what was measured (needs matplotlib, of `mmsearch[bench]`).

    python -m benchmarks.scale [ROWS …] [--plot docs/scale.png]
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import verdict
from benchmarks.million import run, told, write_vectors

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)


def main() -> None:
    """Print a line for each size, and the bar."""
    arguments = sys.argv[1:]
    plot_to = None
    if "--plot" in arguments:
        place = arguments.index("--plot")
        plot_to = Path(arguments[place + 1])
        del arguments[place : place + 2]
    found: dict[int, dict[str, Any]] = {}
    for rows in [int(value) for value in arguments] or SIZES:
        with tempfile.TemporaryDirectory(dir=os.environ.get("MMSEARCH_BENCH_DIR")) as folder:
            write_vectors(Path(folder), rows)
            found[rows] = run("mmsearch", Path(folder))
        print(f"{rows:>10,} {told('mmsearch', found[rows])}", flush=True)
    if {1_000_000, 10_000_000} <= set(found):
        grown = max(found[10_000_000]["p50"][kind] / found[1_000_000]["p50"][kind] for kind in ("image", "text"))
        print(f"from a million to ten, p50 grows {grown:.1f} times; bar 4 {verdict(grown < 4)}")
    if plot_to is not None:
        plot(found, plot_to)


def plot(found: dict[int, dict[str, Any]], path: Path) -> None:
    """Draw four small charts over the number of vectors."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6), sharex=True, layout="constrained")
    sizes = sorted(found)
    charts = (
        (
            "p50 of a query, one thread (ms)",
            {kind: [found[n]["p50"][kind] for n in sizes] for kind in ("image", "text")},
        ),
        ("recall@10", {kind: [found[n]["recall"][kind] for n in sizes] for kind in ("image", "text")}),
        ("built in (s)", {"": [max(found[n]["build"], 1e-3) for n in sizes]}),
        ("anonymous memory (MB)", {"": [max(found[n]["memory"], 1e-3) for n in sizes]}),
    )
    for axis, (title, lines) in zip(axes.flat, charts, strict=True):
        for label, values in lines.items():
            axis.plot(sizes, values, marker="o", label=f"{label} queries" if label else None)
        axis.set(title=title, xscale="log", yscale="linear" if title == "recall@10" else "log")
        axis.grid(visible=True, which="major", alpha=0.3)
        if len(lines) > 1:
            axis.legend()
    axes[0, 1].set_ylim(0.9, 1.002)
    for axis in axes[1]:
        axis.set_xlabel("vectors of 512 numbers")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
