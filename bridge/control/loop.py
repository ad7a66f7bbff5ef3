"""The loop that moves a robot: fifty times a second, whatever the policy does.

A policy is asked through a link that never blocks; its chunks play while the next one is thought
out. The same loop drives a simulation, in real time or faster, and a robot: what differs is the
clock, which belongs to the robot, and the pace.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from bridge.contract import ActionChunk, Observation, Policy, Robot, UserError, check_instruction
from bridge.control.safety import Level, SafeCommand, Safety
from bridge.embodiment import Embodiment
from bridge.wire.messages import one_line

# A policy is asked again this long after it was asked last, or as soon as it has answered.
REPLAN_S = 0.3
# Said as a whole sentence, these need no policy.
STOP_WORDS = (
    *("stop", "halt", "freeze", "emergency stop", "stop now", "stop immediately"),
    *("止まれ", "止まって", "ストップ", "やめて", "待って"),
)
_SENTENCE_END = re.compile("[.!?。…]")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rejected:
    """An answer that cannot be played, and why, in one line."""

    reason: str


class Link(Protocol):
    """A policy that is asked and answers later; nothing here blocks.

    `session` changes whenever another process, or the same one anew, answers. `dropped` counts
    messages that were late, repeated or meant for others. `trouble` is a line for the operator
    while nobody answers, else empty.
    """

    session: int
    dropped: int
    trouble: str

    def ask(self, instruction: str, observation: Observation) -> None:
        """Asks for a chunk; replaces a question that has not been sent yet."""
        ...

    def take(self) -> ActionChunk | Rejected | None:
        """The newest answer, once."""
        ...

    def reset(self) -> None:
        """Forgets questions and answers, and lets the policy forget."""
        ...


@runtime_checkable
class SelfRighting(Protocol):
    """A robot that can get up from lying."""

    def get_up(self) -> bool | None:
        """One control period on the way up; or, without moving, whether it has come to stand."""
        ...


class DirectLink:
    """A policy in this process, asked while the robot's time stands still."""

    session = 0
    dropped = 0
    trouble = ""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._answer: ActionChunk | Rejected | None = None
        self.latencies_ms: list[float] = []

    def ask(self, instruction: str, observation: Observation) -> None:
        started = time.perf_counter()
        self._answer = self._policy.act(instruction, observation)
        self.latencies_ms.append(1000 * (time.perf_counter() - started))

    def take(self) -> ActionChunk | Rejected | None:
        answer, self._answer = self._answer, None
        return answer

    def reset(self) -> None:
        self._answer = None
        self._policy.reset()


class Pace:
    """Wakes a loop once per control period of real time, or as often as it can (`speed` inf).

    A loop that overran goes on at the next whole period: it never hurries to catch up.
    """

    def __init__(self, period_s: float, speed: float = 1.0) -> None:
        self._period_s = period_s / speed
        self._due_s = time.monotonic()
        self.overruns = 0

    def wait(self, sleep: Callable[[float], object] = time.sleep) -> None:
        """Sleeps until the next period begins; if `sleep` ends early, it begins then."""
        if self._period_s <= 0:
            return
        self._due_s += self._period_s
        late_s = time.monotonic() - self._due_s
        if late_s < 0:
            sleep(-late_s)
            self._due_s = min(self._due_s, time.monotonic())
            return
        missed = int(late_s / self._period_s)
        self._due_s += missed * self._period_s
        self.overruns += missed


@dataclass(frozen=True)
class Tick:
    """One control period: what was known, and what was ordered.

    `chunk` is the newest accepted one, `rejected` why an answer was not, in this very period.
    """

    time_s: float
    order: SafeCommand
    observation: Observation | None
    chunk: ActionChunk | None
    rejected: str | None


