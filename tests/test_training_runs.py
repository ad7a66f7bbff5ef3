"""Runs of training: gone on with as they were begun, kept as long as they are good."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bridge.contract import UserError
from policy.export.bundle_writer import export_bundle
from policy.runtime.text_encoder import (
    MODEL_FILE,
    SPEC_FILE,
    TEXT_ENCODER_FOLDER,
    TOKENIZER_FILE,
    encoder_id,
)
from policy.training.batches import encode_once, load_demonstrations
from policy.training.checkpoint import CHECKPOINT_FILE, load_model, read_numbers
from policy.training.trainer import Trainer, train
from robots.g1.embodiment import G1
from tests.test_train import config, encode, record_squares


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few")
    record_squares(folder, episodes=3)
    return folder


@pytest.fixture
def run(few: Path, tmp_path: Path) -> Path:
    """A run that is finished."""
    train([few], tmp_path / "run", encode, config(steps=2, evaluate_steps=1, log_steps=1))
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"learning_rate": 2e-3}, "learning_rate (0.001, not 0.002)"),
        ({"batch_size": 8}, "batch_size (16, not 8)"),
        ({"seed": 1}, "seed (0, not 1)"),
        ({"no_text": True}, "no_text (False, not True)"),
        ({"model": replace(config().model, hidden=32)}, "model.hidden (64, not 32)"),
    ],
)
def test_other_options_are_refused_by_name(few: Path, run: Path, changes: dict, told: str) -> None:
    before = (run / "config.json").read_bytes()
    with pytest.raises(UserError) as caught:
        train([few], run, encode, config(steps=2, **changes))
    assert f"another {told}: give that" in str(caught.value) and "--start" in str(caught.value)
    assert (run / "config.json").read_bytes() == before


def test_other_data_is_refused_by_name(few: Path, run: Path, tmp_path: Path) -> None:
    shutil.copytree(few, tmp_path / "other")
    with pytest.raises(UserError, match="another data"):
        train([tmp_path / "other"], run, encode, config(steps=2))


def test_a_longer_run_goes_on_and_loses_no_point_of_its_curves(few: Path, run: Path) -> None:
    before = (run / "config.json").read_bytes()
    train([few], run, encode, config(steps=4, evaluate_steps=1, log_steps=1))
    assert read_numbers(run)["step"] == 4
    assert (run / "config.json").read_bytes() == before
    events = EventAccumulator(str(run))
    events.Reload()
    assert [event.step for event in events.Scalars("train/total")] == [1, 2, 3, 4]


def test_figures_of_few_episodes_say_that_they_are_training_data(few: Path, run: Path) -> None:
    assert (
        json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["on"] == "training_data"
    )
    events = EventAccumulator(str(run))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert any(tag.startswith("training_data/") for tag in tags)
    assert not any(tag.startswith("held_out/") for tag in tags)
    data = load_demonstrations([few], encode, held_out=0.4)
    assert Trainer(config(), data, run / "none").judged_on == "held_out"


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_its_checkpoint(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = Trainer._draw_and_score

    def diverge(self: Trainer, rng: np.random.Generator, progress: float) -> dict:
        found = draw(self, rng, progress)
        return found | {"total": found["total"] * (np.nan if self.step == 2 else 1)}

    monkeypatch.setattr(Trainer, "_draw_and_score", diverge)
    with pytest.raises(UserError, match="no longer finite at step 2"):
        train([few], tmp_path, encode, config(steps=4))
    assert read_numbers(tmp_path)["step"] == 2
    assert all(t.isfinite().all() for t in load_model(tmp_path).state_dict().values())


def test_weights_that_are_not_finite_replace_no_checkpoint(few: Path, tmp_path: Path) -> None:
    trainer = Trainer(config(), load_demonstrations([few], encode), tmp_path)
    trainer.save()
    before = (tmp_path / CHECKPOINT_FILE).read_bytes()
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(torch.inf)
    trainer.save()
    assert (tmp_path / CHECKPOINT_FILE).read_bytes() == before


def test_a_model_that_is_not_finite_is_not_exported(few: Path, tmp_path: Path) -> None:
    model = Trainer(config(), load_demonstrations([few], encode), tmp_path).average
    next(model.parameters()).fill_(torch.nan)
    with pytest.raises(UserError, match="is not finite"):
        export_bundle(model, tmp_path / "bundle", [], {})
    assert not (tmp_path / "bundle").exists()


def test_checkpoints_of_release_0_1_are_for_its_g1(few: Path, tmp_path: Path) -> None:
    data = load_demonstrations([few], encode)
    trainer = Trainer(config(), data, tmp_path)
    trainer.train_step()
    trainer.save()
    moments = trainer.optimizer.state_dict()["state"].keys()
    assert read_numbers(tmp_path)["embodiment"] == G1
    file = tmp_path / CHECKPOINT_FILE
    with safe_open(file, "pt") as content:
        numbers = json.loads(content.metadata()["hitogata"])
        # Copied: the file in which they lie is written anew.
        tensors = {name: content.get_tensor(name).clone() for name in content.keys()}  # noqa: SIM118
    del numbers["embodiment"]
    names = {
        "image_encoder.": "eyes.", "instruction_encoder.": "words.", "state_encoder.": "joints.",
        "velocity_head.": "glance.", ".keypoints.": ".gazes.", ".keypoint_token.": ".gaze_token.",
        ".coordinates.": ".place.",
    }  # fmt: skip
    for now, then in names.items():
        tensors = {name.replace(now, then): tensor for name, tensor in tensors.items()}
    sizes = {"image_widths": "eyes_widths", "image_blocks": "eyes_blocks"}
    sizes |= {"instruction_hidden": "words_hidden"}
    numbers["config"] = {sizes.get(key, key): size for key, size in numbers["config"].items()}
    for contract in ("258f4b459637", "0123456789ab"):
        file.write_bytes(save(tensors, {"hitogata": json.dumps(numbers | {"contract": contract})}))
        if contract.startswith("258"):
            model = load_model(tmp_path)
            assert model.embodiment == G1 and model.config == trainer.average.config
            for name, tensor in trainer.average.state_dict().items():
                assert torch.equal(model.state_dict()[name], tensor), name
            resumed = Trainer(config(), data, tmp_path)
            assert resumed.optimizer.state_dict()["state"].keys() == moments
        else:
            with pytest.raises(UserError, match=r"contract 0123456789ab.*: make it again"):
                load_model(tmp_path)


def test_what_another_encoder_encoded_is_encoded_again(tmp_path: Path) -> None:
    asked: list[str] = []

    def counting(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        asked.extend(texts)
        return encode(texts)

    for encoder in ("a", "a", "b"):
        encode_once(["red one"], counting, tmp_path / "words.npz", encoder)
    assert asked == ["red one"] * 2


def test_the_id_of_an_encoder_changes_with_its_files(tmp_path: Path) -> None:
    for name in (MODEL_FILE, TOKENIZER_FILE, SPEC_FILE):
        shutil.copy(TEXT_ENCODER_FOLDER / name, tmp_path)
    known = encoder_id()
    assert encoder_id(tmp_path) == known and len(known) == 12
    with (tmp_path / TOKENIZER_FILE).open("a", encoding="utf-8") as file:
        file.write(" ")
    assert encoder_id(tmp_path) != known
