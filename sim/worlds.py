"""Many worlds at once: the physics of all of them in one batch, on all cores."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
from mujoco import batch

from bridge.contract import UserError
from sim.robot import CONTROL_SUBSTEPS
from sim.world import World

STATE = mujoco.mjtState.mjSTATE_INTEGRATION


class Worlds:
    """Steps worlds together, each with its own scene, bit by bit as they would step alone.

    Their scenes must have equally many objects. Worlds may be read, pushed and reset between steps.
    """

    def __init__(self, worlds: Sequence[World], threads: int = 0) -> None:
        """`threads` 0 means one per core. UserError for scenes of unlike size."""
        self._worlds = list(worlds)
        if len({len(world.scene.objects) for world in worlds}) > 1:
            raise UserError("worlds of one batch need equally many objects; set n_objects")
        self._batch = batch.Batch(self._worlds[0].model, len(self._worlds), threads)
        self._batch.set_models([world.model for world in self._worlds])

    def __len__(self) -> int:
        return len(self._worlds)

    def __getitem__(self, index: int) -> World:
        return self._worlds[index]

    def replace(self, index: int, world: World) -> None:
        """Puts another world in a place; the old one is closed."""
        self._worlds[index].close()
        self._worlds[index] = world
        self._batch.set_models([world.model for world in self._worlds])

    def apply(self, commands: np.ndarray) -> None:
        """One control period of every world under its own (18,) row of (n, 18) commands."""
        for world, command, state in zip(self._worlds, commands, self._batch.state, strict=True):
            world.set_targets(command)
            mujoco.mj_getState(world.model, world.data, state, STATE)
        self._batch.step(nstep=CONTROL_SUBSTEPS)
        for world, state in zip(self._worlds, self._batch.state, strict=True):
            mujoco.mj_setState(world.model, world.data, state, STATE)
            world.after_step()

    def close(self) -> None:
        for world in self._worlds:
            world.close()
