"""The process that decodes pictures for `Decoder`: what a hostile file does to it, it does to nobody else.

It is told by pickle, once, how pictures are prepared, then takes one place of a picture after the other. It answers
with JSON and the bytes of the pixels, so that whoever asked need not trust it.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from mmsearch.corpora.places import open_place
from mmsearch.errors import ImageError, ImageTooLarge
from mmsearch.images import decode, lift_pillow_limit
from mmsearch.types import UInt8

CPU_SECONDS = 10.0
"""Computing longer than this on one picture is a hang, but for …"""

BYTES_A_SECOND = 5_000_000
"""… files so large that it is not: a second more for so many bytes."""

MOST_CPU_SECONDS = 40.0
WALL_SECONDS = 60.0
"""Waiting longer than this is a disk that does not answer; a hang has been found before, even on half a core."""


@dataclass(frozen=True, slots=True)
class Task:
    """How pictures are decoded and prepared; without `prepare` the RGB pixels (height, width, 3) are the answer."""

    prepare: Callable[[Image.Image], UInt8] | None
    max_pixels: int
    min_side: int | None
    cpu_seconds: float = CPU_SECONDS


def main(descriptor: int) -> None:
    """Answer until the other end is closed."""
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who asks
    lift_pillow_limit()
    with Connection(descriptor) as connection, contextlib.suppress(EOFError, ConnectionError):
        try:
            task = _told(connection)
        except (ImportError, AttributeError) as error:  # a class of the program that called us, out of reach here
            connection.send_bytes(json.dumps({"unknown": str(error)}).encode())
            task = _told(connection)
        _limit_memory(task.max_pixels)
        connection.send_bytes(b"{}")
        while True:
            answer, pixels = _answer(task, connection.recv_bytes().decode("utf-8", "surrogatepass"))
            connection.send_bytes(json.dumps(answer).encode())
            if pixels is not None:
                connection.send_bytes(pixels.tobytes())


def _told(connection: Connection) -> Task:
    """Return what our own parent says is to be done."""
    task: Task = pickle.loads(connection.recv_bytes())  # noqa: S301 - nobody else has the other end of the socket
    return task


def _answer(task: Task, place: str) -> tuple[dict[str, Any], UInt8 | None]:
    try:
        with open_place(place) as file, _limited(file, task.cpu_seconds):
            started = time.perf_counter()
            image, info = decode(file, place, max_pixels=task.max_pixels, min_side=task.min_side)
            decoded = time.perf_counter()
            pixels = np.asarray(image) if task.prepare is None else task.prepare(image)
            seconds = (decoded - started, time.perf_counter() - decoded)
    except ImageTooLarge as error:
        return {"too_large": str(error)}, None
    except ImageError as error:
        return {"unreadable": str(error)}, None
    except MemoryError:
        return {"memory": True}, None
    except OSError as error:
        return {"errno": error.errno or 5, "reason": error.strerror or str(error)}, None
    return {"info": asdict(info), "shape": pixels.shape, "seconds": seconds}, np.ascontiguousarray(
        pixels, dtype=np.uint8
    )


def _limit_memory(max_pixels: int) -> None:
    """Let what a hostile file asks for fail here, before the kernel ends whoever else is large."""
    import resource  # not on every system, as little as this process

    most = 4 * 2**30 + 40 * max_pixels  # a picture, its copy in RGBA, and room for the decoder
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


@contextlib.contextmanager
def _limited(file: BinaryIO, cpu_seconds: float) -> Iterator[None]:
    """Have the kernel end this process when it computes or waits too long: a loop in C hears no Python."""
    size = file.seek(0, os.SEEK_END)  # of a member of an archive its own
    file.seek(0)
    computing = min(cpu_seconds + size / BYTES_A_SECOND, MOST_CPU_SECONDS)
    limits = ((signal.ITIMER_PROF, computing), (signal.ITIMER_REAL, WALL_SECONDS))
    for timer, seconds in limits:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer, _ in limits:
            signal.setitimer(timer, 0.0)
