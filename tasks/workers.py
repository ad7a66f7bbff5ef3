"""Jobs for several processes, each with a policy and a catalogue of its own, and their progress."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from rich import progress

from bridge.contract import Policy, UserError
from tasks.catalogue import Catalogue
from tasks.user_task import read_catalogue

_REMEDY = 'call it in a file, under `if __name__ == "__main__":`, or with processes=1'


@dataclass(frozen=True)
class Worker:
    """What a process has for its jobs."""

    policy: Policy | None
    catalogue: Catalogue


# Calls work(worker, job) for every job, and keeps the order.
Mapped = Callable[[Callable[[Worker, Any], Any], Sequence[Any]], Iterator[Any]]

# That of this process, if others started it, or why there is none.
_worker: Worker | Exception


@contextmanager
def workers(
    processes: int, make_policy: Callable[[], Policy] | None, tasks: Sequence[Path]
) -> Iterator[Mapped]:
    """A map over fresh processes; in each `make_policy`, which must pickle, is called once.

    `tasks` are files with tasks of the user's own. With one process everything happens in this one.
    A job whose process is killed is tried once more in another. Leaving the block ends them all.
    UserError, as the results are asked for: `make_policy` raised it, a job was lost twice, or this
    program cannot be imported by its processes.
    """
    if processes <= 1:
        worker = _made(make_policy, tasks)
        yield lambda work, jobs: map(partial(work, worker), jobs)
        return
    main = sys.modules["__main__"]
    if main.__spec__ is None and not Path(getattr(main, "__file__", __file__)).is_file():
        raise UserError(f"several processes need a program in a file: {_REMEDY}")
    # Fresh ones: OpenGL contexts and inference sessions do not survive a fork.
    context = multiprocessing.get_context("spawn")
    begun = context.Event()

    pool = partial(
        ProcessPoolExecutor,
        mp_context=context,
        initializer=_start,
        initargs=(begun, make_policy, tasks),
    )
    others = set(multiprocessing.active_children())
    try:
        yield lambda work, jobs: _mapped(pool, processes, partial(_do, work), jobs, begun)
    finally:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()


def _mapped(
    pool: Callable[[int], ProcessPoolExecutor],
    processes: int,
    call: Callable[[Any], Any],
    jobs: Sequence[Any],
    begun: Event,
) -> Iterator[Any]:
    """The results in order. A pool is broken for good as soon as one of its processes dies."""
    executor = pool(processes)
    futures = [executor.submit(call, job) for job in jobs]
    for place, job in enumerate(jobs):
        try:
            yield futures[place].result()
        except BrokenProcessPool as error:
            if not begun.is_set():
                raise UserError(f"no process of several began: {_REMEDY}") from error
            yield _alone(pool(1), call, job)
            executor = pool(processes)
            for i, future in enumerate(futures[place + 1 :], place + 1):
                if future.exception() is not None:
                    futures[i] = executor.submit(call, jobs[i])


def _alone(pool: ProcessPoolExecutor, call: Callable[[Any], Any], job: Any) -> Any:
    """The second try of a job, where no other can be what kills its process."""
    with pool:
        try:
            return pool.submit(call, job).result()
        except BrokenProcessPool as error:
            raise UserError(
                "a process was killed twice over one episode: free some memory, then go on"
            ) from error


def _made(make_policy: Callable[[], Policy] | None, tasks: Sequence[Path]) -> Worker:
    return Worker(make_policy() if make_policy else None, read_catalogue(tasks))


def _start(begun: Event, make_policy: Callable[[], Policy] | None, tasks: Sequence[Path]) -> None:
    global _worker
    begun.set()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the parent ends us
    threading.Thread(target=_follow_parent, daemon=True).start()
    try:
        _worker = _made(make_policy, tasks)
    except Exception as error:  # raised here, it would reach nobody: the jobs bring it home
        _worker = error


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _do(work: Callable[[Worker, Any], Any], job: Any) -> Any:
    if isinstance(_worker, Exception):
        raise _worker
    return work(_worker, job)


def progress_bar() -> progress.Progress:
    """A bar with how many of how many, a note, and the time."""
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[note]}"),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
