"""Collecting demonstrations: many episodes, several processes, a dataset that survives a crash."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bridge.contract import Policy, UserError
from bridge.data.dataset import DatasetWriter
from bridge.data.sentences import read_sentences, write_sentences
from bridge.locks import hold_folder
from bridge.ranges import check_ranges
from robots.g1.embodiment import G1
from tasks.catalogue import Catalogue
from tasks.demonstrations.record import Demonstration, RecordConfig, record_episode
from tasks.language.grammar import pick
from tasks.language.intent import UNKNOWN
from tasks.user_task import check_wordings, read_catalogue
from tasks.workers import Worker, progress_bar, workers

OUT_OF_SCOPE_SHARE = 0.06


@dataclass(frozen=True)
class _Job:
    families: tuple[str, ...]
    seed: int
    index: int
    config: RecordConfig


def collect(
    folder: Path | str,
    episodes: int,
    families: Sequence[str] | None = None,
    seed: int = 0,
    processes: int = 2,
    policy: Callable[[], Policy] | None = None,
    config: RecordConfig = RecordConfig(),
) -> int:
    """Adds to a dataset until it has `episodes`; returns how many frames were added.

    Without `families` all of the catalogue are asked, the user's own included.

    Episode i depends on `seed` and i alone, so a collection that was stopped goes on as if it had
    not been. The expert acts, or a policy that `policy` (which must pickle) makes in each process;
    then the expert labels what it would have done in its place: DAgger (Ross et al. 2011,
    arXiv:1011.0686).
    """
    check_ranges(config)
    catalogue = read_catalogue(config.tasks)
    for task in catalogue.tasks[-len(config.tasks) :] if config.tasks else ():
        check_wordings(catalogue, task)
    families = families or catalogue.names
    if len({*families}) < len(families):
        raise UserError("--families names one twice: give each once")
    for name in families:
        catalogue[name]
    with hold_folder(Path(folder), "collects"):
        writer = DatasetWriter(folder, G1, catalogue.slots)
        missing = range(len(writer), episodes)
        jobs = [_Job(tuple(families), seed, i, config) for i in missing]
        frames = _record_all(writer, jobs, min(processes, len(jobs)), policy, config.tasks)
        _add_sentences(folder, catalogue, families, seed, config.sentences)
    return frames


def _record_all(
    writer: DatasetWriter,
    jobs: Sequence[_Job],
    processes: int,
    policy: Callable[[], Policy] | None,
    tasks: Sequence[Path],
) -> int:
    """Writes every episode as it comes, whatever becomes of those after it; how many frames."""
    frames, episodes = 0, len(writer) + len(jobs)
    with progress_bar() as bar, workers(processes, policy, tasks) as mapped:
        shown = bar.add_task("collect", total=episodes, completed=len(writer), note="")
        try:
            for recording in mapped(_record, jobs):
                writer.add_episode(**vars(recording))
                frames += len(recording.state)
                speed = frames / max(bar.tasks[shown].elapsed or 0.0, 1e-3)
                bar.update(shown, advance=1, note=f"{frames} frames, {speed:.0f}/s")
        finally:
            writer.finalize()
    return frames


def _add_sentences(
    folder: Path | str, catalogue: Catalogue, families: Sequence[str], seed: int, count: int
) -> None:
    """Gives a dataset `count` sentences about the families of which it has none yet."""
    known = read_sentences(folder)
    new = [name for name in families if known is None or name not in known.families]
    if new:
        texts, slots = sample_sentences(catalogue, new, np.random.default_rng(seed), count)
        if known is not None:
            texts, slots = [*known.texts, *texts], np.concatenate([known.slots, slots])
            new = [*known.families, *new]
        write_sentences(folder, texts, slots, new)


def sample_sentences(
    catalogue: Catalogue, families: Sequence[str], rng: np.random.Generator, count: int
) -> tuple[list[str], np.ndarray]:
    """Training sentences about anything in some families, and their slots (count, S).

    A few are out of scope.
    """
    language = catalogue.language
    texts, slots = [], []
    for _ in range(count):
        if rng.random() < OUT_OF_SCOPE_SHARE:
            meaning = UNKNOWN
        else:
            meaning = catalogue[pick(families, rng)].sample_meaning(rng, partial=0.2)
        texts.append(language.sample_wording(meaning, rng, "train"))
        slots.append(language.slot_vector(meaning))
    return texts, np.array(slots, np.int8).reshape(count, len(catalogue.slots))


def _record(worker: Worker, job: _Job) -> Demonstration:
    rng = np.random.default_rng([job.seed, job.index])
    return record_episode(worker.catalogue, job.families, rng, worker.policy, job.config)
