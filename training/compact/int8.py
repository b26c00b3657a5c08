"""What static int8 does to the image tower: `python -m training.compact.int8 --model DIR --data DIR --work DIR`.

Weights by output channel and activations by tensor become int8 (ONNX Runtime, QDQ, range reduced for processors
without VNNI), with ranges from pictures of the training shards. Writes `WORK/int8/image.onnx` for each kind of range,
and prints recall on dev beside that of the float32 tower, and the speed of both. It does not ship (README.md has the
figures).
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
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from .common import DEV_SHARDS, RESIZE, RESIZERS, TRAIN_SHARDS, Pixels, read_shard, to_pixels
from .evaluate import BATCH, embed_shard, report_speed, shard_recall

PICTURES = 256
METHODS = {"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile}


class Reader(CalibrationDataReader):  # type: ignore[misc]  # it ships no types
    """Gives batches of pictures, uint8 (n, 3, 260, 260)."""

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


def main() -> None:
    """Print recall of the float32 tower, then recall and speed of each int8 one."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "data", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    out: Path = arguments.work / "int8"
    out.mkdir(parents=True, exist_ok=True)
    for name in ("text.onnx", "tokenizer.json"):
        shutil.copy(arguments.model / name, out / name)
    pictures = list(itertools.islice(training_pictures(arguments.data), PICTURES))
    report(arguments.model, arguments.data, pictures, title="float32")
    widened(arguments.model / "image.onnx", out / "float32.onnx")
    graph = onnx.load(out / "float32.onnx").graph
    convolutions = [node.name for node in graph.node if node.op_type == "Conv"]
    for method, first in itertools.product(METHODS, (0, 1)):
        quantize_static(
            out / "float32.onnx",
            out / "image.onnx",
            Reader(pictures),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=METHODS[method],
            op_types_to_quantize=["Conv", "Add", "Clip"],
            nodes_to_exclude=convolutions[:first],
        )
        report(out, arguments.data, pictures, title=f"int8, {method}, the first {first} convolutions in float32")


def report(model: Path, data: Path, pictures: list[Pixels], *, title: str) -> None:
    """Print recall on dev, and the speed of the image tower."""
    print(title)
    for shard in DEV_SHARDS:
        print(f"  {shard}: {shard_recall(model, embed_shard(model, data / f'{shard}.tar')).row()}", flush=True)
    report_speed(model / "image.onnx", {"pixels": np.stack(pictures[:BATCH])}, unit="pictures")


if __name__ == "__main__":
    main()
