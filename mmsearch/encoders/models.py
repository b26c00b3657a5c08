"""The encoders there are to choose from: what ships, what was tuned here, and every model of OpenCLIP with weights."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmsearch.encoders import compact
from mmsearch.encoders.open_clip_source import is_multilingual, require_open_clip
from mmsearch.encoders.tuned import SCHEME, list_tuned

_BYTES = 4  # a parameter in float32
_SIZES = Path(__file__).with_name("open_clip_sizes.json")


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """An encoder by its URI: width of its vectors, side of its input in pixels, and megabytes of its weights in memory.

    `megabytes` is None where it is not known; `on_disk` tells that the weights are here (SigLIP and XLM-R also want
    their tokenizer, which is fetched with them).
    """

    uri: str
    dim: int
    image_size: int
    megabytes: float | None
    languages: str
    on_disk: bool


def list_models() -> Iterator[ModelInfo]:
    """Yield the compact encoder, tuned ones, then (where OpenCLIP is installed) its models, in the order of names."""
    shipped = list(_compact_models())
    yield from shipped
    models = list(_open_clip_models()) if find_spec("open_clip") is not None else []
    yield from _tuned_models({model.uri: model for model in (*shipped, *models)})
    yield from models


def _compact_models() -> Iterator[ModelInfo]:
    for folder in sorted(compact.WEIGHTS.glob("compact-*")):
        encoder = compact.CompactEncoder(folder)
        size = sum(path.stat().st_size for path in folder.glob("*.onnx")) / 1e6
        yield ModelInfo(encoder.spec.uri, encoder.spec.dim, encoder.spec.image_size, size, "English", True)


def _tuned_models(known: Mapping[str, ModelInfo]) -> Iterator[ModelInfo]:
    """Yield the encoders tuned here; of a base that is in no table (a folder, say) the size is not known.

    A `compact` that is in no table is one that shipped before.
    """
    for manifest in list_tuned():
        base = known.get(manifest.base)
        size = base.megabytes if base else None
        yield ModelInfo(
            uri=f"{SCHEME}:{manifest.name}",
            dim=manifest.dim,
            image_size=manifest.image_size,
            megabytes=None if size is None else size + manifest.bytes / 1e6,
            languages=base.languages if base else "?",
            on_disk=base.on_disk if base else not manifest.base.startswith(f"{compact.SCHEME}:"),
        )


def _open_clip_models() -> Iterator[ModelInfo]:
    open_clip = require_open_clip()
    sizes: dict[str, float] = json.loads(_SIZES.read_bytes())
    for name, tag in sorted(open_clip.list_pretrained()):
        config: dict[str, Any] = open_clip.get_model_config(name)
        weights = open_clip.get_pretrained_cfg(name, tag)
        if config.get("quick_gelu") and weights.get("quick_gelu") and open_clip.get_pretrained_cfg(_plain(name), tag):
            continue  # the same weights stand under the plain name, where they get their QuickGELU as well
        size = config["vision_cfg"].get("image_size", 224)
        yield ModelInfo(
            uri=f"open_clip:{name}/{tag}",
            dim=config["embed_dim"],
            image_size=size if isinstance(size, int) else size[0],
            megabytes=_BYTES * sizes[name] if name in sizes else None,
            languages="many" if is_multilingual(name, config) else "English",
            on_disk=_is_here(weights),
        )


def _plain(name: str) -> str:
    return name.removesuffix("-quickgelu")


def _is_here(weights: dict[str, Any]) -> bool:
    """Return True when the weights lie in the cache of the hub, or where OpenCLIP keeps what it fetched from a URL."""
    hub = str(weights.get("hf_hub", ""))
    if hub:
        from huggingface_hub import try_to_load_from_cache

        repository, _, file = hub.rpartition("/")
        names = [file] if file else ["open_clip_pytorch_model.bin"]
        names += ["open_clip_model.safetensors", *(f"{Path(name).stem}.safetensors" for name in names)]
        return any(isinstance(try_to_load_from_cache(repository, name), str) for name in names)
    url = str(weights.get("url", ""))
    return bool(url) and Path(os.path.expanduser("~/.cache/clip"), Path(url).name).is_file()  # noqa: PTH111 - OpenCLIP's own way
