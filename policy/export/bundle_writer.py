"""From a model in torch to a bundle: three graphs with eight-bit weights around one file of them.

    words.onnx    token states, prior       -> word vector, values of the slots, their chances
    prefill.onnx  word vector, image, state -> cached keys and values, status, experts, visibility
    decode.onnx   a few bands and the cache -> their tokens, the chunk so far, the longer cache

The graphs are the modules of `policy.model.stages`; nothing is declared a second time.
"""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import torch
from torch import Tensor, nn

from bridge.contract import UserError
from bridge.files import check_writable
from policy.export.packing import (
    CONTRIB_DOMAIN,
    MIN_ELEMENTS,
    pack_weights,
    share_weights,
    store_in_half,
)
from policy.export.parity import Sample, describe_parity, measure_parity
from policy.model.action_codec import BANDS
from policy.model.moe import MoE, mixtures
from policy.model.quantize import BLOCK, QuantLinear, pack, set_quantized, unpack
from policy.model.stages import Decode, Prefill, Read
from policy.model.vla import BANDS_PER_STEP, Model, example_inputs
from policy.runtime.bundle import (
    CARD_FILE,
    DECODE_FILE,
    PREFILL_FILE,
    WEIGHTS_FILE,
    WORDS_FILE,
    Manifest,
    packaged_encoder,
    write_bundle,
)
from policy.runtime.text_encoder import TextEncoder

OPSET = 21
# The buffers that turn numbers of the robot into numbers of the model and back.
NORMALISATION = ("state_encoder.mean", "state_encoder.deviation", "codec.")


class GraphSpec(NamedTuple):
    """How one part of the model is exported."""

    part: type[nn.Module]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


GRAPHS = {
    WORDS_FILE: GraphSpec(Read, ("states", "mask", "prior"), ("word", "slots", "chances")),
    PREFILL_FILE: GraphSpec(
        Prefill, ("word", "image", "state"), ("keys", "values", "status", "experts", "seen")
    ),
    DECODE_FILE: GraphSpec(
        Decode,
        ("bands", "previous", "known", "commands", "keys", "values"),
        ("tokens", "commands_out", "keys_out", "values_out"),
    ),
}


def export_bundle(
    model: Model,
    out: Path,
    samples: Sequence[Sample],
    provenance: Mapping[str, Any],
) -> Manifest:
    """Writes the bundle of a model into `out` and returns its manifest.

    `samples` are real observations, on which the graphs are compared with the model;
    `provenance` (dataset, training, commit) is kept as it is. The text encoder is sealed, and
    stays where it is: with the package. UserError, before any work, for weights that are not
    finite and a folder that cannot be written.
    """
    if bad := [n for n, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]:
        raise UserError(f"{bad[0]} of the model is not finite: export an earlier checkpoint")
    check_writable(out)
    graphs = export_graphs(model)
    parity = measure_parity(model, graphs, TextEncoder(), samples)
    weights = share_weights(graphs, WEIGHTS_FILE)
    files = {name: graph.SerializeToString() for name, graph in graphs.items()}
    files[WEIGHTS_FILE] = weights
    float_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
    manifest = Manifest(
        model_id=fingerprint(model, ""),
        normalisation_id=fingerprint(model, *NORMALISATION),
        embodiment=model.embodiment,
        slots={name: list(values) for name, values in model.config.slots},
        bands=BANDS,
        quantization={
            "bits": 8,
            "block": BLOCK,
            "operators": ["QMoE", "MatMulNBits"],
            "remainder": "float16 where large, else float32",
            "size_ratio": sum(map(len, files.values())) / float_bytes,
            "float32_bytes": float_bytes,
            "tokens_per_step": [bands * model.dimensions for bands in BANDS_PER_STEP],
        },
        provenance=dict(provenance),
        parity=parity,
        files=packaged_encoder(),
    )
    files[CARD_FILE] = _card(manifest).encode()
    return write_bundle(out, files, manifest)


def fingerprint(model: Model, *prefixes: str) -> str:
    """Twelve hex digits of the tensors whose names begin with one of `prefixes`."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(prefixes):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _card(manifest: Manifest) -> str:
    """What a person who finds the folder should know."""
    facts = "\n".join(f"- {name}: {value}" for name, value in manifest.provenance.items())
    body = manifest.embodiment
    return f"""# A policy for {body.name} (model {manifest.model_id})

An instruction, the camera {body.cameras[0].name} and the joints to a chunk of whole-body
commands, for use with `hitogata serve` and `hitogata run`. Trained in simulation on scripted
demonstrations; it knows the objects, colours and movements of its training and has not been tried
on a real robot.

{facts}

Weights are in eight bits, {manifest.quantization["size_ratio"]:.2f} of their size in float32.
Its text encoder, all-MiniLM-L6-v2, lies in the package hitogata; the manifest has its checksum.

