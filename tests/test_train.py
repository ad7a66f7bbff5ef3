"""Training on miniature data: batches, augmentation, losses by hand, resuming, and learning."""

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bridge.contract import UserError
from bridge.data.dataset import DatasetWriter
from bridge.data.labels import Labels
from bridge.data.sentences import write_sentences
from policy.model.action_codec import ActionCodec
from policy.model.vla import ModelConfig
from policy.training.batches import (
    Augmentation,
    Demonstrations,
    augment_images,
    encode_once,
    load_demonstrations,
)
from policy.training.checkpoint import CHECKPOINT_FILE, load_model, read_numbers
from policy.training.losses import action_loss, location_loss, status_weights
from policy.training.trainer import TrainConfig, Trainer, train
from robots.g1.embodiment import G1, STAND_COMMAND, STATE_CONTEXT, STATE_DIM, YAW_RATE

COLOURS = {"red": (200, 20, 20), "blue": (20, 20, 200)}
SLOTS = {"colour": tuple(COLOURS), "side": ("left", "right")}
TINY = ModelConfig(
    width=64, layers=1, heads=2, hidden=64, experts=4, word_width=64, instruction_hidden=64,
    image_widths=(16, 16, 16), dropout=0.0,
)  # fmt: skip


def encode(texts):
    """A random but fixed state for every word."""
    states = np.zeros((len(texts), 24, 384), np.float32)
    mask = np.zeros((len(texts), 24), bool)
    for i, text in enumerate(texts):
        for j, word in enumerate(text.split()):
            rng = np.random.default_rng(zlib.crc32(word.encode()))
            states[i, j], mask[i, j] = rng.standard_normal(384), True
    return states, mask


def turn_chunk(yaw_rate: float) -> np.ndarray:
    chunk = np.tile(STAND_COMMAND, (16, 1))
    chunk[:, YAW_RATE] = yaw_rate
    return chunk.astype(np.float16)


def record_squares(folder: Path, episodes: int, frames: int = 8) -> None:
    """Two coloured squares, left and right: turn towards the one that is named."""
    rng = np.random.default_rng(0)
    writer = DatasetWriter(folder, G1, SLOTS)
    instructions = ("turn to the red one", "turn to the blue one")
    for _ in range(episodes):
        images = rng.integers(90, 140, (frames, 96, 96, 3)).astype(np.uint8)
        commands = np.empty((frames, 2, 16, 18), np.float16)
        location = np.empty((frames, 2, 2), np.float16)
        for t in range(frames):
            red_left = rng.random() < 0.5
            for i, colour in enumerate(COLOURS.values()):
                left = red_left == (i == 0)
                y, x = rng.integers(10, 70), rng.integers(4, 28) + (0 if left else 48)
                images[t, y : y + 16, x : x + 16] = colour
                location[t, i] = (x + 8) / 96, (y + 8) / 96
                commands[t, i] = turn_chunk(0.6 if left else -0.6)
        state = rng.standard_normal((frames, STATE_DIM)).astype(np.float32)
        labels = Labels(
            instructions=instructions,
            instruction=np.tile(np.array([0, 1], np.int32), (frames, 1)),
            context=np.zeros((frames, 2, 4), np.float32),
            commands=commands,
            status=np.zeros((frames, 2), np.int8),
            slots=np.tile(np.array([[0, -1], [1, -1]], np.int8), (frames, 1, 1)),
            target_location=location,
        )
        action = np.tile(STAND_COMMAND, (frames, 1))
        writer.add_episode(
            {"head": images}, state, action, instructions[0], np.zeros((frames, 36)), {}, labels
        )
    writer.finalize()


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("squares")
    record_squares(folder, episodes=40)
    return folder


@pytest.fixture(scope="module")
def data(squares) -> Demonstrations:
    return load_demonstrations([squares], encode, held_out=0.1)


def config(**changes) -> TrainConfig:
    settings = {
        "steps": 4, "batch_size": 16, "threads": 1, "model": TINY, "warmup_share": 0.5,
        "perception_fraction": 0.0,
    }  # fmt: skip
    return TrainConfig(**(settings | changes))


def test_data_keeps_labels_with_their_frames(data):
    assert data.images.shape == (320, 96, 96, 3)
    assert data.n_labels == 2 * 36 * 8 and data.n_held_out == 2 * 4 * 8
    batch = data.batch(np.array([10, 11]), np.random.default_rng(0), None)
    assert torch.equal(batch.image[0], batch.image[1])
    assert batch.slots.tolist() == [[1, 0], [2, 0]]
    assert batch.commands[0, 0, YAW_RATE] == -batch.commands[1, 0, YAW_RATE]
    assert batch.states.shape == (2, 5, 384)  # five words: no more padding than needed
    assert np.abs(batch.image[0].numpy() - data.images[5]).max() == 0


