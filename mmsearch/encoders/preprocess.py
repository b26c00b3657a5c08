"""Preprocess: a model's own way from an RGB picture to its input, in whole grey levels.

The same arithmetic as OpenCLIP's `image_transform` (open_clip/transform.py) with torchvision's PIL functions, whose
normalising is left to the device: uint8 is a quarter of the bytes to move.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmsearch.types import UInt8

if TYPE_CHECKING:
    from PIL import Image
    from PIL.Image import Resampling

RESIZE_MODES = ("shortest", "longest", "squash")
INTERPOLATIONS = ("bicubic", "bilinear")
NEEDED = ("size", "mean", "std")
"""What must be known of a model; OpenCLIP would fill in CLIP's own values where they are missing.

A config without `interpolation` and `resize_mode` is of OpenCLIP's first format, which knew one way only (`_FIRST`).
"""

_FIRST = {"interpolation": "bicubic", "resize_mode": "shortest"}

_MOST_PIXELS = 32_000_000
"""A strip that would become larger than this is cut to what is needed before it is resized, not after: a line of 20,000
pixels would take gigabytes. Its edges may then differ by some grey levels, for Pillow's two passes change places."""

_SUPPORT = {"bicubic": 2.0, "bilinear": 1.0}  # radius of the filters, in source pixels when enlarging


@dataclass(frozen=True, slots=True)
class Preprocess:
    """Side of the square input, how a picture is brought to it, and the mean and std (3,) of normalised channels.

    `resize_mode`: "shortest" crops the centre, "longest" pads with the grey `fill_color`, "squash" distorts.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    resize_mode: str
    fill_color: int = 0

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Preprocess:
        """Return the preprocessing in a `preprocess_cfg` of OpenCLIP; raise ValueError with what is missing or odd."""
        missing = [name for name in NEEDED if config.get(name) is None]
        if missing:
            raise ValueError(f"it does not tell {', '.join(missing)}")
        config = {**_FIRST, **{name: value for name, value in config.items() if value is not None}}
        size = config["size"]
        sides = [size, size] if isinstance(size, int) else list(size)
        if len(set(sides)) != 1:
            raise ValueError(f"the input of {sides} is not square")
        if config.get("mode", "RGB") != "RGB":
            raise ValueError(f"its mode is {config['mode']!r}, not 'RGB'")
        if config["interpolation"] not in INTERPOLATIONS or config["resize_mode"] not in RESIZE_MODES:
            raise ValueError(f"{config['interpolation']!r} or {config['resize_mode']!r} is no known way to resize")
        return cls(
            size=int(sides[0]),
            mean=_three(config["mean"]),
            std=_three(config["std"]),
            interpolation=config["interpolation"],
            resize_mode=config["resize_mode"],
            fill_color=int(config.get("fill_color", 0)),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return all of it, for a fingerprint."""
        return asdict(self)

    def apply(self, image: Image.Image) -> UInt8:
        """Return the pixels (3, S, S) of an RGB picture. Thread-safe."""
        size = self.size
        if self.resize_mode == "squash":
            done = image.resize((size, size), self._filter)
        elif self.resize_mode == "longest":
            done = self._padded(image)
        else:
            done = self._cropped(image)
        return np.ascontiguousarray(np.asarray(done, dtype=np.uint8).transpose(2, 0, 1))

    @property
    def _filter(self) -> Resampling:
        from PIL.Image import Resampling

        return Resampling.BILINEAR if self.interpolation == "bilinear" else Resampling.BICUBIC

    def _cropped(self, image: Image.Image) -> Image.Image:
        """Return the centre square after the short side was brought to `size`; rounding as torchvision does it."""
        size = self.size
        short, long = min(image.size), max(image.size)
        new_long = int(size * long / short)
        start = round((new_long - size) / 2.0)
        wide = image.width >= image.height
        if new_long * size <= _MOST_PIXELS:
            done = image.resize((new_long, size) if wide else (size, new_long), self._filter)
        else:  # only the part whose pixels can reach the crop
            scale = new_long / long
            reach = math.ceil(_SUPPORT[self.interpolation] * max(scale, 1.0)) + 1
            first, last = max(0, start - reach), min(new_long, start + size + reach)
            part = (first / scale, min(last / scale, float(long)))
            box = (part[0], 0.0, part[1], float(short)) if wide else (0.0, part[0], float(short), part[1])
            done = image.resize((last - first, size) if wide else (size, last - first), self._filter, box=box)
            start -= first
        left, top = (start, 0) if wide else (0, start)
        return done.crop((left, top, left + size, top + size))

    def _padded(self, image: Image.Image) -> Image.Image:
        """Return the picture with its long side at `size`, in the middle of a grey square."""
        from PIL import Image as Pillow

        size = self.size
        ratio = max(image.size) / size
        width, height = (max(1, round(side / ratio)) for side in image.size)
        small = image.resize((width, height), self._filter)
        square = Pillow.new("RGB", (size, size), (self.fill_color,) * 3)
        square.paste(small, ((size - width) // 2, (size - height) // 2))
        return square


@dataclass(frozen=True, slots=True)
class SquareResize:
    """The compact encoder's way: the picture, or its centre square (`crop`), resized to `size` × `size`."""

    size: int
    crop: bool

    def apply(self, image: Image.Image) -> UInt8:
        """Return the pixels (3, S, S) of an RGB picture, by Pillow's bicubic filter. Thread-safe."""
        from PIL.Image import Resampling

        box = None
        if self.crop:
            side = min(image.size)
            left, top = (image.width - side) / 2, (image.height - side) / 2
            box = (left, top, left + side, top + side)
        small = image.resize((self.size, self.size), Resampling.BICUBIC, box=box, reducing_gap=3.0)
        return np.ascontiguousarray(np.asarray(small, dtype=np.uint8).transpose(2, 0, 1))


def _three(value: Any) -> tuple[float, ...]:
    values = tuple(float(v) for v in value) if isinstance(value, list | tuple) else (float(value),) * 3
    if len(values) != 3:
        raise ValueError(f"{values} are not three channels")
    return values
