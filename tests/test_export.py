"""A small model exported for real: the graphs against torch, number by number."""

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from assets import asset_path
from bridge.contract import UserError
from policy.export.bundle_writer import (
    NORMALISATION,
    count_operators,
    export_bundle,
    export_graphs,
    fingerprint,
    round_weights,
)
from policy.export.packing import pack_weights
from policy.export.parity import Sample, measure_parity
from policy.export.restore import UNKEPT, restore_model
from policy.model.action_codec import BANDS
from policy.model.moe import mixtures
from policy.model.quantize import Packed, unpack
from policy.model.stages import TorchParts
from policy.model.vla import Model, ModelConfig
from policy.runtime.bundle import (
    DECODE_FILE,
    POLICY_FILES,
    PREFILL_FILE,
    WEIGHTS_FILE,
    WORDS_FILE,
    open_bundle,
)
from policy.runtime.disambiguation import no_prior, prior_for
from policy.runtime.onnx_policy import OnnxParts, OnnxPolicy
from policy.runtime.text_encoder import TextEncoder
from robots.g1.embodiment import CHUNK_STEPS, COMMAND_DIM, G1, STATE_DIM

SLOTS = (("action", ("stop", "go_to", "wave")), ("colour", ("red", "blue")))
CONFIG = ModelConfig(
    slots=SLOTS, width=128, layers=2, heads=4, hidden=64, experts=4, image_widths=(16, 16, 16)
)
Graphs = dict[str, onnx.ModelProto]


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    model = Model(CONFIG, G1).eval()
    chunks = np.random.default_rng(0).normal(size=(64, CHUNK_STEPS, COMMAND_DIM))
    model.codec.fit(chunks.astype(np.float32))
    return model


@pytest.fixture(scope="module")
def graphs(model: Model) -> Graphs:
    return export_graphs(model)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    rng = np.random.default_rng(1)
    return [
        Sample(
            text,
            rng.integers(0, 256, (96, 96, 3), dtype=np.uint8),
            rng.normal(size=STATE_DIM).astype(np.float32),
        )
        for text in ("walk to the red ball", "wave", "stop")
    ]


@pytest.fixture
def exact(graphs: Graphs, monkeypatch) -> Iterator[OnnxParts]:
    """The graphs with their eight-bit weights, but float arithmetic in their kernels."""
    monkeypatch.setenv("ORT_QMOE_CPU_QNBIT_GEMM", "fp32")
    plain = {}
    for name, graph in graphs.items():
        copy = onnx.ModelProto()
        copy.CopyFrom(graph)
        for node in copy.graph.node:
            for attribute in node.attribute:
                if attribute.name == "accuracy_level":
                    attribute.i = 1
        plain[name] = copy.SerializeToString()
    yield OnnxParts(plain, threads=1)


def test_a_bundle_gives_its_model_back(model: Model, samples, tmp_path) -> None:
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():  # no two alike, as after training
            parameter.add_(0.05 * torch.randn_like(parameter))
        for mixture in mixtures(model):
            mixture.selection_bias.normal_()
    export_bundle(model, tmp_path, samples, {})
    found = restore_model(tmp_path, CONFIG).state_dict()
    for name, tensor in round_weights(model).state_dict().items():
        if name in found and name not in UNKEPT:
            np.testing.assert_allclose(found[name], tensor, atol=2e-3, err_msg=name)
    with pytest.raises(UserError, match="other sizes"):
        restore_model(tmp_path, dataclasses.replace(CONFIG, hidden=128))


def test_graphs_compute_what_torch_computes(model: Model, exact: OnnxParts, samples) -> None:
    torch_parts = TorchParts(round_weights(model))
    states, mask = TextEncoder(threads=1).encode([samples[0].instruction])
    for prior in (no_prior(dict(SLOTS)), prior_for(dict(SLOTS), np.array([1, 2]))):
        word, slots, chances = exact.words(states, mask, prior)
        expected_word, expected_slots, expected_chances = torch_parts.words(states, mask, prior)
        np.testing.assert_allclose(word, expected_word, atol=2e-3)
        np.testing.assert_array_equal(slots, expected_slots)
        np.testing.assert_allclose(chances, expected_chances, atol=2e-3)
    assert slots.tolist() == [[1, 2]], "what is insisted on is read"

    prefill = (expected_word, samples[0].image[None], samples[0].state[None])
    expected = torch_parts.prefill(*prefill)
    # Convolutions are stored in half precision.
    for ours, theirs in zip(exact.prefill(*prefill), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-3)

    for n in (1, 2, BANDS):
        previous = np.full((1, n, COMMAND_DIM), 100)
        known = np.arange(n)[None] % 2 == 0
        commands = np.zeros((1, CHUNK_STEPS, COMMAND_DIM), np.float32)
        inputs = (np.arange(n), previous, known, commands, *expected[:2])
        tokens, _, keys, values = exact.decode(*inputs)
        their_tokens, _, their_keys, their_values = torch_parts.decode(*inputs)
        assert tokens.shape == (1, n, COMMAND_DIM)
        assert np.mean(tokens == their_tokens) > 0.95
        np.testing.assert_allclose(keys, their_keys, atol=5e-3)
        np.testing.assert_allclose(values, their_values, atol=5e-3)


