"""What happens around a model's parts: instruction, checks, decoding loop, answer."""

import dataclasses

import numpy as np
import pytest

from bridge.contract import InferenceStats, Observation, Status, UserError
from policy.runtime.onnx_policy import UNINFORMATIVE_INSTRUCTION, GraphPolicy
from robots.g1.embodiment import CHUNK_STEPS, COMMAND_DIM, G1, STATE_DIM

BANDS = 6
SLOTS = {"action": ("stop", "wave"), "colour": ("red", "blue", "green")}


def observation(seed: int = 0) -> Observation:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)
    return Observation(G1, 12.5, rng.normal(size=STATE_DIM).astype(np.float32), {"head": image})


class StubEncoder:
    """Counts what it is asked; the state of a text is its length."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode(self, texts: list[str], cut: bool = False) -> tuple[np.ndarray, np.ndarray]:
        if not cut and max(map(len, texts)) > 99:
            raise UserError("longer than is heard")
        self.texts += texts
        lengths = np.array([[[len(text)]] for text in texts], np.float32)
        return lengths, np.ones((len(texts), 1), bool)


class StubParts:
    """Band b of a chunk holds 2 ** b everywhere; token b holds b plus what came before."""

    status = np.array([[0.0, np.log(3.0), 0.0, 0.0]], np.float32)

    def __init__(self) -> None:
        self.steps: list[tuple[list[int], list[bool], list[int]]] = []
        self.seen: list[np.ndarray] = []
        self.in_view: dict[int, float] = {}

    def words(self, states: np.ndarray, mask: np.ndarray, prior: np.ndarray) -> list[np.ndarray]:
        """Certain of a wave, and of no colour; a longer text hesitates between red and green."""
        doubt = [0.0, 0.6, 0.0, 0.4] if states[0, 0, 0] > 10 else [1.0, 0.0, 0.0, 0.0]
        chances = np.array([[0.0, 0.0, 1.0, *doubt]], np.float32)
        classes = np.array([[2, (np.log(chances[0, 3:] + 1e-9) + prior[0, 3:]).argmax()]])
        return [classes.astype(np.float32), classes, chances]

    def prefill(self, word: np.ndarray, image: np.ndarray, state: np.ndarray) -> list[np.ndarray]:
        self.seen.append(image)
        experts = np.array([[[0.25, 0.75], [1.0, 0.0]]])
        sight = np.array([self.in_view.get(int(word[0, 1]), 0.0)], np.float32)
        return [np.zeros(1), np.zeros(1), self.status, experts, sight]

    def decode(self, bands, previous, known, commands, keys, values) -> list[np.ndarray]:
        self.steps.append((bands.tolist(), known[0].tolist(), previous[0, :, 0].tolist()))
        tokens = np.broadcast_to(10 + bands[None, :, None], (1, len(bands), COMMAND_DIM))
        return [tokens, commands + np.float32((2.0**bands).sum()), keys, values]


def policy(**options) -> tuple[GraphPolicy, StubParts, StubEncoder]:
    parts, encoder = StubParts(), StubEncoder()
    return GraphPolicy(parts, encoder, G1, SLOTS, BANDS, **options), parts, encoder  # type: ignore[arg-type]


def test_an_answer() -> None:
    made, parts, _ = policy()
    chunk = made.act("wave", observation())
    assert chunk.observed_at_s == 12.5
    assert chunk.commands.shape == (CHUNK_STEPS, COMMAND_DIM)
    np.testing.assert_array_equal(chunk.commands, 63)
    assert chunk.status is Status.DONE
    assert chunk.status_probability == pytest.approx(0.5)
    assert chunk.understood == {"action": "wave"}
    assert chunk.stats == InferenceStats(((0.25, 0.75), (1.0, 0.0)), tokens=108, steps=6)
    # Band by band, each told the tokens of the band before it.
    assert parts.steps[0] == ([0], [False], [0])
    assert parts.steps[3] == ([3], [True], [12])


@pytest.mark.parametrize(("tokens", "steps"), [(18, 6), (36, 3), (54, 2), (108, 1)])
def test_more_tokens_per_step_take_fewer_steps(tokens: int, steps: int) -> None:
    made, parts, _ = policy(tokens_per_step=tokens)
    np.testing.assert_array_equal(made.act("wave", observation()).commands, 63)
    assert len(parts.steps) == steps
    for bands, known, previous in parts.steps[1:]:
        assert known == [True] + [False] * (len(bands) - 1)
        assert previous[0] == 10 + bands[0] - 1


@pytest.mark.parametrize("tokens", [0, 1, 17, 72, 109])
def test_impossible_steps_are_refused(tokens: int) -> None:
    with pytest.raises(UserError, match=r"choose \[18, 36, 54, 108\]"):
        policy(tokens_per_step=tokens)


def test_a_passed_deadline_leaves_the_coarse_bands() -> None:
    made, parts, _ = policy(deadline_s=0.0)
    chunk = made.act("wave", observation())
    np.testing.assert_array_equal(chunk.commands, 1)
    assert len(parts.steps) == chunk.stats.steps == 1 and chunk.stats.tokens == 18


def test_an_instruction_is_read_once() -> None:
    made, _, encoder = policy()
    for text in ("wave", "wave ", "stop", "wave"):
        made.act(text, observation())
    assert encoder.texts == ["wave", "stop"]


@pytest.mark.parametrize(
    ("in_view", "colour", "looks"),
    [
        ({}, "red", 2),  # nothing in view: the likelier
        ({3: 0.9}, "green", 2),
        ({3: 0.9, 1: 0.9}, "red", 2),  # both in view: the likelier
        ({1: 0.02, 3: 0.03}, "red", 2),  # specks are no sight
    ],
)
def test_of_what_doubtful_words_may_mean_what_is_in_view_is_meant(in_view, colour, looks) -> None:
    made, parts, encoder = policy()
    parts.in_view = in_view
    for _ in range(2):
        assert made.act("wave at the tangerine one", observation()).understood["colour"] == colour
    assert len(encoder.texts) == 1 and len(parts.seen) == 2 * looks
    parts.seen.clear()
    made.act("wave", observation())
    assert len(parts.seen) == 1, "words without doubt cost one look"


def test_an_instruction_that_is_not_heard_to_its_end_is_refused() -> None:
    made, _, encoder = policy()
    chunk = made.act("walk on " * 13 + "stop", observation())
    assert (chunk.status, chunk.reason) == (Status.REFUSED, "length") and not encoder.texts
    np.testing.assert_array_equal(chunk.commands, np.tile(G1.stand, (CHUNK_STEPS, 1)))


def test_without_text_every_instruction_is_the_same() -> None:
    made, _, encoder = policy(blind="text")
    for text in ("wave", "stop"):
        made.act(text, observation())
    assert encoder.texts == [UNINFORMATIVE_INSTRUCTION]


def test_without_image_every_image_is_the_same() -> None:
    made, parts, _ = policy(blind="image")
    for seed in (0, 1):
        made.act("wave", observation(seed))
    assert len(np.unique(np.stack(parts.seen))) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_observations_that_are_not_finite_are_refused(value: float) -> None:
    made, parts, _ = policy()
    seen = observation()
    seen.joint_pos_rad[3] = value
    with pytest.raises(UserError, match=r"not finite \(left_knee_rad\): check the robot's sensors"):
        made.act("wave", seen)
    assert not parts.seen


def test_images_of_another_size_are_scaled_and_others_refused() -> None:
    made, parts, _ = policy()
    large = np.full((480, 640, 3), 50, np.uint8)
    made.act("wave", dataclasses.replace(observation(), images={"head": large}))
    assert parts.seen[-1].shape == (1, 96, 96, 3) and parts.seen[-1][0, 48, 48, 0] == 50
    grey = {"head": np.zeros((96, 96, 3), np.float32)}
    with pytest.raises(UserError, match="send uint8"):
        made.act("wave", dataclasses.replace(observation(), images=grey))


def test_another_robot_is_refused_by_name() -> None:
    made, _, _ = policy()
    short = dataclasses.replace(G1, commands=G1.commands[:17])
    with pytest.raises(UserError, match="field 18 differs, nothing at the robot and right_wrist_y"):
        made.act("wave", dataclasses.replace(observation(), embodiment=short))


def test_empty_instructions_are_refused() -> None:
    with pytest.raises(UserError, match="empty"):
        policy()[0].act("  ", observation())


@pytest.mark.parametrize(
    ("understood", "reason"),
    [
        ({}, "words"),
        ({"action": "unknown", "colour": "red"}, "words"),
        ({"action": "go_to", "shape": "ball"}, "unseen"),
        ({"action": "wave"}, "unable"),
    ],
)
def test_a_refusal_has_its_reason(monkeypatch, understood: dict, reason: str) -> None:
    made, parts, _ = policy()
    monkeypatch.setattr(made, "_names", lambda classes: understood)
    parts.status = np.array([[0.0, 0.0, 9.0, 0.0]], np.float32)
    assert made.act("wave", observation()).reason == reason
    parts.status = np.array([[9.0, 0.0, 0.0, 0.0]], np.float32)
    assert made.act("wave", observation()).reason == ""


def test_answers_that_are_not_finite_never_leave() -> None:
    made, parts, _ = policy()
    parts.status = np.full((1, 4), np.nan, np.float32)
    with pytest.raises(UserError, match="non-finite"):
        made.act("wave", observation())
