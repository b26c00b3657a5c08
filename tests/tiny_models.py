"""A tiny model of every family of OpenCLIP, with random weights, as a folder such as one downloads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
CLIP = {"mean": CLIP_MEAN, "std": CLIP_STD, "interpolation": "bicubic", "resize_mode": "shortest"}
SIGLIP = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
MOBILE = {"mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "bilinear", "resize_mode": "shortest"}
LONGEST = {**CLIP, "resize_mode": "longest", "fill_color": 77}

_GAIN = {"eva": 5.0, "resnet": 2.5, "mobileclip": 2.0}

_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
_VIT = {"image_size": 48, "layers": 2, "width": 64, "patch_size": 16}
_HF_TEXT = {"context_length": 64, "vocab_size": 400, "width": 32, "heads": 2, "layers": 2}


def _timm(name: str, size: int, pool: str, proj: str | None, **more: Any) -> dict[str, Any]:
    return {"timm_model_name": name, "timm_pool": pool, "timm_proj": proj, "image_size": size, **more}


FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vit": ({"embed_dim": 32, "vision_cfg": _VIT, "text_cfg": _TEXT}, CLIP),
    "vit-quickgelu": ({"embed_dim": 32, "quick_gelu": True, "vision_cfg": _VIT, "text_cfg": _TEXT}, CLIP),
    "resnet": (
        {"embed_dim": 32, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16}, "text_cfg": _TEXT},
        LONGEST,
    ),
    "convnext": (
        {"embed_dim": 32, "vision_cfg": _timm("test_convnext", 160, "", "linear"), "text_cfg": _TEXT},
        CLIP,
    ),
    "mobileclip": (
        {
            "embed_dim": 64,
            "vision_cfg": _timm("fastvit_t8", 256, "avg", None),
            "text_cfg": {**_TEXT, "no_causal_mask": True},
            "custom_text": True,
        },
        MOBILE,
    ),
    "eva": (
        {
            "embed_dim": 64,
            "vision_cfg": _timm("eva02_tiny_patch14_224", 224, "token", None),
            "text_cfg": _TEXT,
            "custom_text": True,
        },
        CLIP,
    ),
    "coca": (
        {
            "embed_dim": 32,
            "vision_cfg": {**_VIT, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
            "text_cfg": {**_TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True},
            "multimodal_cfg": {**_TEXT, "context_length": 76, "attn_pooler_heads": 2},
            "custom_text": True,
        },
        CLIP,
    ),
    "siglip": (
        {
            "embed_dim": 64,
            "init_logit_bias": -10,
            "custom_text": True,
            "vision_cfg": _timm("test_vit", 160, "map", "none"),
            "text_cfg": {
                **_HF_TEXT,
                "hf_tokenizer_name": "siglip",
                "tokenizer_kwargs": {"clean": "canonicalize"},
                "no_causal_mask": True,
                "proj_bias": True,
                "pool_type": "last",
                "norm_kwargs": {"eps": 1e-06},
            },
        },
        SIGLIP,
    ),
    "siglip2": (
        {
            "embed_dim": 64,
            "init_logit_bias": -10,
            "custom_text": True,
            "vision_cfg": _timm("test_vit", 160, "map", "none"),
            "text_cfg": {
                **_HF_TEXT,
                "hf_tokenizer_name": "siglip2",
                "no_causal_mask": True,
                "proj_bias": True,
                "pool_type": "last",
                "act_kwargs": {"approximate": "tanh"},
            },
        },
        SIGLIP,
    ),
    "metaclip2": (
        {
            "embed_dim": 32,
            "vision_cfg": _VIT,
            "text_cfg": {**_HF_TEXT, "hf_tokenizer_name": "xlm-v", "pool_type": "eos", "eos_id": 2},
        },
        CLIP,
    ),
    "xlm-roberta": (
        {
            "embed_dim": 32,
            "vision_cfg": _VIT,
            "text_cfg": {
                "hf_model_name": "xlm-roberta-tiny",
                "hf_tokenizer_name": "xlm-roberta-tiny",
                "hf_pooler_type": "mean_pooler",
                "hf_proj_type": "mlp",
                "context_length": 64,
            },
        },
        CLIP,
    ),
}


def make_model(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a tiny random model of a family into a folder and return it."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    config, preprocess = FAMILIES[family]
    config = json.loads(json.dumps(config))
    folder.mkdir(parents=True)
    text = config["text_cfg"]
    if "hf_tokenizer_name" in text:
        make_tokenizer(folder, siglip=family.startswith("siglip"))
    if "hf_model_name" in text:
        _make_text_config(folder / text["hf_model_name"])
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    if "hf_model_name" in text:  # OpenCLIP itself would look on the hub
        config["text_cfg"] = {
            **text,
            "hf_model_name": str(folder / text["hf_model_name"]),
            "hf_model_pretrained": False,
        }
    torch.manual_seed(seed)
    custom = config.pop("custom_text", False) or "hf_model_name" in text
    kind: Callable[..., torch.nn.Module] = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    if "multimodal_cfg" in config:
        kind = open_clip.CoCa
    model = kind(**config).eval()
    with torch.no_grad():  # as made, the towers of a tiny model hardly tell two inputs apart
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed" not in name:
                parameter.mul_(_GAIN.get(family, 1.5))
            elif parameter.ndim == 1 and "logit" not in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    save_file({name: t.contiguous().clone() for name, t in model.state_dict().items()}, folder / "model.safetensors")
    return folder


def make_tokenizer(folder: Path, *, siglip: bool) -> None:
    """Write a tiny byte-level tokenizer with the special tokens of XLM-R, or of SigLIP (it pads with its end token)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    specials = ["<unk>", "</s>"] if siglip else ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=390, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["a red car in the street", "a dog on the grass", "two people with a ball"], trainer)
    end = tokenizer.token_to_id("</s>")
    template = "$A </s>" if siglip else "<s> $A </s>"
    known = [("</s>", end)] if siglip else [("<s>", tokenizer.token_to_id("<s>")), ("</s>", end)]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=known)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="</s>",
        pad_token="</s>" if siglip else "<pad>",
        **({} if siglip else {"bos_token": "<s>", "cls_token": "<s>", "sep_token": "</s>"}),
    )
    fast.save_pretrained(folder)