def test_same_seed_same_batch(data):
    first = data.draw(np.random.default_rng(5), 8, Augmentation())
    second = data.draw(np.random.default_rng(5), 8, Augmentation())
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_augmentation_keeps_the_colours_apart(data):
    images = np.zeros((200, 96, 96, 3), np.uint8)
    images[:] = (220, 110, 20)  # orange
    lit = augment_images(np.random.default_rng(0), images, Augmentation())
    assert lit.min() >= 0 and lit.max() <= 255
    red, green, blue = np.moveaxis(lit[:, 48, 48], -1, 0)
    assert (red > green + 40).all() and (green > blue + 20).all()
    none = Augmentation(brightness=0, contrast=0, channel=0, shift_px=0)
    assert np.array_equal(augment_images(np.random.default_rng(0), data.images[:3], none),
                          data.images[:3].astype(np.float32))  # fmt: skip


def test_half_of_what_the_picture_alone_decides_is_mirrored(data):
    slots = (("colour", ("red", "blue")), ("action", ("turn", "go_to")))
    classes = np.array([[0, 1]] * 8 + [[0, 0]] * 2)  # ten labels of "red", two of them turns
    location = data.target_location[: len(classes)].copy()
    location[0] = -1  # not seen
    turning = replace(data, slot_names=slots, slots=classes, target_location=location, n_held_out=0)
    always = Augmentation(
        brightness=0, contrast=0, channel=0, shift_px=0, noise=0, elapsed_s=0, odometry=0,
        hidden_command=0, dropped_words=0, mirrored=1.0, other_context=0,
    )  # fmt: skip
    rng, labels = np.random.default_rng(0), np.arange(10)
    plain, mirrored = turning.batch(labels, rng, None), turning.batch(labels, rng, always)
    for i in labels:
        sign = -1 if 0 < i < 8 else 1
        image = plain.image[i].flip(1) if sign < 0 else plain.image[i]
        assert torch.equal(mirrored.image[i].byte(), image)
        assert torch.equal(mirrored.commands[i, :, YAW_RATE], sign * plain.commands[i, :, YAW_RATE])
        if sign < 0:
            assert mirrored.target_location[i, 0] == 1 - plain.target_location[i, 0]
            assert torch.equal(mirrored.state[i, 0], plain.state[i, 6]), "left hip from right hip"


def test_time_and_odometry_are_exchanged_where_the_picture_alone_decides(data):
    slots = (("action", ("turn", "go_to")), ("colour", ("red", "blue")))
    classes = np.array([[1, 0]] * 30 + [[0, 0]] * 30)
    context = np.arange(240, dtype=np.float32).reshape(60, 4)
    turning = replace(data, slot_names=slots, slots=classes, context=context, n_held_out=0)
    always = Augmentation(
        noise=0, elapsed_s=0, odometry=0, hidden_command=0, mirrored=0, other_context=1
    )
    batch = turning.batch(np.arange(60), np.random.default_rng(0), always)
    found = batch.state[:, STATE_CONTEXT].numpy()
    assert np.array_equal(found[30:], context[30:]), "turns need what was"
    assert (found[:30] != context[:30]).any(axis=1).mean() > 0.9
    assert {tuple(row) for row in found[:30]} <= {tuple(row) for row in context}, "whole contexts"


def test_emphasised_actions_are_drawn_more_often(data):
    slots = (("action", ("turn", "wave")), ("colour", ("red", "blue")))
    classes = np.zeros((len(data.frame), 2), np.int64)
    classes[::10, 0] = 1
    some = replace(data, slot_names=slots, slots=classes)
    some.emphasise(("wave",), 3.0)
    batch = some.draw(np.random.default_rng(0), 4000, None)
    share = float((batch.slots[:, 0] == 2).float().mean())
    assert share == pytest.approx(3 / 12, abs=0.03)  # one in ten, three times: 3 to 9


def test_action_loss_is_least_at_the_right_bin():
    tokens = torch.full((1, 6, 18), 100)
    found = []
    for peak in (90, 99, 100, 101, 200):
        logits = -0.5 * (torch.arange(256.0) - peak).square().expand(1, 6, 18, 256)
        found.append(float(action_loss(logits, tokens, ActionCodec(G1))))
    assert min(found) == found[2]
    assert found[1] == pytest.approx(found[3], rel=1e-4)
    assert found[0] < found[4]


