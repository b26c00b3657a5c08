"""Decoder: pictures decoded and prepared in a process of its own, which a hostile file may crash or hang."""

from __future__ import annotations

import json
import pickle
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np
from PIL import Image

from mmsearch.corpora.places import open_place
from mmsearch.decoding.worker import CPU_SECONDS, Task
from mmsearch.errors import ImageTooLarge, UnreadableImage
from mmsearch.images import MAX_PIXELS, ImageInfo, decode
from mmsearch.types import Encoder, PictureMetadata, PortableEncoder, UInt8

_START = "import sys; sys.path[:] = {path!r}; from mmsearch.decoding.worker import main; main({descriptor})"


@dataclass(frozen=True, slots=True)
class Decoded:
    """The prepared pixels (3, S, S) of a picture, what is known of it, and the seconds that both steps took."""

    pixels: UInt8
    info: ImageInfo
    decoding: float
    preparing: float


class PictureDecoder(Protocol):
    """From the place of a picture to what the encoder takes."""

    def decode(self, place: str) -> Decoded:
        """Return the prepared picture; raise UnreadableImage, ImageTooLarge, MemoryError or OSError."""

    def close(self) -> None:
        """Let go of what it holds."""


def make_decoder(encoder: Encoder, *, max_pixels: int, min_side: int | None) -> PictureDecoder:
    """Return a decoder in a process of its own, where the system can hand one a socket; else one in this process."""
    if sys.platform == "win32":
        return DirectDecoder(encoder, max_pixels=max_pixels, min_side=min_side)
    return Decoder(encoder, max_pixels=max_pixels, min_side=min_side)


class Decoder:
    """A process that decodes one picture at a time, started with the first, and anew when a picture has ended it.

    The picture is prepared there as well where the encoder is portable, else here. For one thread.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        max_pixels: int = MAX_PIXELS,
        min_side: int | None = None,
        cpu_seconds: float = CPU_SECONDS,
    ) -> None:
        """A picture may take `cpu_seconds` of computing, and a second more for every 5 MB of its file."""
        self._encoder = encoder
        prepare = encoder.preparation if isinstance(encoder, PortableEncoder) else None
        self._task = Task(prepare, max_pixels, min_side, cpu_seconds)
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def decode(self, place: str) -> Decoded:
        """Return the prepared picture.

        Raise UnreadableImage, also when decoding crashes or takes too long; ImageTooLarge, MemoryError, or OSError
        for a disk that fails or does not answer.
        """
        connection = self._started()
        try:
            connection.send_bytes(place.encode("utf-8", "surrogatepass"))
            answer = json.loads(connection.recv_bytes())
            if "info" not in answer:
                raise _error(answer, place)
            pixels = np.frombuffer(connection.recv_bytes(), dtype=np.uint8).reshape(answer["shape"])
        except (ValueError, KeyError) as error:  # it does not speak our language any more
            self._ended()
            raise UnreadableImage(f"{place} cannot be read as a picture: it confuses its decoder.") from error
        except (EOFError, ConnectionError) as error:
            raise _death(self._ended(), place) from error
        told, (decoding, preparing) = answer["info"], answer["seconds"]
        metadata = PictureMetadata(**{**told["metadata"], "keywords": tuple(told["metadata"]["keywords"])})
        info = ImageInfo(**{**told, "metadata": metadata})
        if self._task.prepare is None:
            started = time.perf_counter()
            pixels = self._encoder.prepare_image(Image.fromarray(pixels))
            preparing = time.perf_counter() - started
        return Decoded(pixels, info, decoding, preparing)

    def close(self) -> None:
        """End the process."""
        self._ended()

    def _started(self) -> Connection:
        if self._connection is None:
            ours, theirs = socket.socketpair()
            with theirs:
                code = _START.format(path=sys.path, descriptor=theirs.fileno())
                self._process = subprocess.Popen(
                    [sys.executable, "-c", code],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            self._connection = Connection(ours.detach())
            try:
                self._introduce(self._connection)
            except (EOFError, ConnectionError) as error:
                status = self._ended()
                reason = f"the decoding process could not be started (status {status})"
                raise OSError(5, reason, sys.executable) from error
        return self._connection

    def _introduce(self, connection: Connection) -> None:
        """Tell what is to be done; a class that the other process cannot import prepares pictures here."""
        try:
            task = pickle.dumps(self._task)
        except (pickle.PicklingError, AttributeError, TypeError):  # a closure, or what holds a lock
            self._task = replace(self._task, prepare=None)
            task = pickle.dumps(self._task)
        connection.send_bytes(task)
        if json.loads(connection.recv_bytes()):
            self._task = replace(self._task, prepare=None)
            connection.send_bytes(pickle.dumps(self._task))
            connection.recv_bytes()

    def _ended(self) -> int:
        """End the process if it still runs, and return its status: −n for signal n."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is None:
            return 0
        process, self._process = self._process, None
        try:
            return process.wait(timeout=2)  # it ends when the connection does
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


class DirectDecoder:
    """Decodes in this process, where nothing hostile is expected or other processes cannot be had."""

    def __init__(self, encoder: Encoder, *, max_pixels: int = MAX_PIXELS, min_side: int | None = None) -> None:
        self._encoder = encoder
        self._max_pixels = max_pixels
        self._min_side = min_side

    def decode(self, place: str) -> Decoded:
        """Return the prepared picture; raise as `Decoder.decode` does."""
        started = time.perf_counter()
        with open_place(place) as file:
            image, info = decode(file, place, max_pixels=self._max_pixels, min_side=self._min_side)
        decoded = time.perf_counter()
        pixels = self._encoder.prepare_image(image)
        return Decoded(pixels, info, decoded - started, time.perf_counter() - decoded)

    def close(self) -> None:
        """Nothing is held."""


def _error(answer: dict[str, Any], place: str) -> Exception:
    if "too_large" in answer:
        return ImageTooLarge(answer["too_large"])
    if "unreadable" in answer:
        return UnreadableImage(answer["unreadable"])
    if "memory" in answer:
        return MemoryError()
    return OSError(int(answer["errno"]), str(answer["reason"]), place)


def _death(status: int, place: str) -> Exception:
    """Return what it means that the process ended while it had a picture."""
    if status == -signal.SIGPROF:
        return UnreadableImage(f"{place} cannot be read as a picture: decoding it took too long.")
    if status == -signal.SIGALRM:
        return OSError(110, "the disk did not answer for a minute", place)
    if status == -signal.SIGKILL:
        return MemoryError()  # the kernel's way to say so
    return UnreadableImage(f"{place} cannot be read as a picture: it crashes its decoder (status {status}).")
