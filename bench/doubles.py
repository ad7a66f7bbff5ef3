"""Doubles of a robot and of policies, for measurements that want neither physics nor inference."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bridge.contract import ActionChunk, Observation, Status
from bridge.embodiment import CommandField
from robots.g1.embodiment import (
    ARM_POS,
    ARMS,
    CHUNK_STEPS,
    G1,
    IMAGE_SIZE,
    N_JOINTS,
    STAND_COMMAND,
    VEL_X,
)

# A body of another kind: one more field in its command, which is no joint's target.
STRANGER = replace(
    G1,
    name="stranger",
    commands=(*G1.commands, CommandField("torso_pitch_rad", 0.0, -0.2, 0.5, 0.5, 25.0)),
)
BODIES = {"g1": G1, "stranger": STRANGER}
HONEST_ANSWERS = 3
WALK_M_S, BACKWARDS_M_S = 0.5, -0.3
ELBOW = ARMS.start + 3


def walk_commands() -> np.ndarray:
    """(CHUNK_STEPS, 18) that walk straight ahead."""
    commands = np.tile(STAND_COMMAND, (CHUNK_STEPS, 1))
    commands[:, VEL_X] = WALK_M_S
    return commands


def commands_with(field: int, value: float) -> np.ndarray:
    """(CHUNK_STEPS, 18) that walk, with one field at a value."""
    commands = walk_commands()
    commands[:, field] = value
    return commands


# Finite values pass the wire: what they do to the robot is for its own limits to say.
COMMANDS: dict[str, Callable[[], np.ndarray]] = {
    "walk": walk_commands,
    "huge": lambda: commands_with(ELBOW, 1e30),
    "step": lambda: commands_with(ELBOW, STAND_COMMAND[ELBOW] + 1.0),
}


class Puppet:
    """A robot whose joints follow at once; remembers when it was given the newest command."""

    def __init__(self) -> None:
        self._joints = np.zeros(N_JOINTS, np.float32)
        self._image = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
        self.applied_s = 0.0

    def observe(self) -> Observation:
        state = G1.state(
            joint_pos_rad=self._joints,
            joint_vel_rad_s=0,
            base_ang_vel_rad_s=0,
            gravity=(0, 0, -1),
            command=STAND_COMMAND,
            elapsed_s=0,
            odometry=0,
        )
        return Observation(G1, time.monotonic(), state, {"head": self._image})

    def apply(self, command: np.ndarray) -> None:
        self.applied_s = time.monotonic()
        self._joints[ARM_POS] = command[ARMS]

    def hold(self) -> None:
        raise AssertionError("safety commands every period")

    def damp(self) -> None:
        raise AssertionError("nobody cuts it")

    def begin_instruction(self) -> None:
        pass


class WalkPolicy:
    """A policy that walks on, and takes no time over it."""

    def act(self, instruction: str, observation: Observation) -> ActionChunk:
        return ActionChunk(observation.time_s, walk_commands(), Status.ACTING, 1.0, {})

    def reset(self) -> None:
        pass


class TellingPolicy(WalkPolicy):
    """Walks on, and tells how much of an instruction's time has passed."""

    def act(self, instruction: str, observation: Observation) -> ActionChunk:
        told = {"elapsed_s": f"{observation.elapsed_s:.6f}"}
        return replace(super().act(instruction, observation), understood=told)


class InstantPolicy:
    """Stands, and takes no time over it."""

    def __init__(self) -> None:
        self._commands = np.tile(STAND_COMMAND, (CHUNK_STEPS, 1)).astype(np.float32)

    def act(self, instruction: str, observation: Observation) -> ActionChunk:
        slots = {"task": "go_to", "colour": "red", "object": "ball"}
        return ActionChunk(observation.time_s, self._commands, Status.ACTING, 0.9, slots)

    def reset(self) -> None:
        pass


class ScriptedPolicy:
    """Walks; after a few answers, as the instruction says."""

    def __init__(self) -> None:
        self._answered = 0

    def act(self, instruction: str, observation: Observation) -> ActionChunk:
        self._answered += 1
        kind = instruction if self._answered > HONEST_ANSWERS else "walk"
        commands = COMMANDS[kind if kind in COMMANDS else "walk"]()
        return ActionChunk(observation.time_s, commands, Status.ACTING, 1.0, {"action": "walk"})

    def reset(self) -> None:
        self._answered = 0
