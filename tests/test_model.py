"""The policy's network: shapes, masks, what each part may see, words that leave doubt."""

import json

import numpy as np
import pytest
import torch

from policy.model.encoders import (
    N_CONTEXT_FEATURES,
    TIME_FREQUENCIES_HZ,
    InstructionEncoder,
    context_features,
)
from policy.model.stages import TorchParts, act
from policy.model.vla import Model, ModelConfig, example_inputs, known_bands
from policy.runtime.decoding import decode_bands
from robots.g1.embodiment import G1, STAND_COMMAND, STATE_CONTEXT
from tasks.arms import WAVE_HZ

SLOTS = (("action", ("stop", "go_to")), ("colour", ("red", "blue", "green")))
TINY = ModelConfig(
    slots=SLOTS, width=64, layers=2, heads=2, hidden=64, word_width=64, instruction_hidden=64,
    image_widths=(16, 16, 16),
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    model = Model(TINY, G1).eval()
    model.codec.step.fill_(0.02)
    return model


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    inputs = example_inputs(G1, 3)
    inputs["states"] = torch.randn_like(inputs["states"])
    inputs["image"] = torch.randint(0, 256, inputs["image"].shape, dtype=torch.uint8)
    inputs["state"] = torch.randn_like(inputs["state"])
    return inputs


def tokens() -> torch.Tensor:
    return torch.randint(0, 256, (3, 6, 18), generator=torch.Generator().manual_seed(2))


def test_config_survives_json():
    assert ModelConfig.from_dict(json.loads(json.dumps(TINY.to_dict()))) == TINY


def test_default_size_is_small():
    parameters = sum(p.numel() for p in Model(ModelConfig(slots=SLOTS), G1).parameters())
    assert 3e6 < parameters < 10e6


def test_known_bands_by_hand():
    assert known_bands(1).tolist() == [False, True, True, True, True, True]
    assert known_bands(2).tolist() == [False, False, True, False, True, False]
    assert known_bands(6).tolist() == [False] * 6


@pytest.mark.parametrize("n", [1, 2, 6])
def test_steps_with_a_cache_equal_one_pass(model, inputs, n):
    """What training computes in one pass is what decoding computes step by step."""
    truth, known = tokens(), known_bands(n)
    whole = model(**inputs, tokens=truth, known=known.expand(3, -1))
    word, _ = model.read(inputs["states"], inputs["mask"])
    prefill = model.prefill(word, inputs["image"], inputs["state"])
    torch.testing.assert_close(prefill.status, whole.status, rtol=1e-4, atol=1e-4)
    shares = prefill.experts.sum(-1)
    torch.testing.assert_close(shares, torch.ones(shares.shape), rtol=1e-5, atol=1e-5)
    keys, values, found = prefill.keys, prefill.values, []
    for first in range(0, 6, n):
        bands = torch.arange(first, first + n)
        previous = torch.zeros(3, n, 18, dtype=torch.long)
        if first:
            previous[:, 0] = truth[:, first - 1]
        step = model.decode(bands, previous, known[bands].expand(3, -1), keys, values)
        keys, values = step.keys, step.values
        found.append(step.logits)
    torch.testing.assert_close(torch.cat(found, 1), whole.bands, rtol=1e-3, atol=1e-4)
    assert keys.shape == (2, 3, 2, model.prefix_length + 6, 32)


def test_a_band_never_sees_later_ones(model, inputs):
    truth = tokens()
    changed = truth.clone()
    changed[:, 3:] = 0
    known = known_bands(1).expand(3, -1)
    before = model(**inputs, tokens=truth, known=known).bands
    after = model(**inputs, tokens=changed, known=known).bands
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4], after[:, 4])


def test_unknown_bands_ignore_their_tokens(model, inputs):
    known = known_bands(6).expand(3, -1)
    first = model(**inputs, tokens=tokens(), known=known).bands
    second = model(**inputs, tokens=torch.zeros(3, 6, 18, dtype=torch.long), known=known).bands
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("part", ["states", "image", "state"])
def test_every_input_reaches_the_action(model, inputs, part):
    known = known_bands(6).expand(3, -1)
    before = model(**inputs, tokens=tokens(), known=known)
    changed = inputs | {part: inputs[part].flip(0)}
    after = model(**changed, tokens=tokens(), known=known)
    assert not torch.allclose(before.bands[0], after.bands[0])
    assert not torch.allclose(before.status[0], after.status[0])


def test_padding_says_nothing(model, inputs):
    mask = inputs["mask"].clone()
    mask[:, 5:] = False
    noise = inputs["states"].clone()
    noise[:, 5:] = 99
    word, slots = model.read(inputs["states"][:, :5], mask[:, :5])
    padded, padded_slots = model.read(noise, mask)
    torch.testing.assert_close(word, padded)
    torch.testing.assert_close(slots, padded_slots)
    assert [slot.shape[1] for slot in slots] == [3, 4]


