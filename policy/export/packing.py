"""Small weights in an exported graph: matrices and tables in eight bits, block by block.

Codes and scales are those of `policy.model.quantize`. Weights that were fake-quantized in training
keep their codes exactly, because the largest value of a block is always code 1 or 255. Operators
are those of ONNX Runtime's docs/ContribOperators.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from policy.model.quantize import BLOCK, ZERO_POINT, pack, unpack

# Below this a tensor weighs too little for its rounding to be worth it.
MIN_ELEMENTS = 4096
# Where a tensor may begin in a file of weights: a cache line.
ALIGNMENT = 64
CONTRIB_DOMAIN = "com.microsoft"


def pack_weights(
    model: onnx.ModelProto, block: int = BLOCK, only_rounded: bool = False
) -> onnx.ModelProto:
    """Replaces large float initialisers of a graph by eight-bit ones, and their readers to match.

    Matrices (MatMul becomes MatMulNBits) and tables (Gather) take eight bits. With `only_rounded`,
    only those that training has already rounded to them, so that packing changes nothing.
    """
    graph = model.graph
    weights = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    packed: dict[int, list[onnx.NodeProto]] = {}
    for index, node in enumerate(graph.node):
        for name in node.input:
            weight = weights.get(name)
            packer = _PACKERS.get(node.op_type)
            if packer is None or weight is None or not _is_large(weight):
                continue
            if only_rounded and not is_rounded(weight, block):
                continue
            replacement = packer(graph, node, name, weight, block)
            if replacement is not None:
                packed[index] = replacement
    nodes = [new for i, node in enumerate(graph.node) for new in packed.get(i, [node])]
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unread(graph)
    _drop_traces(model)
    if not any(entry.domain == CONTRIB_DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(CONTRIB_DOMAIN, 1))
    return model


def is_rounded(weight: np.ndarray, block: int = BLOCK) -> bool:
    """Whether a MatMul's weight (inputs, outputs) lies on the eight-bit grid of its blocks."""
    if weight.ndim != 2 or weight.shape[0] % block:
        return False
    rows = torch.tensor(weight.T, dtype=torch.float32)
    return torch.allclose(unpack(pack(rows, block)), rows, rtol=1e-5, atol=1e-7)


def store_in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Stores large float initialisers in half precision; the session widens them as it starts.

    Scales of packed weights keep their precision: codes are exact only with them.
    """
    graph = model.graph
    scales = {name for node in graph.node if node.domain == CONTRIB_DOMAIN for name in node.input}
    casts = []
    for tensor in graph.initializer:
        weight = numpy_helper.to_array(tensor)
        if tensor.name in scales or not _is_large(weight):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(weight.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def share_weights(models: Mapping[str, onnx.ModelProto], file_name: str) -> bytes:
    """Moves the large initialisers of several graphs into one file, equal ones once.

    Changes the models, which afterwards must lie beside the file; returns the file's content.
    """
    content = bytearray()
    places: dict[bytes, int] = {}
    for model in models.values():
        for tensor in model.graph.initializer:
            raw = numpy_helper.to_array(tensor).tobytes()
            if len(raw) < MIN_ELEMENTS:
                continue
            key = hashlib.sha256(raw).digest()
            if key not in places:
                content.extend(bytes(-len(content) % ALIGNMENT))
                places[key] = len(content)
                content.extend(raw)
            _refer(tensor, file_name, places[key], len(raw))
    return bytes(content)


def _refer(tensor: onnx.TensorProto, file_name: str, offset: int, length: int) -> None:
    for data in ("raw_data", "float_data", "int32_data", "int64_data"):
        tensor.ClearField(data)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", file_name), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _is_large(weight: np.ndarray) -> bool:
    return weight.dtype == np.float32 and weight.size >= MIN_ELEMENTS


def _pack_matmul(
    graph: onnx.GraphProto, node: onnx.NodeProto, name: str, weight: np.ndarray, block: int
) -> list[onnx.NodeProto] | None:
    if node.input[1] != name or weight.ndim != 2 or weight.shape[0] % block:
        return None
    columns, rows = weight.shape
    codes, scales = pack(torch.tensor(weight.T), block)
    _store(graph, f"{name}.codes", codes.unflatten(1, (-1, block)).numpy())
    _store(graph, f"{name}.scales", scales.numpy())
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
    codes, scales = pack(torch.tensor(weight), weight.shape[1])
    _store(graph, f"{name}.codes", (codes.short() - ZERO_POINT).to(torch.int8).numpy())
    _store(graph, f"{name}.scales", scales.numpy())
    indices, output = node.input[1], node.output[0]
    return [
        helper.make_node("Gather", [f"{name}.codes", indices], [f"{output}.codes"]),
        helper.make_node("Gather", [f"{name}.scales", indices], [f"{output}.scales"]),
        helper.make_node("Cast", [f"{output}.codes"], [f"{output}.float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{output}.float", f"{output}.scales"], [output]),
    ]


_PACKERS = {"MatMul": _pack_matmul, "Gather": _pack_gather}


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
