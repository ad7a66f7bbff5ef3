"""Datasets: what is written is read back, survives a kill, and has LeRobot's layout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from bridge import files
from bridge.contract import UserError
from bridge.data.dataset import (
    DatasetWriter,
    episode_count,
    read_embodiment,
    read_episode,
    read_episodes,
    read_slots,
)
from bridge.data.labels import Labels, write_labels
from bridge.data.stats import image_stats, merge_stats, vector_stats
from bridge.png import decode_png, encode_png
from robots.g1.embodiment import G1, IMAGE_SIZE, STATE_DIM

SLOTS = {"action": ("stop", "go_to"), "colour": ("red", "blue")}


def make_labels(
    rng: np.random.Generator, length: int, per_frame: int = 2, fields: int = 18
) -> Labels:
    shape = (length, per_frame)
    return Labels(
        instructions=("go to the ball", "geh zum blauen Würfel"),
        instruction=rng.integers(0, 2, shape).astype(np.int32),
        context=rng.normal(size=(*shape, 4)).astype(np.float32),
        commands=rng.normal(size=(*shape, 16, fields)).astype(np.float16),
        status=rng.integers(0, 4, shape).astype(np.int8),
        slots=rng.integers(-1, 2, (*shape, len(SLOTS))).astype(np.int8),
        target_location=rng.uniform(0, 1, (*shape, 2)).astype(np.float16),
    )


def make_episode(rng: np.random.Generator, length: int = 3, task: str = "go") -> dict:
    return {
        "images": {
            "head": rng.integers(0, 256, (length, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
        },
        "state": rng.normal(size=(length, STATE_DIM)).astype(np.float32),
        "action": rng.normal(size=(length, 18)).astype(np.float32),
        "task": task,
        "qpos": rng.normal(size=(length, 36)),
        "scene": {"objects": [{"shape": "ball", "size_m": 0.1}]},
        "labels": make_labels(rng, length),
    }


def assert_labels_equal(found: Labels, expected: Labels) -> None:
    assert found.instructions == expected.instructions
    for field in fields(Labels)[1:]:
        np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name))
        assert getattr(found, field.name).dtype == getattr(expected, field.name).dtype


def test_an_episode_comes_back_as_it_was_written(tmp_path):
    rng = np.random.default_rng(0)
    written = make_episode(rng)
    writer = DatasetWriter(tmp_path, G1, SLOTS)
    assert writer.add_episode(**written) == 0
    episode = read_episode(tmp_path, 0)
    np.testing.assert_array_equal(episode.images["head"], written["images"]["head"])
    for name in ("state", "action", "qpos"):
        np.testing.assert_array_equal(getattr(episode, name), written[name])
    assert episode.task == "go" and episode.scene == written["scene"]
    assert_labels_equal(episode.labels, written["labels"])
    replaced = make_labels(rng, 3, per_frame=5)
    write_labels(tmp_path, 0, replaced)
    assert_labels_equal(read_episode(tmp_path, 0).labels, replaced)


def test_layout_is_lerobot_v3(tmp_path):
    rng = np.random.default_rng(1)
    writer = DatasetWriter(tmp_path, G1, SLOTS)
    for length, task in ((3, "go"), (2, "wave"), (4, "go")):
        writer.add_episode(**make_episode(rng, length, task))
    writer.finalize()
    info = json.loads((tmp_path / "meta/info.json").read_text(encoding="utf-8"))
    assert info["codebase_version"] == "v3.0" and info["fps"] == 10
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 9, 2)
    assert info["splits"] == {"train": "0:3"}
    assert info["features"]["observation.images.head"]["dtype"] == "image"
    assert len(info["features"]["observation.state"]["names"]) == STATE_DIM
    tasks = pq.read_table(tmp_path / "meta/tasks.parquet")
    assert tasks.to_pylist() == [
        {"task_index": 0, "task": "go"},
        {"task_index": 1, "task": "wave"},
    ]
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    data = pq.read_table(tmp_path / "data/chunk-000/file-002.parquet")
    assert set(data.column_names) == set(info["features"])
    assert data["index"].to_pylist() == [5, 6, 7, 8]
    assert data["episode_index"].to_pylist() == [2] * 4
    assert data["task_index"].to_pylist() == [0] * 4
    np.testing.assert_allclose(data["timestamp"].to_numpy(), [0, 0.1, 0.2, 0.3], rtol=1e-6)
    picture = data["observation.images.head"][0].as_py()
    assert picture["bytes"][:4] == b"\x89PNG" and picture["path"] is None
    row = pq.read_table(tmp_path / "meta/episodes/chunk-000/file-002.parquet").to_pylist()[0]
    assert (row["dataset_from_index"], row["dataset_to_index"], row["length"]) == (5, 9, 4)
    assert (row["data/chunk_index"], row["data/file_index"]) == (0, 2)
    assert row["tasks"] == ["go"]


def test_stats_of_the_whole_are_those_of_all_frames(tmp_path):
    rng = np.random.default_rng(2)
    writer = DatasetWriter(tmp_path, G1, SLOTS)
    for length in (3, 7):
        writer.add_episode(**make_episode(rng, length))
    writer.finalize()
    stats = json.loads((tmp_path / "meta/stats.json").read_text(encoding="utf-8"))
    episodes = list(read_episodes(tmp_path))
    state = np.concatenate([episode.state for episode in episodes]).astype(float)
    pixels = np.concatenate([episode.images["head"] for episode in episodes]).reshape(-1, 3) / 255
    found = stats["observation.state"]
    np.testing.assert_allclose(found["mean"], state.mean(0), rtol=1e-9)
    np.testing.assert_allclose(found["std"], state.std(0), rtol=1e-9)
    np.testing.assert_allclose(found["min"], state.min(0))
    assert found["count"] == [10]
    image = stats["observation.images.head"]
    assert np.shape(image["mean"]) == (3, 1, 1)
    np.testing.assert_allclose(np.ravel(image["mean"]), pixels.mean(0), rtol=1e-9)
    np.testing.assert_allclose(np.ravel(image["std"]), pixels.std(0), rtol=1e-9)


def test_statistics_by_hand():
    left, right = vector_stats(np.array([[0.0], [2.0]])), vector_stats(np.array([[10.0]]))
    assert left["mean"] == [1.0] and left["std"] == [1.0] and left["q50"] == [1.0]
    merged = merge_stats([left, right])
    assert merged["mean"] == pytest.approx([4.0]) and merged["count"] == [3]
    np.testing.assert_allclose(merged["std"], [np.std([0, 2, 10])])
    black_and_white = np.zeros((1, 2, 1, 3), np.uint8)
    black_and_white[0, 1] = 255
    found = image_stats(black_and_white)
    assert found["min"] == [[[0.0]]] * 3 and found["max"] == [[[1.0]]] * 3
    assert found["mean"] == [[[0.5]]] * 3 and found["q99"] == [[[1.0]]] * 3


def test_reopening_continues_and_repairs(tmp_path):
    rng = np.random.default_rng(3)
    first = DatasetWriter(tmp_path, G1, SLOTS)
    first.add_episode(**make_episode(rng, 3, "go"))  # never finalized, as after a crash
    second = DatasetWriter(tmp_path, G1, SLOTS)
    assert second.add_episode(**make_episode(rng, 2, "wave")) == 1
    second.finalize()
    assert [episode.task for episode in read_episodes(tmp_path)] == ["go", "wave"]
    assert (
        json.loads((tmp_path / "meta/info.json").read_text(encoding="utf-8"))["total_frames"] == 5
    )
    assert read_slots(tmp_path) == SLOTS
    with pytest.raises(UserError, match="choose a new folder"):
        DatasetWriter(tmp_path, G1, {"action": ("stop",)})


def test_datasets_of_release_0_1_name_no_robot(tmp_path):
    writer = DatasetWriter(tmp_path, G1, SLOTS)
    writer.add_episode(**make_episode(np.random.default_rng(3)))
    writer.finalize()
    path = tmp_path / "meta/info.json"
    info = json.loads(path.read_text(encoding="utf-8"))
    assert read_embodiment(tmp_path, unnamed=G1) == G1
    del info["hitogata"]["embodiment"]
    path.write_text(json.dumps(info), encoding="utf-8")
    assert read_embodiment(tmp_path, unnamed=G1) is G1
    again = DatasetWriter(tmp_path, G1, SLOTS)
    assert again.add_episode(**make_episode(np.random.default_rng(4))) == 1


def test_episode_cut_before_its_row_does_not_count(tmp_path, monkeypatch):
    rng = np.random.default_rng(4)
    writer = DatasetWriter(tmp_path, G1, SLOTS)
    writer.add_episode(**make_episode(rng, 3, "go"))

    def fail(*_):
        raise UserError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("bridge.data.dataset.write_labels", fail)
        with pytest.raises(UserError):
            writer.add_episode(**make_episode(rng, 3, "lost"))
    assert episode_count(tmp_path) == 1
    writer.add_episode(**make_episode(rng, 2, "kept"))
    assert [episode.task for episode in read_episodes(tmp_path)] == ["go", "kept"]
    writer.finalize()
    assert json.loads((tmp_path / "meta/info.json").read_text(encoding="utf-8"))["total_tasks"] == 2


def test_kill_while_recording_loses_the_open_episode_at_most(tmp_path):
    record = (
        "import sys, numpy as np; sys.path.insert(0, 'tests')\n"
        "from test_dataset import G1, DatasetWriter, SLOTS, make_episode\n"
        "writer = DatasetWriter(sys.argv[1], G1, SLOTS)\n"
        "episode = make_episode(np.random.default_rng(0), 4)\n"
        "while True: print(writer.add_episode(**episode), flush=True)\n"
    )
    root = Path(__file__).parent.parent
    process = subprocess.Popen(
        [sys.executable, "-c", record, str(tmp_path)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    confirmed = 1 + len(process.stdout.readlines())
    process.wait()
    process.stdout.close()
    assert episode_count(tmp_path) in (confirmed, confirmed + 1)
    assert all(len(episode.images["head"]) == 4 for episode in read_episodes(tmp_path))


def test_wrong_shapes_are_refused(tmp_path):
    rng = np.random.default_rng(5)
    writer = DatasetWriter(tmp_path, G1, SLOTS)
    episode = make_episode(rng)
    for name in ("state", "action", "qpos"):
        with pytest.raises(ValueError):
            writer.add_episode(**{**episode, name: episode[name][:-1]})
    with pytest.raises(ValueError, match="state is float64"):
        writer.add_episode(**{**episode, "state": episode["state"].astype(float)})
    assert episode_count(tmp_path) == 0


@pytest.mark.parametrize("name", ["state", "action", "qpos"])
def test_what_is_no_number_is_refused_before_anything_is_written(tmp_path, name):
    writer = DatasetWriter(tmp_path, G1, SLOTS)
    episode = make_episode(np.random.default_rng(5))
    episode[name][1, 2] = np.nan
    with pytest.raises(UserError, match=r"^frame 1 has a .* not finite"):
        writer.add_episode(**episode)
    assert not [*tmp_path.rglob("*.parquet")]
    writer.finalize()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("instruction", 9999),
        ("instruction", -1),
        ("slots", 99),
        ("slots", 2),
        ("slots", -2),
        ("status", 4),
        ("commands", np.nan),
        ("context", np.inf),
        ("target_location", np.inf),
    ],
)
def test_labels_out_of_range_are_refused_before_anything_is_written(tmp_path, field, value):
    writer = DatasetWriter(tmp_path, G1, SLOTS)
    episode = make_episode(np.random.default_rng(5))
    getattr(episode["labels"], field)[2, 0] = value
    with pytest.raises(UserError, match=r"^frame 2 has a "):
        writer.add_episode(**episode)
    assert not [*tmp_path.rglob("*.parquet")]


def test_an_episode_that_spoilt_the_statistics_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("bridge.data.dataset.check_values", lambda *_: None)  # as in release 0.1
    writer = DatasetWriter(tmp_path, G1, SLOTS)
    writer.add_episode(**make_episode(np.random.default_rng(5)))
    episode = make_episode(np.random.default_rng(6))
    episode["state"][0, 0] = np.nan
    writer.add_episode(**episode)
    with pytest.raises(UserError, match=r"state of episode 1 in .* is not finite"):
        DatasetWriter(tmp_path, G1, SLOTS)


def test_the_number_of_a_deleted_episode_is_not_given_again(tmp_path):
    writer = DatasetWriter(tmp_path, G1, SLOTS)
    for seed in range(3):
        writer.add_episode(**make_episode(np.random.default_rng(seed)))
    (tmp_path / "meta/episodes/chunk-000/file-001.parquet").unlink()
    with pytest.raises(UserError, match="lacks episode 1"):
        DatasetWriter(tmp_path, G1, SLOTS)


def test_a_folder_without_a_dataset_names_the_remedy(tmp_path):
    with pytest.raises(UserError, match="hitogata collect"):
        list(read_episodes(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    "name",
    [
        "meta/info.json",
        "meta/episodes/chunk-000/file-000.parquet",
        "data/chunk-000/file-000.parquet",
        "sim/episode-000000.npz",
        "labels/episode-000000.npz",
    ],
)
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_cut_file_is_named_with_the_remedy(tmp_path, name, share):
    writer = DatasetWriter(tmp_path, G1, SLOTS)
    writer.add_episode(**make_episode(np.random.default_rng(3)))
    writer.finalize()
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        UserError, match=rf"{name} cannot be read \(.*: copy the data set"
    ) as caught:
        list(read_episodes(tmp_path))
    assert "\n" not in str(caught.value)


def test_labels_keep_the_names_of_release_0_1_in_the_file(tmp_path):
    writer = DatasetWriter(tmp_path, G1, SLOTS)
    writer.add_episode(**make_episode(np.random.default_rng(3)))
    assert set(np.load(tmp_path / "labels/episode-000000.npz")) == {
        *("instructions", "instruction", "context", "commands", "status", "slots", "place")
    }


def test_wrong_values_of_info_are_told_by_field(tmp_path):
    (tmp_path / "meta").mkdir()
    for wrong, name in (({"slots": 3}, "hitogata.slots is 3"), ({"embodiment": {}}, "embodiment")):
        (tmp_path / "meta/info.json").write_text(json.dumps({"hitogata": wrong}), encoding="utf-8")
        with pytest.raises(UserError, match=rf"info\.json cannot be read \(.*{name}"):
            read_embodiment(tmp_path, unnamed=G1)


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 5, 3), (96, 96, 3)])
def test_png_is_lossless(shape):
    image = np.random.default_rng(6).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(decode_png(encode_png(image)), image)


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "note.txt"
    files.write_text(path, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"No space left on device.*free some space"):
        files.write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "old" and list(path.parent.iterdir()) == [path]


def test_files_are_no_more_open_than_the_umask_lets_them(tmp_path):
    for umask, mode in ((0o077, 0o600), (0o022, 0o644), (0, 0o644)):
        before = os.umask(umask)
        try:
            files.write_text(tmp_path / "note.txt", "mine")
        finally:
            os.umask(before)
        assert (tmp_path / "note.txt").stat().st_mode & 0o777 == mode


def test_sha256(tmp_path):
    files.write_bytes(tmp_path / "abc", b"abc")
    assert files.sha256_of(tmp_path / "abc").startswith("ba7816bf8f01cfea")
