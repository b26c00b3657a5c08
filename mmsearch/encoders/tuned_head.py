"""TunedHead: what `mmsearch train` learns, a small map behind each tower of a frozen encoder. NumPy alone."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from mmsearch.types import Float32, Modality

_GELU = 0.7978845608028654, 0.044715  # √(2/π); the tanh form of Hendrycks and Gimpel 2016, as torch has it


@dataclass(frozen=True, slots=True)
class TowerMap:
    """unit(x·linear + gelu(x·inner + inner_bias)·outer + outer_bias) for unit rows x (n, dim).

    `linear` (dim, dim), `inner` (dim, hidden), `inner_bias` (hidden,), `outer` (hidden, dim), `outer_bias` (dim,).
    """

    linear: Float32
    inner: Float32
    inner_bias: Float32
    outer: Float32
    outer_bias: Float32

    def __post_init__(self) -> None:
        dim, hidden = self.inner.shape if self.inner.ndim == 2 else (0, 0)
        shapes = ((dim, dim), (dim, hidden), (hidden,), (hidden, dim), (dim,))
        for field, shape in zip(fields(self), shapes, strict=True):
            array = getattr(self, field.name)
            if array.dtype != np.float32 or array.shape != shape or not dim or not np.isfinite(array).all():
                raise ValueError(f"{field.name} is not float32 {shape} and finite")

    @property
    def dim(self) -> int:
        """The width of the rows."""
        return len(self.linear)

    def apply(self, rows: Float32) -> Float32:
        """Return the unit rows (n, dim) that unit rows (n, dim) are mapped to."""
        mapped = rows @ self.linear
        mapped += _gelu(rows @ self.inner + self.inner_bias) @ self.outer + self.outer_bias
        lengths = np.linalg.norm(mapped, axis=1, keepdims=True)
        units: Float32 = mapped / np.maximum(lengths, np.float32(1e-12))
        return units

    def weaker(self, share: float) -> TowerMap:
        """Return the map a share of the way from the identity to this one."""
        part, identity = np.float32(share), np.eye(self.dim, dtype=np.float32)
        return TowerMap(
            identity + part * (self.linear - identity),
            self.inner,
            self.inner_bias,
            part * self.outer,
            part * self.outer_bias,
        )


@dataclass(frozen=True, slots=True)
class TunedHead:
    """The maps of both towers; one `dim`."""

    image: TowerMap
    text: TowerMap

    def __post_init__(self) -> None:
        if self.image.dim != self.text.dim:
            raise ValueError(f"its towers are {self.image.dim} and {self.text.dim} wide")

    @property
    def dim(self) -> int:
        """The width of the vectors."""
        return self.image.dim

    def weaker(self, share: float) -> TunedHead:
        """Return the head a share of the way from the identity to this one."""
        return TunedHead(self.image.weaker(share), self.text.weaker(share))

    def to_bytes(self) -> bytes:
        """Return the head as an `.npz` file: the same head, the same bytes."""
        arrays = {
            f"{modality}.{field.name}": getattr(getattr(self, modality), field.name)
            for modality in Modality
            for field in fields(TowerMap)
        }
        file = io.BytesIO()
        np.savez(file, **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> TunedHead:
        """Return the head in an `.npz` file, of which nothing is executed; raise ValueError for one that is none."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                found: Mapping[str, Any] = dict(arrays)
        except (OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise ValueError(f"it is no .npz file ({error})") from error
        towers = {}
        for modality in Modality:
            missing = [f.name for f in fields(TowerMap) if f"{modality}.{f.name}" not in found]
            if missing:
                raise ValueError(f"it lacks {modality}.{missing[0]}")
            towers[modality] = TowerMap(**{f.name: found[f"{modality}.{f.name}"] for f in fields(TowerMap)})
        return cls(towers[Modality.IMAGE], towers[Modality.TEXT])


def _gelu(x: Float32) -> Float32:
    scale, cubic = (np.float32(number) for number in _GELU)
    bent = np.float32(0.5) * x * (np.float32(1.0) + np.tanh(scale * (x + cubic * x * x * x)))
    return bent.astype(np.float32, copy=False)
