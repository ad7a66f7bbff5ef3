"""Recorded observations of the data that a run was trained on, to compare policies with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bridge.contract import UserError
from bridge.data.dataset import episode_count, read_embodiment, read_episode
from bridge.files import read_json, reading
from policy.export.parity import Sample
from policy.runtime.legacy import release_0_1

MOST_EPISODES = 20


def data_of_run(run: Path) -> list[Path]:
    """The data sets that a run was trained on, as its configuration remembers them."""
    path, remedy = run / "config.json", "name a folder that `hitogata train` wrote"
    config = read_json(path, remedy, dict[str, Any])
    with reading(path, remedy):
        return [Path(folder) for folder in config["data"]]


def recorded_samples(folders: list[Path], n: int) -> list[Sample]:
    """`n` questions from the data sets' last episodes: frames evenly apart, with their labels."""
    folder = folders[-1]
    count = episode_count(folder)
    if not count:
        raise UserError(f"{folder} holds no episode: record some, or name other data with --data")
    body = read_embodiment(folder, unnamed=release_0_1())
    chosen = range(max(0, count - MOST_EPISODES), count)
    rng = np.random.default_rng(0)
    samples: list[Sample] = []
    for index, share in zip(chosen, np.array_split(np.arange(n), len(chosen)), strict=True):
        episode = read_episode(folder, index)
        labels = episode.labels
        for frame in np.linspace(0, len(episode.state) - 1, len(share)).astype(int):
            k = int(rng.integers(labels.instruction.shape[1]))
            state = episode.state[frame].copy()
            state[body.context] = labels.context[frame, k]
            text = labels.instructions[int(labels.instruction[frame, k])]
            samples.append(Sample(text, episode.images[body.cameras[0].name][frame], state))
    return samples