def test_outside_training_a_doubtful_reading_counts_as_its_likeliest_value():
    torch.manual_seed(0)
    words = InstructionEncoder(64, 32, (2, 3), dropout=0.0)
    states, mask = torch.randn(1, 24, 384), torch.ones(1, 24, dtype=torch.bool)
    doubt, certainty = torch.tensor([1.0, 0.0]), torch.tensor([40.0, 0.0])

    def word_vector(logits):
        with torch.no_grad():
            words.slots[0].weight.zero_()
            words.slots[0].bias.copy_(logits)
            return words(states, mask)[0]

    assert not torch.allclose(word_vector(doubt), word_vector(certainty), atol=0.05)
    words.eval()
    assert torch.allclose(word_vector(doubt), word_vector(certainty), atol=0.05)


@pytest.mark.parametrize("bands_per_step", [1, 2, 6])
def test_a_batch_decodes_as_its_rows_and_commands_are_those_of_the_tokens(
    model, inputs, bands_per_step
):
    commands, status, slots = act(model, **inputs, bands_per_step=bands_per_step)
    assert commands.shape == (3, 16, 18) and status.shape == (3, 4) and len(slots) == 2
    parts = TorchParts(model)
    for i in range(3):
        row = {name: value[i : i + 1].numpy() for name, value in inputs.items()}
        word, *_ = parts.words(row["states"], row["mask"], np.zeros((1, 7), np.float32))
        keys, values, *_ = parts.prefill(word, row["image"], row["state"])
        tokens, alone = decode_bands(parts.decode, keys, values, (16, 18), 6, bands_per_step)
        torch.testing.assert_close(commands[i : i + 1], torch.from_numpy(alone))
        torch.testing.assert_close(
            model.codec.decode(torch.from_numpy(tokens)), commands[i : i + 1]
        )


def test_a_decoding_that_is_late_leaves_the_bands_it_has(model, inputs):
    word, _ = model.read(inputs["states"][:1], inputs["mask"][:1])
    with torch.no_grad():
        keys, values, *_ = model.prefill(word, inputs["image"][:1], inputs["state"][:1])
    decode = TorchParts(model).decode
    tokens, coarse = decode_bands(
        decode, keys.numpy(), values.numpy(), (16, 18), 6, late=lambda: True
    )
    assert tokens.shape == (1, 1, 18)
    assert coarse == pytest.approx(np.repeat(coarse[:, :1], 16, axis=1), abs=1e-6)


def test_image_may_be_float_in_the_same_range(model, inputs):
    word, _ = model.read(inputs["states"], inputs["mask"])
    torch.testing.assert_close(
        model.image_encoder(inputs["image"], word)[0],
        model.image_encoder(inputs["image"].float(), word)[0],
    )


def test_context_features_by_hand():
    features = context_features(torch.tensor([[0.3125, 2.0, 0.0, torch.pi]]))
    assert features.shape == (1, N_CONTEXT_FEATURES)
    half = N_CONTEXT_FEATURES // 2
    wave = TIME_FREQUENCIES_HZ.index(0.8)
    # A quarter of a period of 0.8 Hz; two metres are a quarter of the longest wavelength.
    torch.testing.assert_close(features[0, wave], torch.tensor(1.0))
    torch.testing.assert_close(features[0, len(TIME_FREQUENCIES_HZ)], torch.tensor(1.0))
    torch.testing.assert_close(features[0, -2], torch.tensor(-1.0))  # cos(yaw)
    assert half == features.shape[1] // 2 and features.abs().max() <= 1


def test_the_rhythm_of_waving_is_among_the_features_of_time():
    assert WAVE_HZ in TIME_FREQUENCIES_HZ


def test_normalisation_is_inside():
    torch.manual_seed(0)
    model = Model(TINY, G1).eval()
    inputs = example_inputs(G1, 1)
    word, _ = model.read(inputs["states"], inputs["mask"])
    state = torch.randn_like(inputs["state"])
    plain = model.state_encoder(state, word)
    model.state_encoder.mean.fill_(3.0)
    model.state_encoder.deviation.fill_(2.0)
    moved = state * 2 + 3
    moved[:, STATE_CONTEXT] = state[:, STATE_CONTEXT]
    context = torch.zeros_like(state, dtype=torch.bool)
    context[:, STATE_CONTEXT] = True
    model.state_encoder.mean[STATE_CONTEXT] = 0.0
    model.state_encoder.deviation[STATE_CONTEXT] = 1.0
    torch.testing.assert_close(model.state_encoder(moved, word), plain, rtol=1e-4, atol=1e-5)


def test_chunk_head_starts_near_the_middle_of_the_range(inputs):
    torch.manual_seed(0)
    model = Model(ModelConfig(**{**TINY.__dict__, "head": "chunk"}), G1).eval()
    model.codec.fit(STAND_COMMAND[None, None] + torch.randn(50, 16, 18).numpy() * 0.1)
    commands = act(model, **inputs)[0]
    assert commands.shape == (3, 16, 18)
    assert (commands - torch.tensor(STAND_COMMAND)).abs().max() < 0.5
