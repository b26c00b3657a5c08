"""Torch modules to small ONNX files: one function per tower, used for features and for the shipped files."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from .common import IMAGE_SIZE
from .surgery import finish, fold, shrink
from .towers import POOLED, WIDTH

OPSET = 17
GRID = 9


def _export(module: nn.Module, inputs: dict[str, Tensor], outputs: dict[str, dict[int, str]]) -> onnx.ModelProto:
    """Return the traced module; `outputs` maps names to their dynamic axes, inputs vary as `inputs` does."""
    axes = {"pixels": {0: "n"}, "input_ids": {0: "n", 1: "t"}, "attention_mask": {0: "n", 1: "t"}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traced.onnx"
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            path,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={**{name: axes[name] for name in inputs}, **outputs},
            opset_version=OPSET,
            dynamo=False,
        )
        return fold(onnx.load(path))


def _save(model: onnx.ModelProto, path: Path, shape: tuple[int | None, ...]) -> None:
    """Write the finished model; `shape` is what follows n in the second output, None where it varies."""
    for dim, size in zip(model.graph.output[1].type.tensor_type.shape.dim[1:], shape, strict=True):
        if size is not None:
            dim.dim_value = size
    finish(model, producer="mmsearch/training/compact")
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def save_image_graph(
    module: nn.Module, path: Path, *, outputs: tuple[str, str], shape: tuple[int, ...] = (GRID**2, POOLED)
) -> None:
    """Write a module from pixels to two outputs, the second (n, *shape): convolutions as float16, matrices as int8."""
    pixels = torch.arange(2 * 3 * IMAGE_SIZE**2).reshape(2, 3, IMAGE_SIZE, IMAGE_SIZE).remainder(251).to(torch.uint8)
    model = _export(module, {"pixels": pixels}, {name: {0: "n"} for name in outputs})
    shrink(model)
    _save(model, path, shape)


def save_text_graph(module: nn.Module, path: Path, *, output: str) -> None:
    """Write a module from (input_ids, attention_mask) to (`output`, tokens), matrices and tables as int8."""
    ids = torch.arange(1000, 1014).reshape(2, 7)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    model = _export(module, inputs, {output: {0: "n"}, "tokens": {0: "n", 1: "t"}})
    shrink(model)
    _save(model, path, (None, WIDTH))
