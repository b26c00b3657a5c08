"""One script a claim; each prints the figure that the README quotes. Run one with `python -m benchmarks.NAME`."""
