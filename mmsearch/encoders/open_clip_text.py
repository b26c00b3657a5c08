"""Texts as OpenCLIP's towers take them: token ids, how many of them are real, and no more padding than need be."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmsearch.types import Int64

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

_STEP = 8
"""Rows are cut to a multiple of this many tokens."""


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Positions (n,) of some texts among all, their token ids (n, tokens), and how many of each are real (n,)."""

    order: Int64
    ids: Int64
    lengths: Int64


class TextInput:
    """A tokenizer of OpenCLIP. Says once that a text was cut at the context length. Thread-safe."""

    def __init__(self, tokenizer: Any, *, context_length: int, can_shorten: bool, template: str | None) -> None:
        """With `can_shorten`, columns of padding are left out; `template` holds "{}" where the text is to stand."""
        self._tokenizer = tokenizer
        self._fast = getattr(tokenizer, "tokenizer", None)  # of transformers, inside OpenCLIP's HFTokenizer
        self._context_length = context_length
        self._can_shorten = can_shorten
        self._template = template
        self._said_cut = False
        self._lock = threading.Lock()  # a fast tokenizer of transformers is switched to and fro between two ways

    def batches(self, texts: Sequence[str], size: int) -> Iterator[TokenBatch]:
        """Yield all texts, at most `size` at a time, those of like length together."""
        prompts = [text if self._template is None else self._template.replace("{}", text) for text in texts]
        with self._lock:
            ids: Int64 = self._tokenizer(prompts).numpy().astype(np.int64)
        lengths = self._lengths(ids)
        full = np.flatnonzero(lengths >= ids.shape[1] - 1)  # one less where the end token is the padding too
        if not self._said_cut and any(self._is_cut(prompts[row]) for row in full):
            self._said_cut = True
            _log.warning("A text is longer than %d tokens; what comes after them is left out.", self._context_length)
        by_length = np.argsort(lengths, kind="stable")
        for start in range(0, len(texts), size):
            order = by_length[start : start + size]
            width = ids.shape[1]
            if self._can_shorten:
                width = min(width, -(-int(lengths[order].max()) // _STEP) * _STEP)
            yield TokenBatch(order, np.ascontiguousarray(ids[order, :width]), lengths[order])

    def _lengths(self, ids: Int64) -> Int64:
        """Return how many tokens (n,) stand before the padding at the end; at least one."""
        padding = 0 if self._fast is None else self._fast.pad_token_id
        real = ids != (0 if padding is None else padding)
        last = ids.shape[1] - np.argmax(real[:, ::-1], axis=1)
        return np.where(real.any(axis=1), last, 1).astype(np.int64)

    def _is_cut(self, prompt: str) -> bool:
        if self._fast is None:
            return len(self._tokenizer.encode(prompt)) + 2 > self._context_length
        cleaned = self._tokenizer.clean_fn(prompt)
        with self._lock:
            return len(self._fast(cleaned, truncation=False, verbose=False)["input_ids"]) > self._context_length


def can_shorten(tower: torch.nn.Module) -> bool:
    """Return True when padding behind a text changes nothing: causal and pooled at the end token, or masked."""
    if hasattr(tower, "config"):  # Hugging Face: padding is masked
        return True
    causal = getattr(tower, "attn_mask", None) is not None
    return causal and getattr(tower, "cls_emb", None) is None and getattr(tower, "pool_type", "") in ("argmax", "eos")


def shortened(tower: torch.nn.Module, length: int) -> torch.nn.Module:
    """Return the tower for rows of `length` tokens: the same weights, with the causal mask cut to that length."""
    mask = getattr(tower, "attn_mask", None)
    if (
        hasattr(tower, "config")
        or mask is None
        or mask.shape[0] == length
        or getattr(tower, "cls_emb", None) is not None
    ):
        return tower
    short = copy.copy(tower)
    short._buffers = {**tower._buffers, "attn_mask": mask[:length, :length]}
    return short


def with_tokens(tower: torch.nn.Module) -> torch.nn.Module:
    """Return the tower answering (pooled, tokens): what `output_tokens` is for in OpenCLIP's text towers."""
    speaking = copy.copy(tower)
    speaking.output_tokens = True
    return speaking
