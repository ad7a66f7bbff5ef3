"""One episode: a policy carries out an instruction, and its success is watched.

The policy answers while simulated time stands still, so that success does not depend on how fast
the machine is; how long each answer took is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from bridge.contract import ActionChunk, Observation, Policy, Status
from bridge.control.loop import ControlLoop, DirectLink
from bridge.control.safety import Safety
from robots.g1.embodiment import CHUNK_HZ, CONTROL_HZ, G1
from sim.render.video import Frame
from sim.world import World
from tasks.expert import Context, Expert, act
from tasks.language.intent import Intent
from tasks.success import Success, true_state

# After success the policy may still say so itself.
GRACE_S = 1.0
DONE_S = 3.0
WARM_UP_S = 1.5

PERIODS_PER_STEP = round(CONTROL_HZ / CHUNK_HZ)
REPLAN_STEPS = 3


@dataclass(frozen=True)
class EpisodeOutcome:
    """What came of an episode. `understood`, `said` and `reason` are the policy's last words."""

    success: bool
    fell: bool
    knocked: bool
    done_said: bool
    said: str
    time_s: float
    understood: dict[str, str]
    details: dict[str, float]
    latencies_ms: list[float] = field(default_factory=list)
    reason: str = ""


class ExpertPolicy:
    """A scripted expert as a policy: it knows its world and the meaning of its instruction."""

    def __init__(self, world: World, meaning: Intent, expert: Expert) -> None:
        self._world, self._meaning, self._expert = world, meaning, expert

    def act(self, instruction: str, observation: Observation) -> ActionChunk:
        view = self._world.snapshot()
        commands, status = act(self._expert, self._meaning, view, context_of(observation))
        understood = self._meaning.slots()
        return ActionChunk(observation.time_s, commands, status, 1.0, understood)

    def reset(self) -> None:
        pass


class Rollout:
    """A policy in a world, through the loop and the safety that a robot has.

    The policy answers every `replan_steps` chunk steps, while the world stands still.
    """

    def __init__(self, world: World, policy: Policy, replan_steps: int) -> None:
        self.world = world
        self.link = DirectLink(policy)
        self.safety = Safety(G1, start=world.command)
        self._loop = ControlLoop(
            world, self.link, self.safety, lambda: world.time_s, replan_steps / CHUNK_HZ
        )
        self._done_s: float | None = None

    def instruct(self, instruction: str) -> None:
        """Begins another instruction."""
        self._loop.instruct(instruction)
        self._done_s = None

    @property
    def chunk(self) -> ActionChunk | None:
        """The newest answer to the instruction."""
        return self._loop.chunk

    @property
    def said_s(self) -> float | None:
        """How long the policy has said that it is not acting any more; None while it acts."""
        return None if self._done_s is None else self.world.time_s - self._done_s

    def advance(self, steps: int, after_tick: Callable[[], None] = lambda: None) -> None:
        """Goes on for so many chunk steps; calls `after_tick` after every control period."""
        for _ in range(steps * PERIODS_PER_STEP):
            self._loop.tick()
            after_tick()
        if self.chunk is None or self.chunk.status == Status.ACTING:
            self._done_s = None
        elif self._done_s is None:
            self._done_s = self.chunk.observed_at_s


def context_of(observation: Observation) -> Context:
    """What an expert may know of the past, from what a policy is given."""
    return Context(observation.elapsed_s, observation.odometry, observation.command)


def warm_up(world: World, command: np.ndarray, seconds: float = WARM_UP_S) -> None:
    """Lets the robot come to stand, or to move, under a constant (18,) command."""
    for _ in range(round(seconds * CONTROL_HZ)):
        world.apply(command)


def run_episode(
    world: World,
    policy: Policy,
    instruction: str,
    success: Success,
    time_limit_s: float,
    on_frame: Callable[[Frame], None] | None = None,
) -> EpisodeOutcome:
    """Runs until success, a fall, DONE_S after the policy called itself done, or the time is over.

    The policy answers every `REPLAN_STEPS` chunk steps.
    """
    rollout = Rollout(world, policy, REPLAN_STEPS)
    rollout.instruct(instruction)
    success.begin(true_state(world))
    begun = world.time_s
    satisfied_s: float | None = None

    def watch() -> None:
        nonlocal satisfied_s
        if success.watch(true_state(world)) and satisfied_s is None:
            satisfied_s = world.time_s
        if on_frame:
            on_frame(Frame(world.time_s - begun, world.qpos(), rollout.chunk))

    while True:
        rollout.advance(REPLAN_STEPS, watch)
        said_s = rollout.said_s
        if said_s is not None and (satisfied_s is not None or said_s >= DONE_S):
            break
        if satisfied_s is not None and world.time_s - satisfied_s >= GRACE_S:
            break
        if success.fell or world.time_s - begun >= time_limit_s:
            break
    chunk = rollout.chunk
    return EpisodeOutcome(
        success=satisfied_s is not None and not success.failed,
        fell=success.fell,
        knocked=success.knocked,
        done_said=chunk is not None and chunk.status == Status.DONE,
        said=chunk.status.name.lower() if chunk else "nothing",
        time_s=(satisfied_s or world.time_s) - begun,
        understood=dict(chunk.understood) if chunk else {},
        reason=chunk.reason if chunk else "",
        details=success.details(),
        latencies_ms=rollout.link.latencies_ms,
    )
