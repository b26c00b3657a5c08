"""Colour cells: the mean colours of small parts of each patch of a picture.

The last grid of an encoder has little of colour left (an ImageNet classifier forgets it): a matcher that reads tokens
alone does not tell "a red coat" from "a blue coat" better than the encoder does.
"""

from __future__ import annotations

import numpy as np

from mmsearch.types import Float32, UInt8

CHANNELS = 3


def colour_cells(pixels: UInt8, *, side: int, cells: int) -> UInt8:
    """Return the mean colours (n, side², cells² × 3) of prepared pictures (n, 3, S, S), patch by patch, row by row.

    Each patch of the grid of `side` × `side` is cut in `cells` × `cells` parts, each with its red, green and blue.
    Raise ValueError where these are smaller than a pixel.
    """
    count, _, height, width = pixels.shape
    parts = side * cells
    if parts > min(height, width):
        raise ValueError(f"pictures of {height} × {width} pixels have no {parts} × {parts} cells")
    rows, columns = (np.linspace(0, size, parts + 1).round().astype(np.int64) for size in (height, width))
    sums = np.add.reduceat(pixels, rows[:-1], axis=2, dtype=np.float32)
    sums = np.add.reduceat(sums, columns[:-1], axis=3)
    means = sums / (np.diff(rows)[:, np.newaxis] * np.diff(columns))
    grid = means.reshape(count, CHANNELS, side, cells, side, cells).transpose(0, 2, 4, 3, 5, 1)
    found: UInt8 = np.rint(grid).astype(np.uint8).reshape(count, side**2, cells**2 * CHANNELS)
    return found


def with_cells(tokens: Float32, cells: UInt8) -> Float32:
    """Return patch tokens (n, patches, width) with the colours (n, patches, c) behind them, these from -1 to 1."""
    joined: Float32 = np.concatenate([tokens, cells.astype(np.float32) / 127.5 - 1.0], axis=2)
    return joined
