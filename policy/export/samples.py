"""Recorded observations of the data that a run was trained on, to compare policies with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from bridge.contract import UserError
from bridge.data.dataset import episode_count, read_embodiment, read_episode
from policy.export.parity import Sample
from policy.runtime.legacy import release_0_1

MOST_EPISODES = 20


def data_of_run(run: Path) -> list[Path]:
    """The data sets that a run was trained on, as its configuration remembers them."""
    path = run / "config.json"
    try:
        return [Path(folder) for folder in json.loads(path.read_text(encoding="utf-8"))["data"]]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{run} is no run: name a folder that `hitogata train` wrote") from error


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
