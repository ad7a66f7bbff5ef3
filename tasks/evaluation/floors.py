"""Policies that know nothing, the floors of every success: one stands still, one is random."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from bridge.contract import ActionChunk, Observation, Policy, Status
from robots.g1.embodiment import CHUNK_STEPS, G1, STAND_COMMAND


class ZeroPolicy:
    """Stands with its arms at home, and says that it is done."""

    def act(self, instruction: str, observation: Observation) -> ActionChunk:
        return _held(observation, STAND_COMMAND, Status.DONE)

    def reset(self) -> None:
        pass


class RandomPolicy:
    """Holds commands anywhere within the robot's limits, each for one chunk.

    They follow from the instruction, so that an evaluation does not depend on how many processes
    share it.
    """

    def __init__(self) -> None:
        self._limits = G1.limits
        self._rng: np.random.Generator | None = None

    def act(self, instruction: str, observation: Observation) -> ActionChunk:
        if self._rng is None:
            self._rng = np.random.default_rng(list(instruction.encode()))
        command = self._rng.uniform(self._limits.low, self._limits.high)
        return _held(observation, command, Status.ACTING)

    def reset(self) -> None:
        self._rng = None


def _held(observation: Observation, command: np.ndarray, status: Status) -> ActionChunk:
    commands = np.tile(command.astype(np.float32), (CHUNK_STEPS, 1))
    return ActionChunk(observation.time_s, commands, status, 1.0, {})


FLOORS: Mapping[str, Callable[[], Policy]] = {"zero": ZeroPolicy, "random": RandomPolicy}
