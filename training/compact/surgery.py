"""Graph surgery on exported ONNX models: constants folded, weights stored small.

ONNX Runtime folds `Cast` and `Mul` on initialisers when it opens the file, so both ways of storing weights
cost nothing per run and the arithmetic stays float32 on every CPU.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

LEAST_ELEMENTS = 4096  # smaller initialisers (biases, norms, scales) stay float32


def _initializers(model: ModelProto) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def _replace(model: ModelProto, old: TensorProto, new: Iterable[TensorProto], nodes: Iterable[NodeProto]) -> None:
    """Swap one initialiser for others and put `nodes`, which must produce the old name, at the front."""
    model.graph.initializer.remove(old)
    model.graph.initializer.extend(new)
    for position, node in enumerate(nodes):
        model.graph.node.insert(position, node)


def fold(model: ModelProto) -> ModelProto:
    """Return the model with constant chains folded and padding fused into the convolutions.

    These are ONNX Runtime's "basic" passes, which leave standard operators only; the domains it declares
    without using them are dropped.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        folded = onnx.load(options.optimized_model_filepath)
    kept = [entry for entry in folded.opset_import if entry.domain in ("", "ai.onnx")]
    del folded.opset_import[:]
    folded.opset_import.extend(kept)
    return folded


def _to_half(model: ModelProto, tensor: TensorProto) -> None:
    name = tensor.name
    half = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), f"{name}.half")
    _replace(model, tensor, [half], [helper.make_node("Cast", [half.name], [name], to=TensorProto.FLOAT)])


def _quantize(values: NDArray[np.float32], *, axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return symmetric int8 values and the float32 scale that maximum magnitude along `axis` asks for."""
    peak = np.abs(values).max(axis=axis, keepdims=True)
    scale = np.maximum(peak / 127.0, 1e-12).astype(np.float32)
    return np.rint(values / scale).astype(np.int8), scale


def _matrix_to_int8(model: ModelProto, tensor: TensorProto, *, axis: int) -> None:
    """Store a matrix as int8 with one scale per output channel, maximum over input axis `axis`."""
    name = tensor.name
    codes, scale = _quantize(numpy_helper.to_array(tensor), axis=axis)
    parts = [numpy_helper.from_array(codes, f"{name}.int8"), numpy_helper.from_array(scale, f"{name}.scale")]
    cast = helper.make_node("Cast", [parts[0].name], [f"{name}.float"], to=TensorProto.FLOAT)
    _replace(model, tensor, parts, [cast, helper.make_node("Mul", [f"{name}.float", parts[1].name], [name])])


def _table_to_int8(model: ModelProto, tensor: TensorProto, gather: NodeProto) -> None:
    """Store an embedding table as int8 per row; rows are decoded after the `Gather`, so it stays small."""
    name, result = tensor.name, gather.output[0]
    codes, scale = _quantize(numpy_helper.to_array(tensor), axis=1)
    parts = [numpy_helper.from_array(codes, f"{name}.int8"), numpy_helper.from_array(scale, f"{name}.scale")]
    at = list(model.graph.node).index(gather)
    _replace(model, tensor, parts, [])
    model.graph.node.remove(gather)
    indices = gather.input[1]
    for offset, node in enumerate(
        [
            helper.make_node("Gather", [parts[0].name, indices], [f"{result}.int8"], axis=0),
            helper.make_node("Gather", [parts[1].name, indices], [f"{result}.scale"], axis=0),
            helper.make_node("Cast", [f"{result}.int8"], [f"{result}.float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{result}.float", f"{result}.scale"], [result]),
        ]
    ):
        model.graph.node.insert(at + offset, node)


def shrink(model: ModelProto) -> None:
    """Store large matrices and embedding tables as int8, other large float32 initialisers as float16."""
    for name, tensor in _initializers(model).items():
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < LEAST_ELEMENTS:
            continue
        users = [node for node in model.graph.node if name in node.input]
        kinds = {node.op_type for node in users}
        if kinds == {"MatMul"} and len(tensor.dims) == 2:
            _matrix_to_int8(model, tensor, axis=0)
        elif kinds == {"Gemm"} and len(tensor.dims) == 2:
            transposed = any(a.name == "transB" and a.i for a in users[0].attribute)
            _matrix_to_int8(model, tensor, axis=1 if transposed else 0)
        elif kinds == {"Gather"} and len(users) == 1:
            _table_to_int8(model, tensor, users[0])
        else:
            _to_half(model, tensor)


def finish(model: ModelProto, *, producer: str) -> None:
    """Check the model and drop what the exporter left behind (doc strings, intermediate shapes)."""
    for node in model.graph.node:
        node.doc_string = ""
    del model.graph.value_info[:]
    model.producer_name, model.producer_version, model.ir_version = producer, "1", 8
    onnx.checker.check_model(model, full_check=True)
