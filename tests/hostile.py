"""Encoders whose preparation of pictures does what a decoder may do to a hostile file."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from PIL import Image

from mmsearch.types import UInt8
from tests.support import ToyEncoder

CRASHES, HANGS, SLEEPS = (41, 40), (43, 40), (47, 40)
"""Sizes of pictures that end, or keep, the process that prepares them."""


def prepare(image: Image.Image) -> UInt8:
    """Return what ToyEncoder prepares, unless the picture is hostile."""
    if image.size == CRASHES:
        os.kill(os.getpid(), signal.SIGSEGV)
    while image.size == HANGS:
        pass
    return ToyEncoder().prepare_image(image)


class FragileEncoder(ToyEncoder):
    """A toy encoder that must not prepare hostile pictures in this process."""

    def prepare_image(self, image: Image.Image) -> UInt8:
        """Return what ToyEncoder prepares."""
        if image.size in (CRASHES, HANGS):
            raise AssertionError("this was to happen elsewhere")
        return super().prepare_image(image)

    @property
    def preparation(self) -> Callable[[Image.Image], UInt8]:
        """What is done elsewhere."""
        return prepare


class UnsendableEncoder(ToyEncoder):
    """An encoder of a class that another process cannot import."""

    @property
    def preparation(self) -> Callable[[Image.Image], UInt8]:
        """A method of a value of a class that is nowhere to be imported from."""
        return Hidden().apply


class _Hidden:
    def apply(self, image: Image.Image) -> UInt8:
        raise AssertionError("not here")


Hidden = _Hidden
_Hidden.__module__ = "no_such_module"
