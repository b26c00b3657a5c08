"""Devices of torch: which there are, how a model runs on one, how many pictures at a time. Home of torch.

The calls that only a GPU takes stand in `TorchWorker`; everything in it runs on a CPU too, and is tested there.
Sources: https://docs.pytorch.org/docs/stable/amp.html and https://docs.pytorch.org/docs/stable/notes/cuda.html.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmsearch.errors import DeviceError, MissingExtra

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

AUTO = "auto"
_NUMBER = r"cuda:(0|[1-9]\d{0,2})"
_DEVICES = re.compile(rf"auto|cpu|mps|cuda|{_NUMBER}(,{_NUMBER})*")
_AMPERE = 8  # the compute capability from which on GPUs have bfloat16 units

_FIXED_BATCH = {"cpu": 16, "mps": 32}
_GPU_BATCH, _MOST_GPU_BATCH = 64, 2048
_TEXT_BATCH = 64
# Of the CPU's allocator; of pinning and of MPS; of CUDA's libraries.
_OUT_OF_MEMORY = re.compile(r"can't allocate memory|out of memory|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED")


def require_torch() -> ModuleType:
    """Return torch; raise MissingExtra with the pip command that brings it."""
    try:
        return import_module("torch")
    except ImportError as error:
        raise MissingExtra(
            'This encoder needs torch and OpenCLIP: pip install "mmsearch[cpu,clip]" (on a CUDA GPU: "mmsearch[gpu]").'
        ) from error


def check_device(wanted: str) -> str:
    """Return `wanted` if it is written as a device is; raise DeviceError. Needs no torch."""
    if not _DEVICES.fullmatch(wanted):
        raise DeviceError(f"There is no device {wanted!r}: choose auto, cpu, cuda, cuda:0, cuda:0,cuda:1 or mps.")
    return wanted


def find_devices(wanted: str = AUTO) -> tuple[str, ...]:
    """Return the torch devices for "auto" (the first GPU, else the CPU), "cpu", "cuda", "cuda:0,cuda:1" or "mps".

    Raise DeviceError for one that is not there, MissingExtra without torch.
    """
    torch = require_torch()
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if check_device(wanted) == AUTO:
        return ("cuda:0",) if gpus else ("mps",) if torch.backends.mps.is_available() else ("cpu",)
    if wanted == "cpu":
        return ("cpu",)
    if wanted == "mps":
        if not torch.backends.mps.is_available():
            raise DeviceError("There is no Apple GPU that torch can use here: choose --device cpu.")
        return ("mps",)
    names = ("cuda:0",) if wanted == "cuda" else tuple(dict.fromkeys(wanted.split(",")))
    missing = [name for name in names if int(name.partition(":")[2]) >= gpus]
    if missing:
        why = "this torch is built for the CPU alone" if torch.version.cuda is None and not torch.version.hip else ""
        have = f"torch sees {gpus} CUDA GPU{'' if gpus == 1 else 's'} here"
        raise DeviceError(f"There is no {missing[0]}: {why or have}. Choose --device auto or cpu.")
    return names


def versions() -> dict[str, str]:
    """Return what torch could run on, for `mmsearch doctor`; {} without torch."""
    try:
        torch = require_torch()
    except MissingExtra:
        return {}
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    found = [*gpus, *(["mps"] if torch.backends.mps.is_available() else [])]
    return {
        "torch devices": ", ".join([*found, f"cpu ({torch.backends.cpu.get_cpu_capability()})"]),
        "torch bfloat16": "tried on this CPU" if may_have_fast_bfloat16() else "not on this CPU",
    }


def may_have_fast_bfloat16() -> bool:
    """Return True when the CPU has bfloat16 units (AVX-512 BF16, AMX, Arm BF16), so that a trial is worth its time."""
    torch = require_torch()
    known = getattr(torch.cpu, "get_capabilities", None)
    if known is None:  # before torch 2.10
        return bool(torch.backends.cpu.get_cpu_capability().startswith("AVX512"))
    flags: dict[str, Any] = dict(known())
    return any(flags.get(name) for name in ("avx512_bf16", "amx_bf16", "amx_tile", "bf16", "arm_bf16"))


class BatchSize:
    """How many rows a device takes at a time: doubled while that is faster, halved for good when memory runs out.

    Each size is run twice and the second run is timed: the first one also allocates and chooses kernels.
    """

    GAIN = 1.05
    """A doubling must make the rows per second rise by this factor to be kept."""

    def __init__(self, first: int, most: int) -> None:
        self.size = first
        self._most = most
        self._best = (0, 0.0)  # size, rows per second
        self._runs = 0

    @property
    def settled(self) -> bool:
        """True when no other size is to be tried."""
        return self.size >= self._most and self._runs > 1

    def ran(self, rows: int, seconds: float) -> None:
        """Tell how long a run of `size` rows took; other runs say nothing."""
        if rows != self.size or self.settled:
            return
        self._runs += 1
        if self._runs < 2:
            return
        rate = rows / max(seconds, 1e-9)
        best_size, best_rate = self._best
        if rate < self.GAIN * best_rate:
            self.size = self._most = best_size
        else:
            self._best = (self.size, rate)
            if 2 * self.size <= self._most:
                self.size, self._runs = 2 * self.size, 0
            else:
                self._most = self.size

    def out_of_memory(self, rows: int) -> None:
        """Tell that `rows` were too many; raise MemoryError when it was one."""
        if rows <= 1:
            raise MemoryError("the device has not enough memory for a single row")
        self._most = min(self._most, max(1, rows // 2))
        self.size = min(self.size, self._most)
        if self._best[0] > self._most:  # what was best does not fit any more
            self._best, self._runs = (0, 0.0), 0


class TorchWorker:
    """One device: rows go there in batches, results come back as float32. Safe to call from several threads."""

    def __init__(self, device: str, *, dtype: torch.dtype | None = None) -> None:
        """Compute on `device` in `dtype` by autocast; None is bfloat16 or float16 on a CUDA GPU, else float32."""
        self._torch = require_torch()
        self.device = self._torch.device(device)
        self.is_gpu = self.device.type == "cuda"
        self.dtype = dtype or self._usual_dtype()
        fixed = _FIXED_BATCH.get(self.device.type)
        self.image_batch = BatchSize(fixed, fixed) if fixed else BatchSize(_GPU_BATCH, _MOST_GPU_BATCH)
        self.text_batch = BatchSize(_TEXT_BATCH, _TEXT_BATCH)
        self._lock = threading.Lock()

    def run(
        self, function: Callable[[torch.Tensor], torch.Tensor], rows: NDArray[Any], *, batch: BatchSize
    ) -> NDArray[np.float32]:
        """Return function(rows) for rows (n, …), batch by batch, in order; raise MemoryError when even one is too many.

        The results of a batch are fetched after the next one has been sent, so that a GPU computes meanwhile; no more
        than those of two batches lie there.
        """
        done: list[NDArray[np.float32]] = []
        last: Any = None  # the results of the batch before, still on the device
        start = 0
        with self._computing():
            while start < len(rows):
                part = rows[start : start + batch.size]
                began = time.perf_counter()
                result = self._tried(function, part, wait=not batch.settled)
                seconds = time.perf_counter() - began
                was_alone = last is None
                if last is not None:
                    done.append(_fetched(last))
                last = result
                with self._lock:
                    if result is not None:
                        batch.ran(len(part), seconds)
                        start += len(part)
                    elif was_alone:  # else the results of the batch before were in the way: once more without them
                        batch.out_of_memory(len(part))
            done.append(_fetched(last))
        return np.concatenate(done)

    def _tried(self, function: Callable[[torch.Tensor], torch.Tensor], part: NDArray[Any], *, wait: bool) -> Any:
        """Return function(part) on the device; None, with the memory given back, when there was too little of it."""
        try:
            result = function(self._sent(part))
            if wait and self.is_gpu:
                self._torch.cuda.synchronize(self.device)
            return result
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if self.is_gpu:  # after the handler, for the traceback holds what was half computed
            self._torch.cuda.empty_cache()
        return None

    def _usual_dtype(self) -> torch.dtype:
        torch = self._torch
        if not self.is_gpu:
            return torch.float32
        major, _minor = torch.cuda.get_device_capability(self.device)
        return torch.bfloat16 if major >= _AMPERE else torch.float16

    def _sent(self, rows: NDArray[Any]) -> torch.Tensor:
        tensor = self._torch.from_numpy(np.ascontiguousarray(rows))
        if not self.is_gpu:
            return tensor.to(self.device)
        try:  # a copy from pinned memory need not be waited for; torch keeps it until the copy is done
            tensor = tensor.pin_memory()
        except RuntimeError:  # too little memory may be pinned: the copy is waited for instead
            _log.debug("%d bytes cannot be pinned", tensor.nbytes)
        return tensor.to(self.device, non_blocking=True)

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        torch = self._torch
        mixed = self.dtype != torch.float32
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=self.dtype, enabled=mixed):
            yield


def is_out_of_memory(error: Exception) -> bool:
    """Return True when a device, or the CPU, had too little memory; torch has several ways to say so."""
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or (isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None)


def _fetched(rows: torch.Tensor) -> NDArray[np.float32]:
    """Return rows as float32 in the memory of the CPU; they are made float32 there."""
    fetched: NDArray[np.float32] = rows.cpu().float().numpy()
    return fetched
