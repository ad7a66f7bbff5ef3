"""A model from a bundle: what was exported goes on to be trained.

The graphs keep most tensors under the model's own names. The exporter renames the weights of dense
layers and of tables, but keeps the order in which the model calls them; by that they are found.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from bridge.contract import UserError
from policy.model.moe import MoE
from policy.model.quantize import Packed, unpack
from policy.model.vla import Model, ModelConfig, example_inputs
from policy.runtime.bundle import DECODE_FILE, PREFILL_FILE, WORDS_FILE, open_bundle
from policy.runtime.legacy import current_name

# What is not in a bundle, or not while it is zero: it starts anew.
UNKEPT = ("velocity_head.weight", "velocity_head.bias", "image_encoder.nowhere")
# Tables of the decoding graph, in the order in which it reads them.
TABLES = (
    "band_inputs.positions",
    "band_inputs.unknown",
    "codec.origin",
    "codec.step",
    "codec.basis",
)
DENSE_OPERATORS = ("MatMul", "MatMulNBits", "Gemm")


@torch.no_grad()
def restore_model(bundle: Path, config: ModelConfig = ModelConfig()) -> Model:
    """The model that a bundle was exported from, its weights as rounded as the bundle's.

    `config` tells its sizes; the slots are the bundle's. UserError if they do not fit each other.
    """
    opened = open_bundle(bundle)
    manifest = opened.manifest
    slots = tuple((name, tuple(values)) for name, values in manifest.slots.items())
    model = Model(
        ModelConfig.from_dict({**config.to_dict(), "slots": slots}), manifest.embodiment
    ).eval()
    found: dict[str, np.ndarray] = {}
    for name in (WORDS_FILE, PREFILL_FILE, DECODE_FILE):
        found |= _tensors_of(opened.graphs[name].graph, name, model)
    wanted = model.state_dict()
    for name, tensor in wanted.items():
        missing = name not in found
        if (missing and name in UNKEPT) or name.endswith("expert_use"):
            continue
        if missing or found[name].shape != tuple(tensor.shape):
            raise UserError(
                f"bundle {bundle} has no {name} of {tuple(tensor.shape)}: it was exported from a "
                "model of other sizes; train without --start"
            )
        tensor.copy_(torch.from_numpy(np.array(found[name], dtype=np.float32)))
    return model


def _tensors_of(graph: onnx.GraphProto, part: str, model: Model) -> dict[str, np.ndarray]:
    """The parameters and buffers of the model that one graph holds, by name."""
    stored = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    # Tensors in half precision are widened under the name that they had before.
    stored = {name.removesuffix(".half"): value for name, value in stored.items()}
    own = {k.removeprefix("model."): v for k, v in stored.items() if k.startswith("model.")}
    found = {current_name(name): value for name, value in own.items()}
    layers = [name for name in _dense_layers(part, model) if f"{name}.weight" not in found]
    for layer, weight in zip(layers, _dense_weights(graph, stored), strict=False):
        found[f"{layer}.weight"] = weight
    if part == PREFILL_FILE:
        found |= _experts(found, model)
        found["image_encoder.coordinates.weight"] = _coordinates_weight(stored, model)
    if part == DECODE_FILE:
        found |= dict(zip(TABLES, _tables(graph, stored), strict=False))
    return found


def _dense_layers(part: str, model: Model) -> list[str]:
    """Names of the dense layers of a part, in the order in which they are called."""
    called: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    inputs = example_inputs(model.embodiment)
    word, _ = model.read(inputs["states"], inputs["mask"])
    if part != WORDS_FILE:
        called.clear()
        prefill = model.prefill(word, inputs["image"], inputs["state"])
        if part == DECODE_FILE:
            called.clear()
            band = torch.zeros(1, dtype=torch.long)
            previous = torch.zeros(1, 1, model.dimensions, dtype=torch.long)
            model.decode(band, previous, torch.ones(1, 1).bool(), prefill.keys, prefill.values)
    for hook in hooks:
        hook.remove()
    return called


def _dense_weights(graph: onnx.GraphProto, stored: dict[str, np.ndarray]) -> Iterator[np.ndarray]:
    """Weights (outputs, inputs) of the renamed dense layers, in the order of the graph."""
    for node in graph.node:
        if node.op_type not in DENSE_OPERATORS or node.input[1].startswith("model."):
            continue
        name = node.input[1]
        if node.op_type == "MatMulNBits":
            codes, scales = stored[name], stored[node.input[2]]
            yield _unpacked(codes.reshape(len(codes), -1), scales)
        elif name in stored and stored[name].ndim == 2:
            yield stored[name].T


def _tables(graph: onnx.GraphProto, stored: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The tables of which a graph reads rows, in its order."""
    nodes = [node for node in graph.node if node.op_type == "GatherND"]
    return [stored[node.input[0]] for node in nodes if node.input[0] in stored]


def _experts(found: dict[str, np.ndarray], model: Model) -> dict[str, np.ndarray]:
    """Weights of the routed experts, from their codes."""
    weights = {}
    for name, module in model.named_modules():
        if not isinstance(module, MoE):
            continue
        for part in ("up", "down"):
            codes, scales = (found[f"{name}.{part}_{kind}"] for kind in ("codes", "scales"))
            weights[f"{name}.{part}"] = _unpacked(codes, scales)
    return weights


def _unpacked(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return unpack(Packed(torch.tensor(codes), torch.tensor(scales))).numpy()


def _coordinates_weight(stored: dict[str, np.ndarray], model: Model) -> np.ndarray:
    """The weight of the coordinates, whose product with the grid is all that the graph keeps."""
    grid = model.image_encoder.grid.flatten(2)[0].numpy()
    shape = (1, model.image_encoder.coordinates.out_channels, *model.image_encoder.grid.shape[2:])
    (product,) = (stored[name] for name in stored if stored[name].shape == shape)
    weight = product.astype(np.float32).reshape(shape[1], -1) @ np.linalg.pinv(grid)
    return weight[:, :, None, None]