```
{describe_parity(manifest.parity)}
```
"""


def export_graphs(model: Model) -> dict[str, onnx.ModelProto]:
    """The three packed graphs of a model, by file name. The model itself stays as it is."""
    if model.band_head is None:
        raise UserError("only models with the bands head can be exported: train with --head bands")
    rounded = round_weights(model)
    inputs = _example(rounded)
    graphs = {}
    for name, spec in GRAPHS.items():
        graph = _export(spec, rounded, inputs)
        graphs[name] = store_in_half(pack_weights(graph, BLOCK, only_rounded=True))
        _check_operators(name, graphs[name], rounded)
    return graphs


def round_weights(model: Model) -> Model:
    """A copy for export: weights lie on the eight-bit grid, experts are QMoE operators."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    set_quantized(model, False)
    for module in model.modules():
        if isinstance(module, QuantLinear):
            module.weight.copy_(unpack(pack(module.weight)))
    for mixture in mixtures(model):
        for name in ("up", "down"):
            packed = pack(getattr(mixture, name))
            getattr(mixture, name).copy_(unpack(packed))
            mixture.register_buffer(f"{name}_codes", packed.codes)
            mixture.register_buffer(f"{name}_scales", packed.scales)
        mixture.export_experts = qmoe
    return model


def qmoe(mixture: MoE, x: Tensor, log_weights: Tensor) -> Tensor:
    """The routed experts as one operator of ONNX Runtime (docs/ContribOperators.md, QMoE).

    Its softmax over the chosen log-weights gives back the weights of any gate.
    """
    tokens = x.flatten(0, 1)
    packed = dict(mixture.named_buffers(recurse=False))
    mixed = torch.onnx.ops.symbolic(
        f"{CONTRIB_DOMAIN}::QMoE",
        (
            tokens,
            log_weights,
            packed["up_codes"],
            packed["up_scales"],
            None,
            packed["down_codes"],
            packed["down_scales"],
            None,
        ),
        attrs={
            "k": mixture.top_k,
            "expert_weight_bits": 8,
            "block_size": BLOCK,
            "normalize_routing_weights": 1,
            "activation_type": "swiglu",
            "swiglu_fusion": 1,
            # silu(gate) * value: the operator's defaults are another model's variant.
            "activation_alpha": 1.0,
            "activation_beta": 0.0,
            "swiglu_limit": 1e9,
        },
        dtype=x.dtype,
        shape=tokens.shape,
        version=1,
    )
    return mixed.view_as(x)


def _example(model: Model) -> dict[str, Tensor]:
    inputs = example_inputs(model.embodiment)
    word, _ = model.read(inputs["states"], inputs["mask"])
    prefill = model.prefill(word, inputs["image"], inputs["state"])
    return inputs | {
        "prior": torch.zeros(1, sum(model.config.slot_sizes)),
        "word": word,
        "keys": prefill.keys,
        "values": prefill.values,
        # Two bands: the exporter takes a one for a constant.
        "bands": torch.arange(2),
        "previous": torch.zeros(1, 2, model.dimensions, dtype=torch.int64),
        "known": torch.zeros(1, 2, dtype=torch.bool),
        "commands": torch.zeros(1, *model.embodiment.chunk_shape),
    }


def _export(spec: GraphSpec, model: Model, inputs: dict[str, Tensor]) -> onnx.ModelProto:
    dim = torch.export.Dim
    n, past = dim("n", min=1, max=6), dim("past", min=1, max=4096)
    dynamic = {
        "bands": {0: n},
        "previous": {1: n},
        "known": {1: n},
        "keys": {3: past},
        "values": {3: past},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            spec.part(model).eval(),
            tuple(inputs[name] for name in spec.inputs),
            input_names=spec.inputs,
            output_names=spec.outputs,
            dynamic_shapes=tuple(dynamic.get(name) for name in spec.inputs),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def count_operators(graph: onnx.ModelProto, operator: str) -> int:
    """How many nodes of a graph are this operator."""
    return sum(node.op_type == operator for node in graph.graph.node)


def _check_operators(name: str, graph: onnx.ModelProto, model: Model) -> None:
    """Every mixture with all of its experts must have arrived, and no dense layer in float."""
    codes = {tensor.name: tensor.dims for tensor in graph.graph.initializer}
    experts = [codes[n.input[2]][0] for n in graph.graph.node if n.op_type == "QMoE"]
    wanted = [] if name == WORDS_FILE else [mixture.experts for mixture in mixtures(model)]
    assert experts == wanted, f"{name} has experts {experts}, the model {wanted}"
    dense = _quantized_layers(model, name)
    found = count_operators(graph, "MatMulNBits")
    assert found == dense, f"{name} has {found} eight-bit layers, the model {dense}"


def _quantized_layers(model: Model, name: str) -> int:
    parts: Sequence[nn.Module] = {
        WORDS_FILE: [model.instruction_encoder],
        PREFILL_FILE: [model.image_encoder, model.state_encoder, model.word_token, model.blocks],
        DECODE_FILE: [model.blocks, model.band_head],
    }[name]
    layers = [m for part in parts for m in part.modules() if isinstance(m, QuantLinear)]
    return sum(layer.weight.numel() >= MIN_ELEMENTS for layer in layers)