def _make_text_config(folder: Path) -> None:
    from transformers import XLMRobertaConfig

    XLMRobertaConfig(
        vocab_size=400,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=80,
        pad_token_id=1,
    ).save_pretrained(folder)


def make_blip(folder: Path, *, seed: int = 0) -> Path:
    """Write a tiny BLIP model for image-text matching with random weights, and return its folder."""
    import torch
    from transformers import BertTokenizerFast, BlipConfig, BlipForImageTextRetrieval, BlipImageProcessor, BlipProcessor

    folder.mkdir(parents=True, exist_ok=True)
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "[DEC]",
        "[ENC]",
        *["a", "red", "blue", "green", "thing", "on", "the", "table"],
    ]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BlipConfig(
        text_config={
            **small,
            "vocab_size": len(words),
            "encoder_hidden_size": 32,
            "max_position_embeddings": 40,
            "bos_token_id": 5,
            "pad_token_id": 0,
            "sep_token_id": 3,
        },
        vision_config={**small, "image_size": 48, "patch_size": 16},
        projection_dim=16,
        image_text_hidden_size=16,
    )
    torch.manual_seed(seed)
    model = BlipForImageTextRetrieval(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer = BertTokenizerFast(vocab_file=str(folder / "vocab.txt"))
    images = BlipImageProcessor(size={"height": 48, "width": 48}, image_mean=CLIP_MEAN, image_std=CLIP_STD)
    BlipProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def cosines(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the cosine (n,) of each row of two arrays (n, dim)."""
    return (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
