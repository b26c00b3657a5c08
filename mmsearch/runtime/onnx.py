"""ONNX Runtime sessions and their verified weights: the one home of onnxruntime."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmsearch.errors import WeightsUnavailable


def read_verified(path: Path, sha256: str) -> bytes:
    """Return the bytes of a weights file; raise WeightsUnavailable unless it is there and has the hash."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsUnavailable(
            f"The weights file {path} cannot be read ({error.strerror}): install mmsearch again."
        ) from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise WeightsUnavailable(
            f"The weights file {path} does not have the expected SHA-256: it is damaged, install mmsearch again."
        )
    return data


class OnnxSession:
    """An ONNX graph on the CPU, run by name. Safe to call from several threads."""

    def __init__(self, model: bytes, *, threads: int, runs: int = 1) -> None:
        """Load a serialised ONNX model for `runs` runs at a time with `threads` intra-op threads each.

        Several runs on one thread each get more out of a convolutional network than one run on several: nothing waits
        for the slowest, whatever else the cores are doing.
        """
        onnxruntime = _onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        # Idle ONNX Runtime threads otherwise spin on the cores that decode the next pictures or run FAISS.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._pool = ThreadPoolExecutor(runs, thread_name_prefix="mmsearch-onnx") if runs > 1 else None
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(self, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
        """Return the named outputs of one run, in the order asked for."""
        try:
            results: list[NDArray[np.float32]] = self._session.run(list(outputs), dict(feeds))
        except RuntimeError as error:  # what ONNX Runtime's own exceptions are
            if "allocat" in str(error):
                raise MemoryError(str(error)) from error
            raise
        return results

    def run_each(self, output: str, feeds: Sequence[Mapping[str, NDArray[Any]]]) -> list[NDArray[np.float32]]:
        """Return one named output for each of several feeds, in their order; as many at a time as were asked for."""
        if self._pool is None or len(feeds) < 2:
            return [self.run([output], feed)[0] for feed in feeds]
        return list(self._pool.map(lambda feed: self.run([output], feed)[0], feeds))


def versions() -> dict[str, str]:
    """Return the version of ONNX Runtime, for `mmsearch doctor`."""
    return {"onnxruntime": _onnxruntime().__version__}


def _onnxruntime() -> ModuleType:
    """Return ONNX Runtime with its telemetry off.

    From 1.29 on it collects events in ~/.cache/Microsoft and sends them, unless this variable is set before it is
    imported (its Privacy.md). Nothing that a person does with their pictures is anybody else's business.
    """
    os.putenv("ORT_DISABLE_TELEMETRY", "1")  # for its C code alone
    onnxruntime = import_module("onnxruntime")
    onnxruntime.disable_telemetry_events()  # where somebody else has imported it before
    return onnxruntime
