"""How far an exported policy is from its model in torch, number by number, on real observations."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import onnx
from torch import Tensor, nn

from assets.inference import ort
from bridge.embodiment import Embodiment
from policy.model.action_codec import BANDS
from policy.model.moe import MoE, mixtures
from policy.model.quantize import set_quantized
from policy.model.stages import TorchParts
from policy.model.vla import Model
from policy.runtime.bundle import PREFILL_FILE
from policy.runtime.disambiguation import no_prior
from policy.runtime.onnx_policy import GraphPolicy, OnnxParts, Parts
from policy.runtime.text_encoder import TextEncoder


@dataclass(frozen=True)
class Sample:
    """One question to a policy: image (96, 96, 3) uint8 and state (86,) float32."""

    instruction: str
    image: np.ndarray
    state: np.ndarray


class Answers(NamedTuple):
    """What a policy said to N samples: (N, 6, 18), (N, 16, 18), (N, 4), (N, S)."""

    tokens: np.ndarray
    commands: np.ndarray
    status: np.ndarray
    slots: np.ndarray


def measure_parity(
    model: Model,
    graphs: Mapping[str, onnx.ModelProto],
    encoder: TextEncoder,
    samples: Sequence[Sample],
) -> dict[str, Any]:
    """Differences of the graphs from the model with rounded weights and from it in float32.

    The first tells whether the export is right, the second what eight bits cost. Every policy
    decodes from its own tokens, 18 a step, as it does on the robot.
    """
    read = Reader(encoder, model.embodiment, dict(model.config.slots))
    parts = OnnxParts({name: graph.SerializeToString() for name, graph in graphs.items()})
    shipped = _answers(parts, read, samples)
    chosen = _chosen_by_graph(graphs[PREFILL_FILE], parts, read, samples)
    report: dict[str, Any] = {"samples": len(samples)}
    for name, rounded in (("rounded", True), ("float32", False)):
        reference = copy.deepcopy(model).eval().requires_grad_(False)
        set_quantized(reference, rounded)
        theirs = _answers(TorchParts(reference), read, samples)
        report[f"against_{name}"] = {
            **_compare(shipped, theirs),
            "routing_agreement": float(
                np.mean(chosen == _chosen_by_model(reference, read, samples))
            ),
        }
    return report


def describe_parity(report: Mapping[str, Any]) -> str:
    """The report as a table for people."""
    columns = [key for key in report if key.startswith("against_")]
    titles = "".join(f"{key.replace('_', ' '):>18}" for key in columns)
    lines = [f"exported policy on {report['samples']:>4} observations".ljust(42) + titles]
    for figure in report[columns[0]]:
        values = "".join(f"{report[column][figure]:18.5f}" for column in columns)
        lines.append(f"{figure.replace('_', ' '):<42}{values}")
    return "\n".join(lines)


def _compare(ours: Answers, theirs: Answers) -> dict[str, float]:
    difference = np.abs(ours.commands - theirs.commands)
    return {
        "command_max_abs": float(difference.max()),
        "command_mean_abs": float(difference.mean()),
        "status_logit_max_abs": float(np.abs(ours.status - theirs.status).max()),
        "status_agreement": float(np.mean(ours.status.argmax(1) == theirs.status.argmax(1))),
        "slot_agreement": float(np.mean(ours.slots == theirs.slots)) if ours.slots.size else 1.0,
        "tokens_that_differ": float(np.mean(ours.tokens != theirs.tokens)),
        "tokens_off_by_more_than_one": float(np.mean(np.abs(ours.tokens - theirs.tokens) > 1)),
    }


@dataclass(frozen=True)
class Reader:
    """Reads instructions with any parts of one model."""

    encoder: TextEncoder
    embodiment: Embodiment
    slots: Mapping[str, Sequence[str]]

    def __call__(self, parts: Parts, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Word vector (1, W) and classes of the slots (1, S), as the words alone have it."""
        states = self.encoder.encode([text], cut=True)
        word, classes, _ = parts.words(*states, no_prior(self.slots))
        return word, classes


def _answers(parts: Parts, read: Reader, samples: Sequence[Sample]) -> Answers:
    policy = GraphPolicy(parts, read.encoder, read.embodiment, read.slots, BANDS)
    rows = []
    for sample in samples:
        word, slots = read(parts, sample.instruction)
        keys, values, status, *_ = parts.prefill(word, sample.image[None], sample.state[None])
        rows.append((*policy.decode(keys, values), status, slots))
    return Answers(*(np.concatenate(column) for column in zip(*rows, strict=True)))


def _chosen_by_graph(
    prefill: onnx.ModelProto, parts: Parts, read: Reader, samples: Sequence[Sample]
) -> np.ndarray:
    """Which experts each position of the prefix goes to: (N, layers, positions, experts) bool."""
    watched = onnx.ModelProto()
    watched.CopyFrom(prefill)
    weights = [node.input[1] for node in watched.graph.node if node.op_type == "QMoE"]
    for name in weights:
        watched.graph.output.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        )
    session = ort.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    rows = []
    for sample in samples:
        word, _ = read(parts, sample.instruction)
        feeds = {"word": word, "image": sample.image[None], "state": sample.state[None]}
        # Those not chosen have a log-weight far below any weight that is computed.
        found = [np.asarray(output) for output in session.run(weights, feeds)]
        rows.append(np.stack(found) > -1e3)
    return np.stack(rows)


def _chosen_by_model(model: Model, read: Reader, samples: Sequence[Sample]) -> np.ndarray:
    parts = TorchParts(model)
    layers: list[np.ndarray] = []

    def watch(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, MoE)
        chosen, _ = module.route(inputs[0].flatten(0, 1))
        layers.append(nn.functional.one_hot(chosen, module.experts).sum(1).bool().numpy())

    hooks = [mixture.register_forward_pre_hook(watch) for mixture in mixtures(model)]
    rows = []
    for sample in samples:
        word, _ = read(parts, sample.instruction)
        layers.clear()
        parts.prefill(word, sample.image[None], sample.state[None])
        rows.append(np.stack(layers))
    for hook in hooks:
        hook.remove()
    return np.stack(rows)
