"""What static int8 does to the image tower: `python -m training.compact.int8 --model DIR --data DIR --work DIR`.

Weights by output channel and activations by tensor become int8 (ONNX Runtime, QDQ, range reduced for processors
without VNNI), with the ranges that pictures of the training shards take. Some convolutions may stay float32: the first,
the first eight, the last eight, those by channel. Prints recall on dev and the speed of each beside the float32 tower.
None ships (README.md has the figures).
"""

from __future__ import annotations

import argparse
import itertools
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions
from onnxruntime.quantization import (
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from .common import DEV_SHARDS, RESIZE, RESIZERS, TRAIN_SHARDS, Pixels, read_shard, to_pixels
from .evaluate import BATCH, embed_shard, report_speed, shard_recall

PICTURES = 256


class Reader:
    """Gives batches of pictures, uint8 (n, 3, 260, 260): a CalibrationDataReader of ONNX Runtime, by its method."""

    def __init__(self, pictures: list[Pixels]) -> None:
        """Give these, in batches."""
        self._batches = iter([np.stack(pictures[i : i + BATCH]) for i in range(0, len(pictures), BATCH)])

    def get_next(self) -> Mapping[str, Any] | None:
        """Return the next batch, None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {"pixels": batch}


def training_pictures(data: Path) -> Iterator[Pixels]:
    """Yield prepared pictures, as many of each training shard."""
    each = -(-PICTURES // len(TRAIN_SHARDS))
    for shard in TRAIN_SHARDS:
        for sample in itertools.islice(read_shard(data / f"{shard}.tar"), each):
            yield to_pixels(RESIZERS[RESIZE](sample.image()))


def widened(model: Path, out: Path) -> None:
    """Write the graph of a model with its stored weights decoded: float32, nothing fused that float32 alone has."""
    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(out)
    InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def kept_in_float32(model: Path) -> dict[str, list[str]]:
    """Return the names of convolutions that stay float32, by what they are called."""
    convolutions = [node for node in onnx.load(model).graph.node if node.op_type == "Conv"]
    names = [node.name for node in convolutions]
    grouped = [n.name for n in convolutions if any(a.name == "group" and a.i > 1 for a in n.attribute)]
    return {
        "none": [],
        "the first": names[:1],
        "the first eight": names[:8],
        "the last eight": names[-8:],
        "the first and last eight": names[:8] + names[-8:],
        "those by channel": grouped,
    }


def main() -> None:
    """Print recall of the float32 tower, then recall and speed of each int8 one."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "data", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    out: Path = arguments.work / "int8"
    out.mkdir(parents=True, exist_ok=True)
    for name in ("text.onnx", "hubs.npz", "tokenizer.json"):
        shutil.copy(arguments.model / name, out / name)
    pictures = list(itertools.islice(training_pictures(arguments.data), PICTURES))
    report(arguments.model, arguments.data, pictures, title="float32")
    widened(arguments.model / "image.onnx", out / "float32.onnx")
    for kept, names in kept_in_float32(out / "float32.onnx").items():
        quantize_static(
            out / "float32.onnx",
            out / "image.onnx",
            Reader(pictures),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=["Conv", "Add", "Clip"],
            nodes_to_exclude=names,
        )
        report(out, arguments.data, pictures, title=f"int8, float32 in {kept}")


def report(model: Path, data: Path, pictures: list[Pixels], *, title: str) -> None:
    """Print recall on dev, and the speed of the image tower."""
    print(title)
    for shard in DEV_SHARDS:
        print(f"  {shard}: {shard_recall(model, embed_shard(model, data / f'{shard}.tar')).row()}", flush=True)
    report_speed(model / "image.onnx", {"pixels": np.stack(pictures[:BATCH])}, unit="pictures")


if __name__ == "__main__":
    main()
