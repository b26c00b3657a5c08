"""Count the parameters of every OpenCLIP architecture and write them to mmsearch/encoders/open_clip_sizes.json.

Each is made on torch's meta device, without memory. Towers of Hugging Face need their config; those with a public
standard size are made from it, the others are left out and `mmsearch models` shows "?" for them.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import open_clip
import torch
import transformers

TARGET = Path(__file__).resolve().parent.parent / "mmsearch" / "encoders" / "open_clip_sizes.json"

TOWERS: dict[str, dict[str, Any]] = {
    "roberta-base": {"vocab_size": 50265, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
                     "intermediate_size": 3072, "max_position_embeddings": 514},
    "xlm-roberta-base": {"vocab_size": 250002, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
                         "intermediate_size": 3072, "max_position_embeddings": 514},
    "xlm-roberta-large": {"vocab_size": 250002, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
                          "intermediate_size": 4096, "max_position_embeddings": 514},
}  # fmt: skip


def main() -> None:
    """Write the table."""
    logging.disable(logging.WARNING)
    sizes = {}
    for name in open_clip.list_models():
        try:
            sizes[name] = round(parameters(name) / 1e6, 1)
        except Exception as error:  # noqa: BLE001 - a tower whose config is on the hub, or a package that is not here
            print(f"{name}: left out ({type(error).__name__})")
    TARGET.write_text(json.dumps(dict(sorted(sizes.items())), indent=1) + "\n")


def parameters(name: str) -> int:
    """Return how many numbers the weights of an architecture are."""
    config = open_clip.get_model_config(name)
    custom = config.pop("custom_text", False)
    tower = config["text_cfg"].get("hf_model_name")
    text = 0
    if tower:
        text = _count(
            transformers.XLMRobertaModel, transformers.XLMRobertaConfig(**TOWERS[tower]), add_pooling_layer=False
        )
        config["text_cfg"] = {"width": 64, "heads": 1, "layers": 1, "vocab_size": 8}
    kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP if custom else open_clip.CLIP
    with torch.device("meta"):
        model = kind(**config)
    counted = model.visual.parameters() if tower else model.parameters()
    return text + sum(parameter.numel() for parameter in counted)


def _count(kind: Any, config: Any, **options: Any) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in kind(config, **options).parameters())


if __name__ == "__main__":
    main()
