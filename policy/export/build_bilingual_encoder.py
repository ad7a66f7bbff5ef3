"""Builds the bilingual text encoder once: multilingual-e5-small as a 4-bit ONNX graph.

The weights are in four bits already where they come from (`policy.export.e5_file`) and keep their
codes and scales. Of the vocabulary, what Japanese and English need is kept.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from bridge.files import write_bytes, write_json, write_text
from policy.export.e5_file import (
    BLOCK,
    HIDDEN_WIDTH,
    LAYER_NORM_EPS,
    N_HEADS,
    N_LAYERS,
    WIDTH,
    E5File,
    load_e5,
)
from policy.export.packing import CONTRIB_DOMAIN
from policy.runtime.text_encoder import (
    BILINGUAL_FOLDER,
    MODEL_FILE,
    SCRIPTS,
    SPEC_FILE,
    TEXT_ENCODER_FOLDER,
    TOKENIZER_FILE,
    TextEncoderSpec,
)

# Embeddings, middle and top: read together they tell more than the top alone.
LAYERS = (0, 6, 12)
SPEC = TextEncoderSpec(
    name="multilingual-e5-small",
    languages=("en", "ja"),
    width=len(LAYERS) * WIDTH,
    layers=LAYERS,
    max_tokens=48,
)
# The first versions that have tensors in four bits.
OPSET = 21
IR_VERSION = 10

# The first pieces of the vocabulary, in this order: begin, padding, end, unknown.
MARKS = ("<s>", "<pad>", "</s>", "<unk>")
# What sentencepiece writes for a space.
SPACE = "▁"
# The most characters of a piece that is kept for itself: of ASCII with letters, without letters.
MOST_ASCII = 3
MOST_SYMBOLS = 4


def build_bilingual_encoder(out: Path = BILINGUAL_FOLDER) -> Path:
    """Writes graph, tokenizer and description into `out`; returns the graph's path."""
    source = load_e5()
    kept = select_pieces(source.pieces, source.scores)
    model = build_graph(source, kept)
    onnx.checker.check_model(model)
    tokenizer = make_tokenizer([source.pieces[i] for i in kept], source.scores[kept])
    write_bytes(out / MODEL_FILE, model.SerializeToString(deterministic=True))
    write_text(out / TOKENIZER_FILE, tokenizer.to_str() + "\n")
    write_json(out / SPEC_FILE, msgspec.to_builtins(SPEC))
    return out / MODEL_FILE


def select_pieces(pieces: Sequence[str], scores: np.ndarray) -> list[int]:
    """Numbers of the pieces that are kept, in their order.

    They are the marks; every piece into which an English word falls; short pieces of ASCII, for all
    other words and for misspellings; short ones of digits and symbols; single Latin letters and
    marks of punctuation; and all with kana or kanji that the Japanese standard JIS X 0208 has.
    """
    kept = {i for i, piece in enumerate(pieces) if i < len(MARKS) or _is_kept(piece.strip(SPACE))}
    whole = make_tokenizer(pieces, scores)
    for encoding in whole.encode_batch(list(_english()), add_special_tokens=False):
        kept.update(encoding.ids)
    return sorted(kept)


def _is_kept(text: str) -> bool:
    if text.isascii():
        letters = any(character.isalpha() for character in text)
        return text.isprintable() and len(text) <= (MOST_ASCII if letters else MOST_SYMBOLS)
    if len(text) == 1 and (SCRIPTS["en"].match(text) or unicodedata.category(text)[0] == "P"):
        return True
    symbols = len(text) <= MOST_SYMBOLS and not any(character.isalpha() for character in text)
    return _in_jis(text) and (symbols or SCRIPTS["ja"].search(text) is not None)


def _in_jis(text: str) -> bool:
    """Whether all characters are ASCII or of JIS X 0208."""
    try:
        text.encode("shift_jis")
    except UnicodeEncodeError:
        return False
    return True


def _english() -> Iterable[str]:
    """The words of the English encoder, in all cases, each after a space and after a kana."""
    vocabulary = json.loads((TEXT_ENCODER_FOLDER / TOKENIZER_FILE).read_text(encoding="utf-8"))
    for word in vocabulary["model"]["vocab"]:
        if word.isascii() and word.isalpha():
            for written in (word, word.capitalize(), word.upper()):
                yield written
                yield "あ" + written


def make_tokenizer(pieces: Sequence[str], scores: np.ndarray) -> Tokenizer:
    """A unigram tokenizer (Kudo 2018, arXiv:1804.10959), the first pieces of which are `MARKS`.

    Its normaliser is close to the published one, which is a table: see the encoder's README.
    """
    # The shortest decimals that give the same number in float32.
    vocabulary = [(piece, float(str(score))) for piece, score in zip(pieces, scores, strict=True)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=MARKS.index("<unk>")))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        "<s> $A </s>", special_tokens=[(mark, MARKS.index(mark)) for mark in ("<s>", "</s>")]
    )
    tokenizer.add_special_tokens(list(MARKS))
    return tokenizer


