"""The encoders out of graphs that export.py wrote, their weights as they are stored there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from .head import Encoder, ImageHead, TextHead
from .towers import LAYERS, ImageTower, TextTower
from .tune import SHAPE

UNUSED = ("tower.net._fc.weight", "tower.net._fc.bias")
MATRICES = ("query", "key", "value", "mixed.dense", "wide", "out.dense")  # of a layer of the text tower, in order

Weights = dict[str, NDArray[np.float32]]


def read_image_encoder(path: Path) -> Encoder:
    """Return the image encoder of a graph."""
    found, (unnamed,) = _read(path)
    found["head.attention.logits.weight"] = unnamed
    found["head.sharpness"] = np.log(found["/head/Exp_output_0"])
    return _filled(Encoder(ImageTower(), ImageHead(SHAPE)), found)


def read_text_encoder(path: Path) -> Encoder:
    """Return the text encoder of a graph."""
    found, unnamed = _read(path)
    names = [f"tower.layers.{layer}.{matrix}.weight" for layer in range(LAYERS) for matrix in MATRICES]
    return _filled(Encoder(TextTower(), TextHead(SHAPE)), found | dict(zip(names, unnamed, strict=True)))


def _read(path: Path) -> tuple[Weights, list[NDArray[np.float32]]]:
    """Return the weights of a graph by name, and those that it stores transposed and unnamed, in its own order."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    found: Weights = {}
    for name, values in stored.items():
        if name.endswith(".half"):
            found[name.removesuffix(".half")] = values.astype(np.float32)
        elif name.endswith(".int8"):
            plain = name.removesuffix(".int8")
            found[plain] = values.astype(np.float32) * stored[f"{plain}.scale"]
        elif not name.endswith(".scale"):
            found[name] = values
    unnamed = sorted((name for name in found if name.startswith("onnx::MatMul")), key=lambda name: int(name[13:]))
    return found, [found.pop(name).T for name in unnamed]


def _filled(encoder: Encoder, found: Weights) -> Encoder:
    """Return an encoder with weights by name."""
    state = encoder.eval().state_dict()
    for name in state:
        if name not in UNUSED:
            state[name] = torch.from_numpy(np.array(found[name], np.float32)).reshape(state[name].shape)
    encoder.load_state_dict(state)
    return encoder
