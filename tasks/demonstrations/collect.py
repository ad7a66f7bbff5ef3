"""Collecting demonstrations: many episodes, several processes, a dataset that survives a crash."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bridge.contract import Policy
from bridge.data.dataset import DatasetWriter
from bridge.data.sentences import read_sentences, write_sentences
from robots.g1.embodiment import G1
from tasks.catalogue import CATALOGUE, family
from tasks.demonstrations.record import RecordConfig, Recording, record_episode
from tasks.language.grammar import pick
from tasks.language.intent import SLOTS, UNKNOWN, sample_meaning, sample_wording
from tasks.user_task import add_tasks, check_tasks

MakePolicy = Callable[[], Policy]

OUT_OF_SCOPE_SHARE = 0.06

# One per process, made when the process starts.
_policy: Policy | None = None


@dataclass(frozen=True)
class _Job:
    families: tuple[str, ...]
    seed: int
    index: int
    config: RecordConfig
    walker_path: str | None


def collect(
    folder: Path | str,
    episodes: int,
    families: Sequence[str] | None = None,
    seed: int = 0,
    processes: int = 2,
    policy: MakePolicy | None = None,
    config: RecordConfig = RecordConfig(),
    walker_path: str | None = None,
) -> int:
    """Adds to a dataset until it has `episodes`; returns how many frames were added.

    Without `families` all of the catalogue are asked, the user's own included.

    Episode i depends on `seed` and i alone, so a collection that was stopped goes on as if it had
    not been. The expert acts, or a policy that `policy` (which must pickle) makes in each process;
    then the expert labels what it would have done in its place.
    """
    check_tasks(config.tasks)
    families = families or tuple(CATALOGUE)
    for name in families:
        family(name)
    writer = DatasetWriter(folder, G1, SLOTS)
    missing = range(len(writer), episodes)
    jobs = [_Job(tuple(families), seed, i, config, walker_path) for i in missing]
    frames = 0
    with progress_bar() as bar, workers(min(processes, len(jobs)), policy) as mapped:
        task = bar.add_task("collect", total=episodes, completed=len(writer), note="")
        try:
            for recording in mapped(_record, jobs):
                writer.add_episode(**vars(recording))
                frames += len(recording.state)
                speed = frames / max(bar.tasks[task].elapsed or 0.0, 1e-3)
                bar.update(task, advance=1, note=f"{frames} frames, {speed:.0f}/s")
        finally:
            writer.finalize()
    if read_sentences(folder) is None:
        texts, slots = sample_sentences(families, np.random.default_rng(seed), config.sentences)
        write_sentences(folder, texts, slots)
    return frames


def sample_sentences(
    families: Sequence[str], rng: np.random.Generator, count: int
) -> tuple[list[str], np.ndarray]:
    """Training sentences about anything in some families, and their slots (count, S).

    A few are out of scope.
    """
    texts, slots = [], []
    for _ in range(count):
        out_of_scope = rng.random() < OUT_OF_SCOPE_SHARE
        meaning = UNKNOWN if out_of_scope else sample_meaning(pick(families, rng), rng, partial=0.2)
        texts.append(sample_wording(meaning, rng, "train"))
        slots.append(meaning.slot_vector())
    return texts, np.array(slots, np.int8).reshape(count, len(SLOTS))


def _record(job: _Job) -> Recording:
    add_tasks(job.config.tasks)
    rng = np.random.default_rng([job.seed, job.index])
    return record_episode(job.families, rng, _policy, job.config, job.walker_path)


@contextmanager
def workers(
    processes: int, policy: MakePolicy | None
) -> Iterator[Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]]:
    """A `map` over fresh processes, each with its own policy, that keeps the order.

    With one process everything happens in this one.
    """
    if processes <= 1:
        _start(policy)
        yield map
        return
    # Fresh ones: OpenGL contexts and inference sessions do not survive a fork.
    with multiprocessing.get_context("spawn").Pool(processes, _start, (policy,)) as pool:
        yield pool.imap


def _start(policy: MakePolicy | None) -> None:
    global _policy
    _policy = policy() if policy else None


def own_policy() -> Policy | None:
    """The policy of this worker process."""
    return _policy


def progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
