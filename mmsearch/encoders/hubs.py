"""Hubs: pictures and texts that are near to everything, and two coordinates of their vectors that make up for it.

Among vectors of many dimensions some are the nearest of far too many queries (hubness, Radovanović et al. 2010).
Querybank normalisation (Bogolin et al. 2022) takes from the score of a candidate how near it is to a bank of queries.
Here it is part of the vectors, so that every index, filter and threshold works with it. Of a vector x and its hubness
h(x) becomes

    picture: (α x', β, γ)    text: (α x', γ, β)    with γ = −gain × (h(x) − mean), α² = 1 − β² − γ²

where x' is x without the two directions in which vectors vary least, brought to length 1. The vectors have the length 1
as before. With gain = share × (1 − β²) / β the cosine of a picture x and a text y is about (1 − β²) × (their cosine −
share × (h(x) + h(y) − the means)); that of two pictures or two texts about (1 − β²) × their cosine + β².
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mmsearch.types import Float32

_SIDES = ("picture", "text")


@dataclass(frozen=True)
class Bank:
    """Vectors of the other kind, in fewer dimensions: what hubness is measured by.

    `axes` (dim, r), float16; `rows` (b, r), int8, of which each counts `scales` (b,) float32; `mean` is the hubness of
    an average vector, `sharpness` an inverse temperature. The hubness h(x) is log(mean over the bank of
    exp(sharpness × x · row)) / sharpness.
    """

    axes: NDArray[np.float16]
    rows: NDArray[np.int8]
    scales: Float32
    mean: float
    sharpness: float

    def hubness(self, vectors: Float32) -> Float32:
        """Return (n,) for unit rows (n, dim), 0 on average."""
        axes, rows = self._wide
        near = vectors @ axes @ rows
        most = near.max(axis=1, keepdims=True)
        found: Float32 = most[:, 0] + np.log(np.exp(near - most).mean(axis=1))
        return found / np.float32(self.sharpness) - np.float32(self.mean)

    @cached_property
    def _wide(self) -> tuple[Float32, Float32]:
        """The axes (dim, r), and the rows times the sharpness (r, b)."""
        counts = self.scales * np.float32(self.sharpness)
        return self.axes.astype(np.float32), np.ascontiguousarray(self.rows.T * counts)


@dataclass(frozen=True, slots=True)
class Hubs:
    """What makes up for hubs.

    `turns` (2, dim): Householder reflections that turn the two directions left out to the last two. `beta` and `gain`
    are those above; the coordinate γ is at most `limit`, and beta² + limit² below 1.
    """

    turns: Float32
    picture: Bank
    text: Bank
    beta: float
    gain: float
    limit: float

    def pictures(self, vectors: Float32) -> Float32:
        """Return unit rows (n, dim) of the unit rows (n, dim) of pictures."""
        return self._with(vectors, self.picture, place=-1)

    def texts(self, vectors: Float32) -> Float32:
        """Return unit rows (n, dim) of the unit rows (n, dim) of texts."""
        return self._with(vectors, self.text, place=-2)

    def _with(self, vectors: Float32, bank: Bank, *, place: int) -> Float32:
        rows = vectors
        for turn in self.turns:
            rows = rows - np.outer(rows @ turn, 2.0 * turn)
        gamma = np.clip(-self.gain * bank.hubness(vectors), -self.limit, self.limit)
        rest = np.sqrt(1.0 - self.beta**2 - gamma**2) / np.linalg.norm(rows[:, :-2], axis=1)
        made = np.empty_like(vectors)
        made[:, :-2] = rows[:, :-2] * rest[:, np.newaxis]
        made[:, -2:] = self.beta
        made[:, place] = gamma
        return made

    def to_bytes(self) -> bytes:
        """Return the content of hubs.npz."""
        file = io.BytesIO()
        banks = {
            f"{side}_{name}": getattr(bank, name)
            for side, bank in zip(_SIDES, (self.picture, self.text), strict=True)
            for name in ("axes", "rows", "scales", "mean", "sharpness")
        }
        np.savez(file, turns=self.turns, beta=self.beta, gain=self.gain, limit=self.limit, **banks)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Hubs:
        """Return what `to_bytes` wrote; raise ValueError or KeyError for anything else."""
        with np.load(io.BytesIO(content), allow_pickle=False) as found:
            picture, text = (
                Bank(
                    found[f"{side}_axes"],
                    found[f"{side}_rows"],
                    found[f"{side}_scales"],
                    float(found[f"{side}_mean"]),
                    float(found[f"{side}_sharpness"]),
                )
                for side in _SIDES
            )
            return cls(found["turns"], picture, text, float(found["beta"]), float(found["gain"]), float(found["limit"]))