def test_rare_statuses_weigh_more():
    status = torch.tensor([0] * 90 + [1] * 10)
    weights = status_weights(status)
    assert weights[0] == 1
    assert weights[1] == pytest.approx(3.0)


def changed(before: dict, model: torch.nn.Module) -> set[str]:
    """The parts of a model, by the beginning of their names, that differ from a state before."""
    return {
        name.split(".")[0]
        for name, tensor in model.state_dict().items()
        if not torch.equal(tensor, before[name])
    }


def test_instruction_and_image_encoder_learn_first(data, tmp_path):
    trainer = Trainer(config(perception_fraction=0.5), data, tmp_path)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    assert set(trainer.train_step()) == {"slots", "location", "total"}
    assert changed(before, trainer.model) == {"instruction_encoder", "image_encoder"}
    trainer.step = 2
    assert "action" in trainer.train_step()
    assert {"blocks", "state_encoder", "status"} <= changed(before, trainer.model)


def test_sentences_without_pictures_teach_words_alone(data, squares, tmp_path):
    spoken = ("towards the crimson one", "towards the navy one")
    write_sentences(squares, spoken, np.array([[0, -1], [1, -1]]))
    told = load_demonstrations([squares], encode, held_out=0.1)
    (squares / "labels/sentences.npz").unlink()
    assert [told.text[i] for i in told.sentences] == list(spoken)
    states, mask, classes = told.draw_sentences(np.random.default_rng(0), 20, Augmentation())
    assert states.shape[0] == mask.shape[0] == 20 and {*map(tuple, classes.tolist())} == {
        (1, 0), (2, 0)
    }  # fmt: skip
    trainer = Trainer(config(words_only=True), told, tmp_path)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    assert set(trainer.train_step()) == {"reading", "total"}
    assert changed(before, trainer.model) == {"instruction_encoder"}
    assert torch.equal(
        before["instruction_encoder.meaning.weight"],
        trainer.model.instruction_encoder.meaning.weight,
    )
    with pytest.raises(UserError, match="sentences"):
        Trainer(config(words_only=True), data, tmp_path / "none").train_step()


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_two_steps_then_resume_equal_four(data, tmp_path, share):
    settings = config(quantized_share=share, perception_fraction=0.5 - share / 2)
    whole = Trainer(settings, data, tmp_path / "whole")
    for _ in range(4):
        whole.train_step()
    first = Trainer(settings, data, tmp_path / "parts")
    for _ in range(2):
        first.train_step()
    first.save()
    second = Trainer(settings, data, tmp_path / "parts")
    assert second.step == 2
    for _ in range(2):
        second.train_step()
    for kind in ("model", "average"):
        expected, found = getattr(whole, kind).state_dict(), getattr(second, kind).state_dict()
        for name, tensor in expected.items():
            assert torch.equal(tensor, found[name]), (kind, name)


def test_learning_rate_and_rounding_follow_the_clock(data, tmp_path):
    trainer = Trainer(config(minutes=1.0), data, tmp_path)
    trainer.step, trainer.elapsed_s = 1000, 30.0
    assert trainer.progress == 0.5
    # Half of the cosine between the peak and a fiftieth of it.
    assert trainer._rate(trainer.progress) == pytest.approx(1e-3 * (0.02 + 0.98 / 2))
    trainer.elapsed_s = 59.0
    bias = trainer.model.blocks[0].experts.selection_bias.clone()
    trainer.train_step()
    assert trainer.model.blocks[0].experts.quantized
    assert (trainer.model.blocks[0].experts.selection_bias == bias).all()


