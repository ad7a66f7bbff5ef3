"""Eight-bit weights in an exported graph: matrices, tables and convolutions, block by block.

A code q of one byte stands for (q - 128) * scale, one scale per block of input features. Weights
that were fake-quantized in training keep their codes exactly, because the largest value of a block
is always code 1 or 255.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BLOCK = 64
ZERO_POINT = 128
MAX_CODE = 127
# Below this a tensor weighs too little for its rounding to be worth it.
MIN_ELEMENTS = 4096
CONTRIB_DOMAIN = "com.microsoft"


def quantize_rows(weight: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes (rows, columns) uint8 and scales (rows, columns / block) float32 of a matrix."""
    rows, columns = weight.shape
    blocks = weight.astype(np.float32).reshape(rows, columns // block, block)
    scales = np.abs(blocks).max(axis=2) / MAX_CODE
    safe = np.where(scales == 0, 1, scales)[..., None]
    codes = np.clip(np.rint(blocks / safe), -MAX_CODE, MAX_CODE) + ZERO_POINT
    return codes.astype(np.uint8).reshape(rows, columns), scales.astype(np.float32)


def dequantize_rows(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The (rows, columns) float32 matrix that `quantize_rows` stands for."""
    rows, columns = codes.shape
    values = codes.reshape(rows, scales.shape[1], -1).astype(np.float32) - ZERO_POINT
    return (values * scales[..., None]).reshape(rows, columns)


def pack_weights(
    model: onnx.ModelProto, block: int = BLOCK, skip: Callable[[str], bool] = lambda _: False
) -> onnx.ModelProto:
    """Replaces the large float initialisers of a graph by 8-bit ones, and their readers to match.

    `skip` is asked with an initialiser's name. MatMul becomes MatMulNBits, Gather and Conv read
    codes and scale them. An initialiser with other readers stays as it is.
    """
    graph = model.graph
    weights = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    replacements: dict[int, list[onnx.NodeProto]] = {}
    for name, weight in weights.items():
        if weight.dtype != np.float32 or weight.size < MIN_ELEMENTS or skip(name):
            continue
        for node in readers.get(name, []):
            packed = _PACKERS.get(node.op_type, _keep)(graph, node, name, weight, block)
            if packed is not None:
                replacements[id(node)] = packed
    nodes = [new for node in graph.node for new in replacements.get(id(node), [node])]
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unread(graph)
    _drop_traces(model)
    if not any(entry.domain == CONTRIB_DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(CONTRIB_DOMAIN, 1))
    return model


def _keep(*_: object) -> None:
    return None


def _pack_matmul(
    graph: onnx.GraphProto, node: onnx.NodeProto, name: str, weight: np.ndarray, block: int
) -> list[onnx.NodeProto] | None:
    if node.input[1] != name or weight.ndim != 2 or weight.shape[0] % block:
        return None
    columns, rows = weight.shape
    codes, scales = quantize_rows(weight.T, block)
    _store(graph, f"{name}.codes", codes.reshape(rows, columns // block, block))
    _store(graph, f"{name}.scales", scales)
    return [
        helper.make_node(
            "MatMulNBits",
            [node.input[0], f"{name}.codes", f"{name}.scales"],
            list(node.output),
            name=node.name,
            domain=CONTRIB_DOMAIN,
            K=columns,
            N=rows,
            bits=8,
            block_size=block,
            # Integer arithmetic; without it the kernel is many times slower than plain float.
            accuracy_level=4,
        )
    ]


def _pack_gather(
    graph: onnx.GraphProto, node: onnx.NodeProto, name: str, weight: np.ndarray, block: int
) -> list[onnx.NodeProto] | None:
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    if node.input[0] != name or weight.ndim != 2 or axis != 0:
        return None
    codes, scales = quantize_rows(weight, weight.shape[1])
    _store(graph, f"{name}.codes", (codes.astype(np.int16) - ZERO_POINT).astype(np.int8))
    _store(graph, f"{name}.scales", scales)
    indices, output = node.input[1], node.output[0]
    return [
        helper.make_node("Gather", [f"{name}.codes", indices], [f"{output}.codes"]),
        helper.make_node("Gather", [f"{name}.scales", indices], [f"{output}.scales"]),
        helper.make_node("Cast", [f"{output}.codes"], [f"{output}.float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{output}.float", f"{output}.scales"], [output]),
    ]


def _pack_conv(
    graph: onnx.GraphProto, node: onnx.NodeProto, name: str, weight: np.ndarray, block: int
) -> list[onnx.NodeProto] | None:
    """Weight only: the codes are expanded again by the session, one scale per output channel."""
    if node.input[1] != name:
        return None
    flat = weight.reshape(weight.shape[0], -1)
    codes, scales = quantize_rows(flat, flat.shape[1])
    signed = (codes.astype(np.int16) - ZERO_POINT).astype(np.int8)
    _store(graph, f"{name}.codes", signed.reshape(weight.shape))
    _store(graph, f"{name}.scales", scales[:, 0])
    conv = onnx.NodeProto()
    conv.CopyFrom(node)
    conv.input[1] = f"{name}.float"
    expand = helper.make_node(
        "DequantizeLinear", [f"{name}.codes", f"{name}.scales"], [f"{name}.float"], axis=0
    )
    return [expand, conv]


_PACKERS = {"MatMul": _pack_matmul, "Gather": _pack_gather, "Conv": _pack_conv}


def _store(graph: onnx.GraphProto, name: str, values: np.ndarray) -> None:
    if all(existing.name != name for existing in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))


def _drop_unread(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in node.input}
    read |= {output.name for output in graph.output}
    kept = [initializer for initializer in graph.initializer if initializer.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _drop_traces(model: onnx.ModelProto) -> None:
    """Forgets the exporter's stack traces: they name folders of the building machine."""
    for entry in (model, model.graph, *model.graph.node, *model.graph.value_info):
        del entry.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
