"""Accidents of a bad network: what chance does to the messages of one direction."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np

_HELD_S = 0.5
_MOST_WAITING = 1000

Frames = list[bytes]


@dataclass(frozen=True)
class Impairment:
    """What happens to the messages of one direction; the chances are 0 to 1 for each message.

    Attributes:
        delay_s: Every message is late by this.
        jitter_s: And by up to this more; later messages still arrive later.
        loss: Chance to vanish. 1 in one direction alone makes a half-open link.
        duplication: Chance to arrive twice.
        reordering: Chance to arrive after the message that follows it, or 0.5 s late if none does.
        truncation: Chance that one frame loses its end.
        corruption: Chance that one byte is another.
        stalled: Everything waits until this is over, then arrives at once.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    truncation: float = 0.0
    corruption: float = 0.0
    stalled: bool = False


class Direction:
    """One direction of one client's traffic, in the hands of chance."""

    def __init__(self, rng: np.random.Generator, counters: Counter[str]) -> None:
        self._rng, self._counters = rng, counters
        self._waiting: deque[tuple[float, Frames]] = deque()
        self._held: tuple[float, list[Frames]] | None = None

    @property
    def due_s(self) -> float:
        """When something may leave next, on the monotonic clock."""
        held_s = self._held[0] + _HELD_S if self._held else np.inf
        return min(self._waiting[0][0], held_s) if self._waiting else held_s

    def enter(self, frames: Frames, chaos: Impairment) -> None:
        # As many numbers for every message, so that one setting does not change another's chance.
        late, lost, doubled, swapped, cut, changed, *where = self._rng.random(9)
        if lost < chaos.loss or len(self._waiting) >= _MOST_WAITING:
            self._counters["lost"] += 1
            return
        if cut < chaos.truncation:
            self._counters["truncated"] += 1
            frames = _truncated(frames, where)
        if changed < chaos.corruption:
            self._counters["corrupted"] += 1
            frames = _corrupted(frames, where)
        copies = 2 if doubled < chaos.duplication else 1
        self._counters["duplicated"] += copies - 1
        due_s = time.monotonic() + chaos.delay_s + late * chaos.jitter_s
        if self._held is None and swapped < chaos.reordering:
            self._held = due_s, [frames] * copies
            return
        self._append(due_s, [frames] * copies)
        if self._held is not None:
            self._counters["reordered"] += 1
            self._append(*self._held)
            self._held = None

    def leave(self) -> list[Frames]:
        """What has arrived by now."""
        now_s = time.monotonic()
        if self._held is not None and now_s >= self._held[0] + _HELD_S:
            self._append(*self._held)
            self._held = None
        arrived: list[Frames] = []
        while self._waiting and self._waiting[0][0] <= now_s:
            arrived.append(self._waiting.popleft()[1])
        self._counters["delivered"] += len(arrived)
        return arrived

    def _append(self, due_s: float, copies: list[Frames]) -> None:
        if self._waiting:
            due_s = max(due_s, self._waiting[-1][0])
        self._waiting.extend((due_s, frames) for frames in copies)


def _truncated(frames: Frames, where: list[float]) -> Frames:
    """The message with one of its frames shorter, by at least a byte if it had any."""
    place = int(where[0] * len(frames))
    cut = frames[place][: int(where[1] * len(frames[place]))]
    return [*frames[:place], cut, *frames[place + 1 :]]


def _corrupted(frames: Frames, where: list[float]) -> Frames:
    """The message with one byte of one of its frames changed."""
    place = int(where[0] * len(frames))
    frame = bytearray(frames[place])
    if frame:
        frame[int(where[1] * len(frame))] ^= 1 + int(where[2] * 255)
    return [*frames[:place], bytes(frame), *frames[place + 1 :]]