def test_words_decide(data, tmp_path):
    """Trained on squares: where the image alone would go depends on the colour that is named."""
    seeing = replace(TINY, image_widths=(32, 32, 32))
    settings = config(steps=220, batch_size=32, learning_rate=4e-3, model=seeing)
    trainer = Trainer(settings, data, tmp_path)
    first = float(trainer.train_step()["velocity"])
    while trainer.progress < 1:
        last = float(trainer.train_step()["velocity"])
    assert last < 0.5 * first
    labels = np.arange(data.n_labels, data.n_labels + data.n_held_out)
    batch = data.batch(labels, np.random.default_rng(0), None)
    word, _ = trainer.average.read(batch.states, batch.mask)
    # Labels of a frame come in pairs, red then blue: exchanging them must exchange the turns.
    for words, sign in ((word, 1), (word.unflatten(0, (-1, 2)).flip(1).flatten(0, 1), -1)):
        velocity = trainer.average.velocity_head(
            trainer.average.prefix(words, *batch[2:4])[0][:, 2]
        )
        turn = sign * velocity[:, YAW_RATE]
        right = (turn > 0) == (batch.commands[:, 8, YAW_RATE] > 0)
        assert right.float().mean() > 0.9
    cell = trainer.average.prefix(word, *batch[2:4])[1][:, :-1].argmax(-1)
    found = torch.stack([cell % 12, cell // 12], dim=-1) + 0.5
    assert ((found - 12 * batch.target_location).abs().amax(-1) < 2).float().mean() > 0.9


def test_location_loss_by_hand():
    location = torch.tensor([[0.5, 0.125], [-1, -1], [torch.nan, torch.nan]])
    # A picture of 4 x 4 cells and nowhere: all logits equal, whatever is right.
    logits = torch.zeros(3, 17, requires_grad=True)
    loss = location_loss(logits, location)
    assert loss.item() == pytest.approx(np.log(17))
    loss.backward()
    wanted = -logits.grad * 2 + torch.softmax(logits.detach(), -1)
    # Between the columns 1 and 2, on the line of row 0.
    assert wanted[0, 1] == pytest.approx(float(wanted[0, 2])) and wanted[0].argmax() in (1, 2)
    assert wanted[1, 16] == pytest.approx(1.0)
    assert torch.equal(logits.grad[2], torch.zeros(17)), "about no object"
    assert location_loss(logits[2:], location[2:]).item() == 0.0


def test_run_leaves_a_model_and_its_numbers(squares, tmp_path):
    checkpoint = train([squares], tmp_path, encode, config(steps=2, evaluate_steps=1))
    assert checkpoint == tmp_path / CHECKPOINT_FILE
    model = load_model(tmp_path)
    assert dict(model.config.slots) == SLOTS
    assert read_numbers(checkpoint)["step"] == 2
    assert {path.name for path in tmp_path.iterdir()} >= {"config.json", "evaluation.json"}
    assert list(tmp_path.glob("events.out.tfevents.*"))
    again = train([squares], tmp_path, encode, config(steps=3))
    assert read_numbers(again)["step"] == 3


def test_a_round_on_new_data_keeps_the_normalisation(data, tmp_path):
    first = Trainer(config(), data, tmp_path / "first")
    first.model.state_encoder.mean.fill_(0.125)
    first.train_step()
    first.save()
    second = Trainer(config(start=tmp_path / "first"), data, tmp_path / "second")
    assert (second.model.state_encoder.mean == 0.125).all()
    assert second.step == 0
    other = replace(data, slot_names=(("colour", ("red",)),))
    with pytest.raises(UserError, match="slots"):
        Trainer(config(start=tmp_path / "first"), other, tmp_path / "third")


def test_chunk_head_and_blind_baselines_train(data, tmp_path):
    for i, changes in enumerate(
        [{"model": replace(TINY, head="chunk")}, {"no_text": True}, {"no_image": True}]
    ):
        trainer = Trainer(config(**changes), data, tmp_path / str(i))
        assert np.isfinite(float(trainer.train_step()["total"]))
        assert "base_vel_x_m_s_error_18" in trainer.evaluate(8)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        load_model(tmp_path)
    (tmp_path / CHECKPOINT_FILE).write_bytes(b"nonsense")
    with pytest.raises(UserError, match="no checkpoint"):
        load_model(tmp_path)


def test_what_was_encoded_before_is_not_encoded_again(tmp_path):
    asked: list[str] = []

    def counting(texts):
        asked.extend(texts)
        return encode(texts)

    first = encode_once(["red one", "blue one"], counting, tmp_path / "words.npz")
    states, mask = encode_once(["green", "blue one"], counting, tmp_path / "words.npz")
    assert asked == ["red one", "blue one", "green"]
    assert np.array_equal(states[1], first[0][1]) and np.array_equal(mask[1], first[1][1])
    np.testing.assert_allclose(states[0], encode(["green"])[0][0], atol=2e-3)
    content = (tmp_path / "words.npz").read_bytes()
    (tmp_path / "words.npz").write_bytes(content[:-30])
    with pytest.raises(UserError, match=r"words\.npz cannot be read \(.*: delete it"):
        encode_once(["green"], counting, tmp_path / "words.npz")
