"""OpenClipEncoder: any model of OpenCLIP, from its hub or from local weights, on the CPU or on GPUs.

https://github.com/mlfoundations/open_clip. `open_clip_source` tells what a URI means; this module runs the model.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmsearch.config import Settings
from mmsearch.encoders.languages import MULTILINGUAL_ADVICE, foreign_share
from mmsearch.encoders.open_clip_fingerprint import fingerprint
from mmsearch.encoders.open_clip_source import LoadedModel, load_model
from mmsearch.encoders.open_clip_text import TextInput, TokenBatch, can_shorten, shortened, with_tokens
from mmsearch.errors import EncoderError
from mmsearch.runtime.devices import AUTO, TorchWorker, find_devices, may_have_fast_bfloat16, require_torch
from mmsearch.runtime.threads import set_torch_threads
from mmsearch.types import EncoderSpec, Float32, Mask, UInt8

if TYPE_CHECKING:
    import torch
    from PIL import Image

_TEXT_BATCH = 64
_TRIAL_PICTURES = 8
_WORTH, _LEAST_COSINE = 1.2, 0.999
"""How much faster bfloat16 must be on a CPU to be worth its rounding, and how near its vectors to those of float32."""

_log = logging.getLogger(__name__)


def load(rest: str, device: str = AUTO) -> OpenClipEncoder:
    """Return the encoder of an OpenCLIP model on a device; see `load_model` and `find_devices` for what is raised."""
    devices = find_devices(device)  # a device that is not there is told before gigabytes are read
    loaded = load_model(rest)
    has_tokens = hasattr(loaded.model.visual, "forward_intermediates")
    return (OpenClipTokenEncoder if has_tokens else OpenClipEncoder)(loaded, devices)


@dataclass(slots=True)
class _Replica:
    """The model on one device, and who runs its towers there."""

    worker: TorchWorker
    text_worker: TorchWorker
    model: Any


class OpenClipEncoder:
    """The two towers of an OpenCLIP model. Several devices share a batch. Safe to call from several threads."""

    def __init__(self, loaded: LoadedModel, devices: Sequence[str], *, dtype: torch.dtype | None = None) -> None:
        """Put the model on the devices and compute in `dtype`; None chooses by the device, on a CPU by trial.

        A CPU computes texts in float32 whatever the dtype: they are short, and a query shall lose nothing.
        """
        self._torch = require_torch()
        self._preprocess = loaded.preprocess
        self._multilingual = loaded.multilingual
        tower = loaded.model.text
        self._text_input = TextInput(
            loaded.tokenizer,
            context_length=loaded.context_length,
            can_shorten=can_shorten(tower),
            template=loaded.template,
        )
        self._spec = EncoderSpec(
            uri=loaded.uri,
            dim=_dim(loaded.model),
            image_size=loaded.preprocess.size,
            fingerprint=fingerprint(loaded),
        )
        copies = (copy.deepcopy(loaded.model) for _ in devices[1:])  # each is moved before the next is made
        self._replicas = [self._replica(name, next(copies, loaded.model), dtype) for name in devices]
        self._on_cpu = all(name == "cpu" for name in devices)
        self._threads = Settings.from_environment().threads
        if self._on_cpu:  # as many runs as threads, of one model
            self._replicas *= self._threads
        runs = len(self._replicas)
        self._pool = ThreadPoolExecutor(runs, thread_name_prefix="mmsearch-device") if runs > 1 else None
        self._trial_due = self._on_cpu and dtype is None and may_have_fast_bfloat16()
        self._lock = threading.Lock()

    @property
    def spec(self) -> EncoderSpec:
        """The description that a collection is bound to."""
        return self._spec

    @property
    def min_side(self) -> None:
        """None: a picture is decoded whole, as OpenCLIP has it; a reduced scale would change its vector a little."""
        return None

    @property
    def image_batch(self) -> int:
        """What keeps all devices busy; it grows while a GPU is found to take more at a time.

        For a GPU it is two of its batches: one is prepared and fetched while the other is computed.
        """
        return sum((2 if r.worker.is_gpu else 1) * r.worker.image_batch.size for r in self._replicas)

    @property
    def dtype(self) -> str:
        """What pictures are computed in: "float32", "bfloat16" or "float16"; on a CPU known after the first eight."""
        return str(self._replicas[0].worker.dtype).removeprefix("torch.")

    def prepare_image(self, image: Image.Image) -> UInt8:
        """Return the picture (RGB) as the model's own transform prepares it, (3, S, S) uint8. Thread-safe."""
        return self._preprocess.apply(image)

    @property
    def preparation(self) -> Callable[[Image.Image], UInt8]:
        """What `prepare_image` does, as a value."""
        return self._preprocess.apply

    def encode_images(self, pixels: UInt8) -> Float32:
        """Return unit rows (n, dim) for prepared pictures (n, 3, S, S) uint8."""
        self._check(pixels)
        if not len(pixels):
            return np.empty((0, self._spec.dim), dtype=np.float32)
        if self._trial_due and len(pixels) >= _TRIAL_PICTURES:
            self._choose_dtype(pixels[:_TRIAL_PICTURES])
        return unit_rows(self._on_images(pixels, lambda model, x: model.encode_image(x)))

    def encode_texts(self, texts: Sequence[str]) -> Float32:
        """Return unit rows (n, dim); a text over the context length is cut, and that is logged once."""
        rows = np.empty((len(texts), self._spec.dim), dtype=np.float32)

        def encode(replica: _Replica, batch: TokenBatch) -> Float32:
            tower = shortened(replica.model.text, batch.ids.shape[1])
            return replica.text_worker.run(
                lambda ids: _pooled(tower(ids)), batch.ids, batch=replica.text_worker.text_batch
            )

        for batch, done in self._on_texts(texts, encode):
            rows[batch.order] = unit_rows(done)
        return rows

    def text_notes(self, text: str) -> tuple[str, ...]:
        """Return a sentence when half or more of the letters are of a script that an English model cannot read."""
        if self._multilingual or foreign_share(text) < 0.5:
            return ()
        return (f"{self._spec.uri} was trained on English: {MULTILINGUAL_ADVICE}",)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _replica(self, device: str, model: Any, dtype: torch.dtype | None) -> _Replica:
        worker = TorchWorker(device, dtype=dtype)
        if device != "cpu":
            return _Replica(worker, worker, model.to(worker.device))
        if worker.dtype != self._torch.float32:
            model = with_halved_pictures(model, self._torch)
        return _Replica(worker, TorchWorker(device, dtype=self._torch.float32), model)

    def _check(self, pixels: UInt8) -> None:
        size = self._spec.image_size
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (3, size, size):
            raise ValueError(f"pixels must be uint8 (n, 3, {size}, {size}), not {pixels.dtype} {pixels.shape}")

    def _on_images(self, pixels: UInt8, function: Callable[[Any, torch.Tensor], torch.Tensor]) -> Float32:
        """Return function(model, normalised pixels) for all pictures, a share of them on each device."""
        replicas = self._replicas
        shares = len(replicas) if len(pixels) >= 2 * len(replicas) else 1

        def run(replica: _Replica, part: UInt8) -> Float32:
            self._set_threads(runs=shares)
            return self._run_images(replica, part, function)

        if self._pool is None or shares == 1:
            return run(replicas[0], pixels)
        sizes = np.cumsum([replica.worker.image_batch.size for replica in replicas])  # faster devices take more
        parts = np.split(pixels, (len(pixels) * sizes[:-1] / sizes[-1]).round().astype(int))
        done = self._pool.map(run, replicas, parts)
        return np.concatenate([rows for rows, part in zip(done, parts, strict=True) if len(part)])

    def _run_images(
        self, replica: _Replica, pixels: UInt8, function: Callable[[Any, torch.Tensor], torch.Tensor]
    ) -> Float32:
        mean, std = (
            self._torch.tensor(values, device=replica.worker.device).reshape(1, 3, 1, 1)
            for values in (self._preprocess.mean, self._preprocess.std)
        )
        return replica.worker.run(
            lambda x: function(replica.model, (x.float() / 255.0 - mean) / std),
            pixels,
            batch=replica.worker.image_batch,
        )

    def _on_texts(
        self, texts: Sequence[str], function: Callable[[_Replica, TokenBatch], Any]
    ) -> list[tuple[TokenBatch, Any]]:
        """Return function(replica, batch) for batches of all texts, taken by the devices in turn."""
        if not texts:
            return []
        batches = list(self._text_input.batches(texts, _TEXT_BATCH))
        turns = [self._replicas[number % len(self._replicas)] for number in range(len(batches))]
        runs = min(len(batches), len(self._replicas))

        def run(replica: _Replica, batch: TokenBatch) -> Any:
            self._set_threads(runs=runs)
            return function(replica, batch)

        if self._pool is None or runs == 1:
            return [(batch, run(replica, batch)) for replica, batch in zip(turns, batches, strict=True)]
        return list(zip(batches, self._pool.map(run, turns, batches), strict=True))

    def _set_threads(self, *, runs: int) -> None:
        """Share the threads of the CPU among `runs` runs at a time, of which the calling thread does one."""
        if self._on_cpu:
            set_torch_threads(self._torch, threads=max(1, self._threads // runs))

    def _choose_dtype(self, pixels: UInt8) -> None:
        """Compute in bfloat16 from now on if that is well faster on this CPU and the vectors hardly change."""
        with self._lock:
            if not self._trial_due:
                return
            self._trial_due = False
            self._set_threads(runs=1)
            full = self._replicas[0]
            try:
                half = self._replica("cpu", full.model, self._torch.bfloat16)
                (whole, slow), (rounded, fast) = (self._timed(replica, pixels) for replica in (full, half))
            except (RuntimeError, MemoryError) as error:  # a layer without a bfloat16 kernel, or no room for two
                _log.info("there is no computing this model in bfloat16 on this CPU: %s", error)
                return
            least = float((whole * rounded).sum(axis=1).min())
            _log.info("8 pictures: %.2f s in float32, %.2f s in bfloat16 at a cosine of %.5f", slow, fast, least)
            if _WORTH * fast < slow and least >= _LEAST_COSINE:
                self._replicas = [half] * len(self._replicas)

    def _timed(self, replica: _Replica, pixels: UInt8) -> tuple[Float32, float]:
        """Return the unit rows (n, dim) of prepared pictures, and the seconds that a replica takes for them."""
        best = float("inf")
        for _ in range(3):
            started = time.perf_counter()
            rows = self._run_images(replica, pixels, lambda model, x: model.encode_image(x))
            best = min(best, time.perf_counter() - started)
        return unit_rows(rows), best


class OpenClipTokenEncoder(OpenClipEncoder):
    """An OpenClipEncoder whose towers also show the tokens that they pool."""

    def image_tokens(self, pixels: UInt8) -> Float32:
        """Return the patch tokens (n, patches, width) of the last block, row by row of the grid.

        They have gone through the tower's last norm, but for towers that pool by attention before it (CoCa).
        """
        self._check(pixels)
        if not len(pixels):
            return np.empty((0, 0, 0), dtype=np.float32)

        def tokens(model: Any, x: torch.Tensor) -> torch.Tensor:
            pools_first = getattr(model.visual, "attn_pool", None) is not None
            found = model.visual.forward_intermediates(
                x, indices=1, normalize_intermediates=not pools_first, intermediates_only=True, output_fmt="NCHW"
            )
            last: torch.Tensor = found["image_intermediates"][-1]
            return last.flatten(2).transpose(1, 2)

        return self._on_images(pixels, tokens)

    def text_tokens(self, texts: Sequence[str]) -> tuple[Float32, Mask]:
        """Return the last states (n, tokens, width) and the mask (n, tokens) that is True on real tokens."""

        def encode(replica: _Replica, batch: TokenBatch) -> Float32:
            tower = with_tokens(shortened(replica.model.text, batch.ids.shape[1]))
            return replica.text_worker.run(lambda ids: tower(ids)[1], batch.ids, batch=replica.text_worker.text_batch)

        done = self._on_texts(texts, encode)
        longest = max((states.shape[1] for _, states in done), default=0)
        width = done[0][1].shape[2] if done else 0
        tokens = np.zeros((len(texts), longest, width), dtype=np.float32)
        real = np.zeros((len(texts), longest), dtype=np.bool_)
        for batch, states in done:
            missing = batch.ids.shape[1] - states.shape[1]  # a tower may keep its class token to itself
            mask = np.arange(states.shape[1]) < np.maximum(batch.lengths - missing, 1)[:, np.newaxis]
            tokens[batch.order, : states.shape[1]] = states * mask[..., np.newaxis]
            real[batch.order, : states.shape[1]] = mask
        return tokens, real


def with_halved_pictures(model: Any, torch: Any) -> Any:
    """Return the model with the image tower's matrices in bfloat16: autocast would make them so for every batch.

    The text tower is shared.
    """
    copied = copy.copy(model)
    copied._modules = {**model._modules, "visual": copy.deepcopy(model.visual)}
    layers = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d)
    for module in copied.visual.modules():
        if isinstance(module, layers):
            module.to(torch.bfloat16)
        elif isinstance(module, torch.nn.MultiheadAttention) and module.in_proj_weight is not None:
            for parameter in (module.in_proj_weight, module.in_proj_bias):
                if parameter is not None:
                    parameter.data = parameter.data.to(torch.bfloat16)
    return copied


def unit_rows(rows: Float32) -> Float32:
    """Return rows (n, dim) at length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units: Float32 = (rows / np.maximum(lengths, 1e-12)).astype(np.float32)
    return units


def _pooled(output: Any) -> Any:
    """Return the pooled vector of a text tower, which answers with its tokens too where its config says so."""
    return output[0] if isinstance(output, tuple) else output


def _dim(model: Any) -> int:
    dim = getattr(model.text, "output_dim", None)
    if not isinstance(dim, int):
        raise EncoderError(
            "The text tower of this OpenCLIP model does not tell its width: report it with the model's name."
        )
    return dim
