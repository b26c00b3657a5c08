"""Synthetic vectors that behave like CLIP's: clusters in a low-rank space, an image cone and a text cone apart.

`blocks(n, dim, seed)` yields the image vectors in blocks of 50,000 rows; `queries(kind, n_queries, …)` makes queries of
either kind that have true neighbours among the first block. All rows are float32 unit vectors. The same seed gives the
same vectors whatever n is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

LATENT, BLOCK, PER_CLUSTER = 128, 50_000, 50


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _world(dim: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng((seed, 0))
    basis = rng.standard_normal((LATENT, dim)) / np.sqrt(LATENT)
    image_cone, text_cone = (2.7 * rng.standard_normal(dim) / np.sqrt(dim) for _ in range(2))
    return basis, image_cone, text_cone


def _block_latents(block: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng((seed, 1, block))
    centres = rng.standard_normal((BLOCK // PER_CLUSTER, LATENT))
    return centres[rng.integers(0, len(centres), BLOCK)] + 0.7 * rng.standard_normal((BLOCK, LATENT))


def blocks(n: int, dim: int = 512, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield image vectors, (≤ 50,000, dim) at a time, n in all."""
    basis, image_cone, _ = _world(dim, seed)
    for block in range(-(-n // BLOCK)):
        rng = np.random.default_rng((seed, 2, block))
        rows = _block_latents(block, seed) @ basis / 3 + image_cone + 0.05 * rng.standard_normal((BLOCK, dim))
        yield _unit(rows[: n - block * BLOCK])


def queries(kind: str, n_queries: int = 500, dim: int = 512, seed: int = 0) -> np.ndarray:
    """Return (n_queries, dim) queries; kind is "image" (near its neighbours) or "text" (across the modality gap)."""
    basis, image_cone, text_cone = _world(dim, seed)
    rng = np.random.default_rng((seed, 3 if kind == "image" else 4))
    blur, cone = (0.5, image_cone) if kind == "image" else (0.8, text_cone)
    latents = _block_latents(0, seed)[:n_queries] + blur * rng.standard_normal((n_queries, LATENT))
    return _unit(latents @ basis / 3 + cone + 0.05 * rng.standard_normal((n_queries, dim)))