def test_commands_are_the_sum_of_the_bands(model: Model, exact: OnnxParts, samples) -> None:
    word, *_ = exact.words(*TextEncoder(threads=1).encode(["wave"]), no_prior(dict(SLOTS)))
    keys, values, *_ = exact.prefill(word, samples[0].image[None], samples[0].state[None])
    commands = np.zeros((1, CHUNK_STEPS, COMMAND_DIM), np.float32)
    all_tokens = []
    for band in range(BANDS):
        zeros = np.zeros((1, 1, COMMAND_DIM), np.int64)
        tokens, commands, keys, values = exact.decode(
            np.array([band]), zeros, np.zeros((1, 1), bool), commands, keys, values
        )
        all_tokens.append(tokens)
        so_far = model.codec.decode(torch.from_numpy(np.concatenate(all_tokens, axis=1)))
        np.testing.assert_allclose(commands, so_far.numpy(), atol=1e-5)


def test_every_expert_and_every_dense_layer_arrives(graphs: Graphs) -> None:
    for name, count in ((WORDS_FILE, 0), (PREFILL_FILE, 2), (DECODE_FILE, 2)):
        graph = graphs[name]
        shapes = {tensor.name: list(tensor.dims) for tensor in graph.graph.initializer}
        nodes = [node for node in graph.graph.node if node.op_type == "QMoE"]
        assert [shapes[node.input[2]] for node in nodes] == [[4, 128, 128]] * count
        assert count_operators(graph, "MatMulNBits") > 0
        large = [t.name for t in graph.graph.initializer if t.data_type == 1 and len(t.dims) > 1]
        scales = {name for node in graph.graph.node if node.domain for name in node.input}
        assert all(np.prod(shapes[name]) < 4096 for name in large if name not in scales)


def test_codes_in_the_graph_are_those_of_training(model: Model, graphs: Graphs) -> None:
    graph = graphs[PREFILL_FILE].graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    experts = next(node for node in graph.node if node.op_type == "QMoE")
    codes, scales = arrays[experts.input[2]], arrays[experts.input[3]]
    up = round_weights(model).blocks[0].experts.up.numpy()
    packed = Packed(torch.from_numpy(codes.copy()), torch.from_numpy(scales.copy()))
    np.testing.assert_array_equal(unpack(packed).numpy(), up)


def test_an_unrounded_matrix_is_left_alone() -> None:
    weight = np.random.default_rng(0).normal(size=(128, 64)).astype(np.float32)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "dense",
        [value("x", onnx.TensorProto.FLOAT, [1, 1, 128])],
        [value("y", onnx.TensorProto.FLOAT, [1, 1, 64])],
        [numpy_helper.from_array(weight, "w")],
    )
    made = onnx.helper.make_model(graph)
    assert count_operators(pack_weights(made, only_rounded=True), "MatMulNBits") == 0
    assert count_operators(pack_weights(made), "MatMulNBits") == 1


def test_parity_is_measured(model: Model, graphs: Graphs, samples) -> None:
    report = measure_parity(model, graphs, TextEncoder(threads=1), samples)
    assert report["samples"] == len(samples)
    rounded, plain = report["against_rounded"], report["against_float32"]
    for part in (rounded, plain):
        assert part["routing_agreement"] > 0.95
        assert part["slot_agreement"] == 1
        assert part["status_logit_max_abs"] < 0.2
    assert set(rounded) == set(plain)


def test_a_bundle_is_written_and_runs(model: Model, samples, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export_bundle(model, tmp_path, samples, {"dataset": "none", "steps": 0})
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    manifest = open_bundle(tmp_path).manifest
    assert manifest.provenance == {"dataset": "none", "steps": 0}
    assert manifest.slots == {name: list(values) for name, values in SLOTS}
    size = sum(manifest.files[name].size for name in POLICY_FILES)
    ratio = size / manifest.quantization["float32_bytes"]
    assert manifest.quantization["size_ratio"] == pytest.approx(ratio)
    # Graphs weigh the same for any width; a model of real size stays under 0.35.
    weights = manifest.files[WEIGHTS_FILE].size
    assert weights / manifest.quantization["float32_bytes"] < 0.32
    policy = OnnxPolicy(tmp_path, threads=1)
    assert policy.manifest == manifest and "CPU" in policy.device


def test_the_shipped_bundle_gives_its_model_back() -> None:
    """Its tensors have the names of release 0.1."""
    bundle = asset_path("models/bundle")
    policy, restored = OnnxPolicy(bundle, threads=1), TorchParts(restore_model(bundle))
    states = TextEncoder(threads=1).encode(["walk to the red ball"])
    word, _, chances = restored.words(*states, no_prior(policy.slots))
    exact_word, _, exact_chances = policy._parts.words(*states, no_prior(policy.slots))
    assert chances == pytest.approx(exact_chances, abs=1e-3)
    assert word == pytest.approx(exact_word, abs=0.02)
    image = np.random.default_rng(0).integers(0, 256, (1, 96, 96, 3), np.uint8)
    state = np.zeros((1, len(G1.state_names)), np.float32)
    found, exact = (parts.prefill(exact_word, image, state) for parts in (restored, policy._parts))
    assert found[2] == pytest.approx(exact[2], abs=0.1) and found[4] == pytest.approx(
        exact[4], abs=0.01
    )


def test_equal_models_have_equal_ids(model: Model) -> None:
    twin = copy.deepcopy(model)
    assert fingerprint(twin, "") == fingerprint(model, "")
    twin.codec.step[0, 0] *= 2
    assert fingerprint(twin, *NORMALISATION) != fingerprint(model, *NORMALISATION)
    assert fingerprint(twin, "image_encoder.") == fingerprint(model, "image_encoder.")


def test_the_chunk_baseline_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--head bands"):
        export_graphs(Model(dataclasses.replace(CONFIG, head="chunk"), G1))
