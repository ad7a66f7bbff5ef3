"""Playing a chunk of commands: which command a moment asks for, and smooth joins between chunks."""

from __future__ import annotations

import numpy as np

from bridge.contract import ActionChunk
from bridge.embodiment import Embodiment

_START_S = 0.3


class ChunkPlayer:
    """Turns the newest chunk and the time into the command to execute.

    Chunks of actions: ACT (Zhao et al. 2023, arXiv:2304.13705); here the newest is played alone.
    Step k belongs to `observed_at_s + k / chunk_hz`; between steps the command is interpolated,
    and the last step is kept for its own period. Steps already past when a chunk arrives are
    never played. The difference between the command being executed and the new chunk fades out
    within `join_s` (by default a step), or within `start_s` when nothing was playing; a fade in
    progress takes its time.
    """

    def __init__(
        self, body: Embodiment, join_s: float | None = None, start_s: float = _START_S
    ) -> None:
        self._body = body
        self._join_s = 1 / body.chunk_hz if join_s is None else join_s
        self._start_s = start_s
        self.reset()

    def reset(self) -> None:
        """Forgets the chunk, as for a new instruction."""
        self._chunk: ActionChunk | None = None
        self._offset = np.zeros(len(self._body.commands), np.float32)
        self._joined_at_s = 0.0
        self._fade_s = self._join_s

    def accept(self, chunk: ActionChunk, now_s: float, executing: np.ndarray) -> bool:
        """Plays `chunk` from `now_s` on, starting at the command being executed (COMMANDS,).

        Returns False, and changes nothing, for a chunk that is over, from the future, not newer
        than the one playing, of another shape, or not finite.
        """
        if chunk.commands.shape != self._body.chunk_shape:
            return False
        age_s = now_s - chunk.observed_at_s
        if not np.isfinite(chunk.commands).all() or not 0 <= age_s < self._body.chunk_s:
            return False
        if self._chunk is not None and chunk.observed_at_s <= self._chunk.observed_at_s:
            return False
        fading_s = self._joined_at_s + self._fade_s - now_s
        starts = self.command(now_s) is None
        self._chunk = chunk
        self._fade(now_s, executing, self._start_s if starts else max(self._join_s, fading_s))
        return True

    def rejoin(self, now_s: float, executing: np.ndarray) -> None:
        """Plays on after a pause as from a start, from the command being executed (COMMANDS,)."""
        if self._chunk is not None:
            self._fade(now_s, executing, self._start_s)

    def _fade(self, now_s: float, executing: np.ndarray, within_s: float) -> None:
        assert self._chunk is not None
        self._offset = executing - self._at(self._chunk, now_s)
        self._joined_at_s, self._fade_s = now_s, within_s

    def command(self, now_s: float) -> np.ndarray | None:
        """The (COMMANDS,) command for `now_s`, or None when no step is valid: hold."""
        chunk = self._chunk
        if chunk is None or not 0 <= now_s - chunk.observed_at_s < self._body.chunk_s:
            return None
        left = 1 - (now_s - self._joined_at_s) / self._fade_s if self._fade_s > 0 else 0.0
        command = self._at(chunk, now_s) + self._offset * min(max(left, 0.0), 1.0)
        return command.astype(np.float32)

    def _at(self, chunk: ActionChunk, now_s: float) -> np.ndarray:
        last = len(chunk.commands) - 1
        step = min((now_s - chunk.observed_at_s) * self._body.chunk_hz, last)
        before = int(step)
        after = min(before + 1, last)
        share = np.float32(step - before)
        return chunk.commands[before] * (1 - share) + chunk.commands[after] * share