def build_graph(source: E5File, kept: Sequence[int]) -> onnx.ModelProto:
    """Token ids (N, T) and mask (N, T) bool to states (N, T, 1152), T <= max_tokens."""
    graph = _Graph(source)
    states = [graph.embeddings(kept)]
    graph.add("Cast", ["mask"], "valid", to=TensorProto.INT32)
    for layer in range(N_LAYERS):
        states.append(graph.layer(f"l{layer}", states[-1]))
    graph.add("Concat", [states[i] for i in LAYERS], "states", axis=-1)
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        graph.nodes,
        SPEC.name,
        [
            value("token_ids", TensorProto.INT64, ["batch", "tokens"]),
            value("mask", TensorProto.BOOL, ["batch", "tokens"]),
        ],
        [value("states", TensorProto.FLOAT, ["batch", "tokens", SPEC.width])],
        graph.constants,
    )
    versions = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB_DOMAIN, 1)]
    return helper.make_model(made, opset_imports=versions, ir_version=IR_VERSION)


class _Graph:
    """Nodes and constants of BERT (Devlin 2018, arXiv:1810.04805), named as their source's.

    Each method adds a part and returns the name of its output.
    """

    def __init__(self, source: E5File) -> None:
        self.source = source
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def add_contrib(
        self, operator: str, inputs: Sequence[str], output: str, **attributes: Any
    ) -> str:
        return self.add(operator, inputs, output, domain=CONTRIB_DOMAIN, **attributes)

    def constant(self, name: str, values: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def scales(self, name: str, values: np.ndarray) -> str:
        """Scales, stored in the half precision that they have; the session widens them once."""
        half = self.constant(f"{name}.half", values)
        return self.add("Cast", [half], name, to=TensorProto.FLOAT)

    def embeddings(self, kept: Sequence[int]) -> str:
        """Words, positions from 0, and the type of a first sentence."""
        source = self.source
        table = source.matrix("emb.word", WIDTH)
        # Two's complement in four bits: the operator knows no offset of 8.
        codes = _pairs((table.codes[kept] - np.uint8(8)) & 15)
        shape = [len(kept), WIDTH]
        self.constants.append(
            helper.make_tensor("word.codes", TensorProto.INT4, shape, codes.tobytes(), raw=True)
        )
        scales = self.scales("word.scales", table.scales[kept])
        words = self.add_contrib(
            "GatherBlockQuantized",
            ["word.codes", "token_ids", scales],
            "word",
            gather_axis=0,
            quantize_axis=1,
            block_size=BLOCK,
        )
        positions = source.floats("emb.pos").reshape(-1, WIDTH)[: SPEC.max_tokens]
        places = self.constant("positions", positions + source.floats("emb.type")[:WIDTH])
        length = self.add("Shape", ["token_ids"], "length", start=1, end=2)
        first = self.constant("first", np.zeros(1, np.int64))
        self.add("Slice", [places, first, length], "place")
        return self.norm("emb.ln", self.add("Add", [words, "place"], "placed"))

    def layer(self, name: str, x: str) -> str:
        """One layer: attention and a hidden layer, each added to its input and normalised."""
        parts = [f"{name}.{part}" for part in "qkv"]
        self.nodes.append(
            helper.make_node(
                "Split", [self.linear(f"{name}.qkv", x, parts)], parts, axis=-1, num_outputs=3
            )
        )
        mixed = self.add_contrib(
            "MultiHeadAttention", [*parts, "", "valid"], f"{name}.mixed", num_heads=N_HEADS
        )
        x = self.residual(f"{name}.aln", x, self.linear(f"{name}.ao", mixed))
        hidden = self.add("Gelu", [self.linear(f"{name}.fi", x)], f"{name}.hidden")
        return self.residual(f"{name}.oln", x, self.linear(f"{name}.fo", hidden))

    def residual(self, name: str, x: str, change: str) -> str:
        return self.norm(name, self.add("Add", [x, change], f"{name}.sum"))

    def norm(self, name: str, x: str) -> str:
        weights = [
            self.constant(f"{name}.{part}", self.source.floats(f"{name}.{part}")) for part in "wb"
        ]
        return self.add("LayerNormalization", [x, *weights], name, axis=-1, epsilon=LAYER_NORM_EPS)

    def linear(self, name: str, x: str, parts: Sequence[str] = ()) -> str:
        """A dense layer, or several of one input side by side."""
        parts = parts or [name]
        biases = [self.source.floats(f"{part}.b") for part in parts]
        columns = HIDDEN_WIDTH if name.endswith("fo") else WIDTH
        matrices = [self.source.matrix(f"{part}.w", columns) for part in parts]
        codes = np.concatenate([matrix.codes for matrix in matrices])
        packed = _pairs(codes).reshape(len(codes), -1, BLOCK // 2)
        scales = np.concatenate([matrix.scales for matrix in matrices])
        return self.add_contrib(
            "MatMulNBits",
            [
                x,
                self.constant(f"{name}.codes", packed),
                self.scales(f"{name}.scales", scales),
                "",
                "",
                self.constant(f"{name}.bias", np.concatenate(biases)),
            ],
            name,
            K=columns,
            N=len(codes),
            bits=4,
            block_size=BLOCK,
            # Activations in 8 bits, as where the weights come from; float takes twice as long.
            accuracy_level=4,
        )


def _pairs(codes: np.ndarray) -> np.ndarray:
    """Four-bit codes (..., 2 n) as bytes (..., n), the first of two in the lower half."""
    return codes[..., ::2] | codes[..., 1::2] << 4
