"""The fingerprint of an OpenCLIP model: all that changes a vector, and nothing that does not."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from mmsearch.config import Settings
from mmsearch.encoders.open_clip_source import LoadedModel

_PROBES = (
    "a dog",
    "",
    "A photo of two red cars, parked at 17:45 – isn't it?",
    "naïve café; Zürich & São Paulo",
    "日本語 и русский",
    "the quick brown fox jumps over the lazy dog " * 12,
)
"""Texts whose token ids tell tokenizers apart."""

_PLACES = {"hf_model_name", "hf_tokenizer_name", "timm_model_pretrained", "hf_model_pretrained"}
_TRAINING = {"patch_dropout", "timm_drop", "timm_drop_path", "output_tokens", "image_size"}  # image_size: in Preprocess
_HF_FACTS = (
    "model_type",
    "num_attention_heads",
    "num_heads",
    "hidden_act",
    "layer_norm_eps",
    "position_embedding_type",
)


def fingerprint(loaded: LoadedModel) -> str:
    """Return a SHA-256 over every tensor (in float32), the architecture, the preprocessing and the tokenizer.

    The same model has the same fingerprint whatever file it came in.
    """
    tower_config = getattr(loaded.model.text, "config", None)
    recipe = {
        "preprocess": loaded.preprocess.as_dict(),
        "context_length": loaded.context_length,
        "quick_gelu": loaded.quick_gelu,
        "template": loaded.template,
        "vision": _told(loaded.config.get("vision_cfg", {}), "CLIPVisionCfg"),
        "text": _told(loaded.config.get("text_cfg", {}), "CLIPTextCfg"),
        "text tower": {name: getattr(tower_config, name, None) for name in _HF_FACTS},
        "tokens": hashlib.sha256(loaded.tokenizer(list(_PROBES)).numpy().astype(np.int64).tobytes()).hexdigest(),
    }
    state: dict[str, Any] = loaded.model.state_dict()

    def digest(name: str) -> bytes:
        tensor = state[name]
        values = np.ascontiguousarray((tensor.float() if tensor.is_floating_point() else tensor.long()).numpy())
        hashed = hashlib.sha256(f"{name} {values.shape} {values.dtype}".encode())
        hashed.update(values.data)
        return hashed.digest()

    with ThreadPoolExecutor(Settings.from_environment().threads) as pool:  # hashing leaves the interpreter lock
        parts = list(pool.map(digest, sorted(state)))
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode() + b"".join(parts)).hexdigest()


def _told(config: dict[str, Any], defaults_of: str) -> dict[str, Any]:
    """Return what a config says otherwise than OpenCLIP's defaults; an option that it gains later changes nothing."""
    import open_clip.model

    defaults = getattr(open_clip.model, defaults_of)()
    return {
        name: value
        for name, value in config.items()
        if name not in _PLACES | _TRAINING and value != getattr(defaults, name, None)
    }
