"""The graphs of a bundle: whole, finite, and with the inputs and outputs that a manifest promises.

Whatever is wrong raises ValueError.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from bridge.embodiment import Embodiment

_FLOAT, _INT, _BOOL, _BYTE = (
    TensorProto.FLOAT,
    TensorProto.INT64,
    TensorProto.BOOL,
    TensorProto.UINT8,
)
_STATUSES = 4


class Port(NamedTuple):
    """An input or output of a graph; a size None is the model's own affair, or not fixed."""

    name: str
    kind: int
    shape: tuple[int | None, ...]


Ports = tuple[tuple[Port, ...], tuple[Port, ...]]


def whole_graph(content: bytes, weights: Mapping[str, bytes]) -> onnx.ModelProto:
    """A graph whose tensors are all in it, those of the files `weights` too; all are finite."""
    model = onnx.load_from_string(content)
    if not model.graph.node:
        raise ValueError("it is no ONNX graph")
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            _bring_in(tensor, weights)
    for name, tensor in _tensors(model.graph):
        if tensor.data_location == TensorProto.EXTERNAL:
            raise ValueError(f"it keeps {name} elsewhere")
        values = numpy_helper.to_array(tensor)
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            raise ValueError(f"it has non-finite weights ({name})")
    return model


def _bring_in(tensor: TensorProto, weights: Mapping[str, bytes]) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    content = weights.get(entries.get("location", ""))
    if content is None:
        raise ValueError(f"it keeps {tensor.name} elsewhere")
    start = int(entries.get("offset", 0))
    end = start + int(entries.get("length", len(content) - start))
    if not 0 <= start <= end <= len(content):
        raise ValueError(f"{tensor.name} lies beyond the weights")
    tensor.ClearField("external_data")
    tensor.data_location = TensorProto.DEFAULT
    tensor.raw_data = content[start:end]


def _tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, TensorProto]]:
    """All constants of a graph and of those within it, by name."""
    if graph.sparse_initializer:
        raise ValueError("it has sparse weights, which no bundle has")
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        for attribute in node.attribute:
            name = f"{node.op_type} {node.name}"
            numbers = [attribute.f, *attribute.floats]
            yield name, numpy_helper.from_array(np.array(numbers, np.float32))
            for tensor in (*([attribute.t] if attribute.HasField("t") else ()), *attribute.tensors):
                yield name, tensor
            for inner in (attribute.g, *attribute.graphs):  # an empty one where there is none
                yield from _tensors(inner)


def check_ports(graph: onnx.GraphProto, ports: Ports) -> None:
    """Refuses a graph whose inputs or outputs are not those that `ports` promise, in order."""
    for found, promised in zip((graph.input, graph.output), ports, strict=True):
        has = [_port(value) for value in found]
        for one, other in zip(has, promised, strict=False):
            same = one[:2] == other[:2] and len(one.shape) == len(other.shape)
            sizes = zip(one.shape, other.shape, strict=False)
            if not same or any(a and b and a != b for a, b in sizes):
                raise ValueError(f"it has {_told(one)} where the manifest promises {_told(other)}")
        if len(has) != len(promised):
            raise ValueError(f"it has {len(has)} inputs or outputs, not {len(promised)}")


def check_bands(graph: onnx.GraphProto, bands: int) -> None:
    """Refuses a decoding graph whose tables have another number of bands."""
    rows = {tensor.name: tensor.dims[0] for tensor in graph.initializer if tensor.dims}
    for node in graph.node:
        if node.op_type == "GatherND" and rows.get(node.input[0], bands) != bands:
            raise ValueError(f"it has {rows[node.input[0]]} bands, the manifest {bands}")


def ports_of_words(slots: Mapping[str, Sequence[str]]) -> Ports:
    """What reads the words: see `policy.model.stages`."""
    classes = sum(len(values) + 1 for values in slots.values())
    return (
        (
            Port("states", _FLOAT, (1, None, None)),
            Port("mask", _BOOL, (1, None)),
            Port("prior", _FLOAT, (1, classes)),
        ),
        (
            Port("word", _FLOAT, (1, None)),
            Port("slots", _INT, (1, len(slots))),
            Port("chances", _FLOAT, (1, classes)),
        ),
    )


def ports_of_prefill(body: Embodiment) -> Ports:
    """What looks and feels."""
    camera = body.cameras[0]
    return (
        (
            Port("word", _FLOAT, (1, None)),
            Port("image", _BYTE, (1, camera.height, camera.width, 3)),
            Port("state", _FLOAT, (1, len(body.state_names))),
        ),
        (
            Port("keys", _FLOAT, (None, 1, None, None, None)),
            Port("values", _FLOAT, (None, 1, None, None, None)),
            Port("status", _FLOAT, (1, _STATUSES)),
            Port("experts", _FLOAT, (1, None, None)),
            Port("seen", _FLOAT, (1,)),  # the visibility, as release 0.1 called it
        ),
    )


def ports_of_decode(body: Embodiment) -> Ports:
    """What decodes a few bands; the cache grows by them."""
    steps, width = body.chunk_shape
    cache = (None, 1, None, None, None)
    return (
        (
            Port("bands", _INT, (None,)),
            Port("previous", _INT, (1, None, width)),
            Port("known", _BOOL, (1, None)),
            Port("commands", _FLOAT, (1, steps, width)),
            Port("keys", _FLOAT, cache),
            Port("values", _FLOAT, cache),
        ),
        (
            Port("tokens", _INT, (1, None, width)),
            Port("commands_out", _FLOAT, (1, steps, width)),
            Port("keys_out", _FLOAT, cache),
            Port("values_out", _FLOAT, cache),
        ),
    )


PORTS_OF_ENCODER: Ports = (
    (Port("token_ids", _INT, (None, None)), Port("mask", _BOOL, (None, None))),
    (Port("states", _FLOAT, (None, None, None)),),
)


def _port(value: onnx.ValueInfoProto) -> Port:
    kind = value.type.tensor_type
    return Port(value.name, kind.elem_type, tuple(d.dim_value or None for d in kind.shape.dim))


def _told(port: Port) -> str:
    shape = ", ".join(str(size or "?") for size in port.shape)
    return f"{port.name} {TensorProto.DataType.Name(port.kind).lower()} ({shape})"
