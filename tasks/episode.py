"""One episode: a policy carries out an instruction, and a judge watches.

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
from tasks import expert as experts
from tasks.expert import Context
from tasks.language.intent import Meaning
from tasks.success import Judge, true_state

# After the judge is satisfied the policy may still say so itself.
GRACE_S = 1.0
DONE_S = 3.0
WARM_UP_S = 1.5

PERIODS_PER_STEP = round(CONTROL_HZ / CHUNK_HZ)


@dataclass(frozen=True)
class Outcome:
    """What came of an episode. `understood` and `said` are the policy's last words."""

    success: bool
    fell: bool
    knocked: bool
    done_said: bool
    said: str
    time_s: float
    understood: dict[str, str]
    details: dict[str, float]
    latencies_ms: list[float] = field(default_factory=list)


class ExpertPolicy:
    """The scripted expert as a policy: it knows its world and the meaning of its instruction."""

    def __init__(self, world: World, meaning: Meaning):
        self._world, self._meaning = world, meaning

    def act(self, instruction: str, observation: Observation) -> ActionChunk:
        view = self._world.snapshot()
        commands, status = experts.act(self._meaning, view, context_of(observation))
        understood = self._meaning.slots()
        return ActionChunk(observation.time_s, commands, status, 1.0, understood)

    def reset(self) -> None:
        pass


def context_of(observation: Observation) -> Context:
    return Context(observation.elapsed_s, observation.odometry, observation.command)


def warm_up(world: World, command: np.ndarray, seconds: float = WARM_UP_S) -> None:
    """Lets the robot come to stand, or to move, under a constant (18,) command."""
    for _ in range(round(seconds * CONTROL_HZ)):
        world.apply(command)


def run_episode(
    world: World,
    policy: Policy,
    instruction: str,
    judge: Judge,
    time_limit_s: float,
    replan_steps: int = 3,
    on_frame: Callable[[Frame], None] | None = None,
) -> Outcome:
    """Runs until the judge is satisfied, the robot has fallen, the policy has been done for
    DONE_S, or the time is over. The policy answers every `replan_steps` chunk steps."""
    link = DirectLink(policy)
    safety = Safety(G1, start=world.command)
    loop = ControlLoop(world, link, safety, lambda: world.time_s, replan_steps / CHUNK_HZ)
    loop.instruct(instruction)
    judge.begin(true_state(world))
    begun = world.time_s
    satisfied_s = done_s = None
    while True:
        for _ in range(replan_steps * PERIODS_PER_STEP):
            loop.tick()
            if judge.watch(true_state(world)) and satisfied_s is None:
                satisfied_s = world.time_s
            if on_frame:
                on_frame(Frame(world.time_s - begun, world.qpos(), loop.chunk))
        chunk = loop.chunk
        if chunk is None or chunk.status == Status.ACTING:
            done_s = None
        elif done_s is None:
            done_s = chunk.observed_at_s
        said_long_enough = done_s is not None and world.time_s - done_s >= DONE_S
        if said_long_enough or _content(satisfied_s, done_s, world.time_s):
            break
        if judge.fell or world.time_s - begun >= time_limit_s:
            break
    return Outcome(
        success=satisfied_s is not None and not judge.spoilt,
        fell=judge.fell,
        knocked=judge.knocked,
        done_said=chunk is not None and chunk.status == Status.DONE,
        said=chunk.status.name.lower() if chunk else "nothing",
        time_s=(satisfied_s or world.time_s) - begun,
        understood=dict(chunk.understood) if chunk else {},
        details=judge.details(),
        latencies_ms=link.latencies_ms,
    )


def _content(satisfied_s: float | None, done_s: float | None, now_s: float) -> bool:
    """Whether nothing more is to come: success, and the policy has said so or had the time to."""
    if satisfied_s is None:
        return False
    return done_s is not None or now_s - satisfied_s >= GRACE_S
