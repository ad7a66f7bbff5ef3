"""How much a process grows while it is sent messages: memory, open files, threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.faults.programs import Child
from bench.footprint import Footprint, footprint_of
from bridge.contract import UserError

MOST_GROWTH_MB = 20.0
# Descriptors or threads beyond those of the beginning: a connection or two.
MOST_LEFT, SETTLE_S = 6, 20.0
_WARM_UP = 2000


@contextmanager
def measured(
    frames: int, process: Child | None = None
) -> Iterator[tuple[Callable[[], Iterator[int]], dict[str, float]]]:
    """Numbers to count messages by, and what came of them once they are all sent."""
    figures: dict[str, float] = {}
    pid = process.pid if process else None
    begun: list[Footprint] = []

    def count() -> Iterator[int]:
        for number in range(frames):
            if number == min(_WARM_UP, frames // 2):
                begun.append(footprint_of(pid))
            yield number

    started = time.monotonic()
    yield count, figures
    before, now = begun[0], _settled(pid, begun[0])
    grown_mb = now.memory_mb - before.memory_mb
    figures |= {"messages": frames, "s": time.monotonic() - started, "growth_mb": grown_mb}
    if grown_mb > MOST_GROWTH_MB:
        raise UserError(f"memory grew by {grown_mb:.0f} MB within {frames} mutated messages")
    if _left(before, now) > MOST_LEFT:
        raise UserError(
            f"{now.files - before.files} descriptors and {now.threads - before.threads} threads"
            f" are left after {frames} mutated messages"
        )


def _left(before: Footprint, now: Footprint) -> int:
    return max(now.files - before.files, now.threads - before.threads)


def _settled(pid: int | None, before: Footprint) -> Footprint:
    """Once those connections have ended that are not to last."""
    deadline = time.monotonic() + SETTLE_S
    while _left(before, now := footprint_of(pid)) > MOST_LEFT and time.monotonic() < deadline:
        time.sleep(0.1)
    return now
