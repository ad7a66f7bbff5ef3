"""Jobs for several processes, each with a policy and a catalogue of its own, and their progress."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich import progress

from bridge.contract import Policy
from tasks.catalogue import Catalogue
from tasks.user_task import read_catalogue


@dataclass(frozen=True)
class Worker:
    """What a process has for its jobs."""

    policy: Policy | None
    catalogue: Catalogue


# Calls work(worker, job) for every job, and keeps the order.
Mapped = Callable[[Callable[[Worker, Any], Any], Sequence[Any]], Iterator[Any]]

# That of this process, if others started it.
_worker: Worker


@contextmanager
def workers(
    processes: int, make_policy: Callable[[], Policy] | None, tasks: Sequence[Path]
) -> Iterator[Mapped]:
    """A map over fresh processes; in each `make_policy`, which must pickle, is called once.

    `tasks` are files with tasks of the user's own. With one process everything happens in this one.
    """
    if processes <= 1:
        worker = _made(make_policy, tasks)
        yield lambda work, jobs: map(partial(work, worker), jobs)
        return
    # Fresh ones: OpenGL contexts and inference sessions do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, _start, (make_policy, tasks)) as pool:
        yield lambda work, jobs: pool.imap(partial(_do, work), jobs)


def _made(make_policy: Callable[[], Policy] | None, tasks: Sequence[Path]) -> Worker:
    return Worker(make_policy() if make_policy else None, read_catalogue(tasks))


def _start(make_policy: Callable[[], Policy] | None, tasks: Sequence[Path]) -> None:
    global _worker
    _worker = _made(make_policy, tasks)


def _do(work: Callable[[Worker, Any], Any], job: Any) -> Any:
    return work(_worker, job)


def progress_bar() -> progress.Progress:
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[note]}"),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