class ControlLoop:
    """One robot, its safety and the link to its policy.

    `clock` gives the robot's own time, in which observations are stamped: time.monotonic for a
    real one, simulated time for a simulated one.
    """

    def __init__(
        self,
        robot: Robot,
        link: Link,
        safety: Safety,
        clock: Callable[[], float] = time.monotonic,
        replan_s: float = REPLAN_S,
    ) -> None:
        self.robot, self.link, self.safety = robot, link, safety
        self.instruction = ""
        self.chunk: ActionChunk | None = None
        self._clock, self._replan_s = clock, replan_s
        self._asked_at_s = -np.inf
        self._session = link.session
        self._lost = False
        self._begun_at_s = -np.inf
        self._rising = False
        self._paused = ""
        self._now_s = 0.0
        self._unseen = ""  # why the robot's state is not known
        self._last_failure = ""

    @property
    def trouble(self) -> str:
        """What is wrong with the driver or the link, in one line for the operator, or nothing."""
        link = self.link.trouble
        if self._lost and self.instruction and not link:
            link = "another session of the policy server answers now: release the robot to ask it"
        return "; ".join(filter(None, (self._unseen, link)))

    # --- what operators do ---

    def handle_utterance(self, text: str) -> None:
        """What a person says: a sentence of stop words stops at once, among others as well.

        Anything else is the next instruction.
        """
        heard = check_instruction(text)
        sentences = _SENTENCE_END.split(heard.casefold())
        if any(" ".join(sentence.split()) in STOP_WORDS for sentence in sentences):
            self.stop(f'told to "{heard}"')
        else:
            self.instruct(text)

    def instruct(self, text: str) -> None:
        """Begins another instruction for the policy.

        UserError when it is no line of text, or when the robot cannot begin: then it holds.
        """
        text = check_instruction(text)
        self.idle()
        if trouble := self._move(self.robot.begin_instruction):
            raise UserError(trouble)
        if self.safety.level < Level.SAFE_STAND:
            self._session, self._lost = self.link.session, False  # told after it had answered anew
        self.instruction = text
        self.safety.expect(self._clock(), chunks=True)

    def idle(self) -> None:
        """Ends the instruction, a paused one too: the robot stands where it is."""
        self._forget()
        self.safety.expect(self._clock(), chunks=False)

    def pause(self) -> None:
        """Ends the instruction until it is resumed; whatever else ends it ends that chance."""
        paused = self.instruction or self._paused
        self.idle()
        self._paused = paused

    def resume(self) -> None:
        """Begins the paused instruction again; UserError when there is none."""
        if not self._paused:
            raise UserError("nothing is paused: tell the robot what to do")
        self.instruct(self._paused)

    def stop(self, cause: str = "the operator stopped it") -> None:
        """Ends the instruction and stands safely, until released."""
        self.safety.stop(cause)
        self._stay_down("stopped as the robot got up")
        self.idle()

    def cut(self) -> None:
        """Lets the motors only brake, until released."""
        self.safety.cut()
        self._stay_down("the operator cut the motors")
        self.idle()

    def exchange(self, new_body: Callable[[], None]) -> None:
        """Ends the instruction, and lets `new_body` put another body in the robot's place.

        It stands, arms at its sides. A latched level stays in force: brakes brake it as well.
        """
        self.idle()
        self._stay_down("the scene was changed as the robot got up")
        new_body()
        self.safety.restart(self.safety.embodiment.stand)

    def release(self) -> str | None:
        """Ends a latched level, or says why it stays. What was asked of the policy is void.

        A robot that lies gets up, if it can, to SAFE_STAND, which another release ends.
        """
        if self.safety.is_down(self._clock()) and isinstance(self.robot, SelfRighting):
            if not self._rising:
                self._rising = True
                self.safety.after_fall(Level.DAMP, "the robot is getting up")
            return "release again once it stands"
        if self.link.trouble:
            return self.link.trouble
        stays = self.safety.release(self._clock())
        if stays is None:
            self._session, self._lost = self.link.session, False
            self.link.reset()
            self._begun_at_s = self._clock()
            self._asked_at_s = -np.inf
        return stays

    def _stay_down(self, cause: str) -> None:
        if self._rising:
            self._rising = False
            self.safety.after_fall(Level.DAMP, cause)

    def _forget(self) -> None:
        self.instruction, self.chunk, self._paused = "", None, ""
        self.link.reset()
        self._begun_at_s = self._clock()
        self._asked_at_s = -np.inf

    # --- every period ---

    def tick(self) -> Tick:
        """One control period: observe, judge, move, ask."""
        observation = self._observe()
        if observation is not None:
            self._ask(observation)
        rejected = self._take()
        now_s = self._now_s = self._clock()
        order = self.safety.step(now_s, observation)
        if self._rising:
            stands = self._get_up(observation)
            if stands is None:
                return Tick(now_s, order, observation, self.chunk, rejected)
            order = self.safety.step(now_s, observation)
        if order.level < Level.DAMP and (trouble := self._move(self.robot.apply, order.command)):
            self.safety.cut(trouble)
            order = self.safety.step(now_s, None)
        if order.level == Level.DAMP:
            self._move(self.robot.damp)
        return Tick(now_s, order, observation, self.chunk, rejected)

    def brake(self, cause: str) -> Tick:
        """One control period in which the motors only brake, whatever else fails; latched."""
        self.safety.cut(cause)
        self._move(self.robot.damp)
        order = SafeCommand(Level.DAMP, self.safety.embodiment.stand, cause)
        return Tick(self._now_s, order, None, None, None)

    def _get_up(self, observation: Observation | None) -> bool | None:
        """None while the robot moves on its way up; else whether it stands."""
        assert isinstance(self.robot, SelfRighting)
        try:
            stands = self.robot.get_up() if observation is not None else False
        except Exception as error:  # as in `_move`
            self._failure(error)
            stands = False
        if stands:
            self._rising = False
            self.safety.after_fall(Level.SAFE_STAND, "the robot has got up")
        elif stands is not None:
            self._stay_down("the robot could not get up")
        return stands

    def _move(self, act: Callable[..., object], *command: np.ndarray) -> str:
        """Has the robot do something, or says in one line why it could not."""
        try:
            act(*command)
        except Exception as error:  # a loop that ended would leave the motors as they are
            return f"the robot could not be moved: {self._failure(error)}"
        return ""

    def _observe(self) -> Observation | None:
        """What the robot says; None when it is silent, or its driver fails, which is no better."""
        try:
            seen = self.robot.observe()
            _check(seen, self.safety.embodiment)
        except UserError as error:
            self._unseen = one_line(str(error))
            return None
        except Exception as error:
            self._unseen = f"the robot's driver fails: {self._failure(error)}"
            return None
        self._unseen = ""
        return seen

    def _failure(self, error: Exception) -> str:
        """What is wrong with the robot, in one line; the log has all of it, but once in a row."""
        line = one_line(str(error)) or type(error).__name__
        if line != self._last_failure:
            _log.error("the robot failed", exc_info=error)
        self._last_failure = line
        return line

    def _ask(self, observation: Observation) -> None:
        if not self.instruction or self._lost or self.safety.level > Level.HOLD:
            return
        now_s = observation.time_s
        # Half a period's grace: sums of periods are not exact.
        if now_s - self._asked_at_s >= self._replan_s - self.safety.embodiment.period_s / 2:
            self._asked_at_s = now_s
            self.link.ask(self.instruction, observation)

    def _take(self) -> str | None:
        if self.link.session != self._session:
            self._lost = True  # whoever answers now is another: an operator decides
        if self._lost or not self.instruction or (answer := self.link.take()) is None:
            return None
        if isinstance(answer, Rejected):
            return self.safety.reject(answer.reason)
        if answer.observed_at_s < self._begun_at_s:
            return None  # to an earlier instruction
        fault = self.safety.accept(answer, self._clock())
        if fault is None:
            self.chunk = answer
        return fault


def _check(seen: Observation, body: Embodiment) -> None:
    """Raises unless an observation is what a body's are; what is not finite may pass."""
    if (seen.state.shape, seen.state.dtype) != ((len(body.state_names),), np.float32):
        raise ValueError(f"the state is {seen.state.dtype} {seen.state.shape}")
    for camera in body.cameras:
        image = seen.images[camera.name]
        if (image.ndim, image.shape[-1], image.dtype) != (3, 3, np.uint8):  # of any size
            raise ValueError(f"the picture of {camera.name} is {image.dtype} {image.shape}")
    for number in (seen.time_s, seen.image_age_s):
        math.isfinite(number)  # TypeError for what is none
