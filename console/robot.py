"""The console's side of the robot: one operator for all pages, and what it sees in plain words."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bridge.contract import UserError
from bridge.operator.client import Operator
from bridge.operator.messages import Telemetry
from bridge.wire.messages import WireError
from console import scene as console_scene

SILENT_S = 2.0
_LOOK_S = 0.2
_RETRY_S = 1.0
_SPEED_S = 0.5
_PACE_S = 2.0
# What a reading needs to be a whole sentence again, once its object is known.
_ABOUT_OBJECTS = {"go_to": "walk to the {}", "point_at": "point at the {}"}


class RobotSide:
    """Watches a robot in a thread of its own, and carries out what pages ask.

    `watch` is called with every moment, from that thread. The lease is claimed when the console
    begins, and again before a command if it was lost.
    """

    def __init__(
        self, operator: Operator, watch: Callable[[Telemetry], None], robot: Path | None = None
    ) -> None:
        self.operator = operator
        self.newest: Telemetry | None = None
        self.trouble = ""
        self._watch, self._robot = watch, robot
        self._seen_s = time.monotonic()
        self._asked_s = -np.inf
        self._trail: deque[tuple[float, float, float]] = deque()
        self._clock: deque[tuple[float, float]] = deque()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="robot", daemon=True)

    def start(self) -> None:
        """Begins to watch, and claims the robot if nobody commands it."""
        try:
            self.operator.claim()
        except UserError as error:
            self.trouble = str(error)
        self._thread.start()

    def close(self) -> None:
        """Ends watching; the operator is not closed."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def silent_s(self) -> float:
        """How long ago the robot was seen, in seconds."""
        return time.monotonic() - self._seen_s

    @property
    def stage(self) -> console_scene.Stage:
        """The scene in which the robot was seen last."""
        return console_scene.stage(self.newest.scene if self.newest else None, self._robot)

    def command(self, act: Callable[[Operator], None]) -> str:
        """Does something that needs the lease; returns why not, or nothing."""
        fault = self._try(act)
        if fault and not self.operator.commanding:
            fault = self._try(act)  # the robot has been started anew: it knows no lease
        if not self.operator.commanding:
            self.trouble = fault
        elif not fault:
            self.trouble = ""
        return fault

    def _try(self, act: Callable[[Operator], None]) -> str:
        try:
            if not self.operator.commanding:
                self.operator.claim()
            act(self.operator)
        except UserError as error:
            return str(error)
        return ""

    def stop(self) -> str:
        """The stop channel, which needs no lease; returns why it failed, or nothing."""
        try:
            self.operator.stop()
        except UserError as error:
            return str(error)
        return ""

    def moment(self) -> dict[str, Any]:
        """The newest moment as a page shows it."""
        told = self.newest
        if told is None or self.silent_s > SILENT_S:
            for_s = self.silent_s
            line = f"no robot answers at {self.operator.address}: silent for {for_s:.0f} s"
            return {"silent": line, "level": "", "cause": line}
        status = console_scene.status_name(told)
        return {
            "silent": "",
            "time_s": told.time_s,
            "level": console_scene.level_name(told),
            "cause": told.cause,
            "instruction": told.instruction,
            "commander": told.commander,
            "trouble": "" if self.operator.commanding else self.trouble,
            "status": status if told.instruction else "",
            "probability": told.status_probability,
            "reason": told.reason,
            "understood": console_scene.reading(told.understood) if told.understood else "",
            "doubt": console_scene.doubt(told.instruction),
            "choices": self._choices(told) if status == "ambiguous" else [],
            "latency_ms": told.policy_latency_ms,
            "rate_hz": told.chunk_rate_hz,
            "speed_m_s": self._speed_m_s(),
            "pace": self._pace(),
            "overruns": told.loop_overruns,
            "stops": told.stops,
            "tokens": told.tokens,
            "steps": told.steps,
            "experts": told.expert_use,
            "simulated": told.qpos is not None,
            "scene": told.scene,
            "pose": told.base_pose or [],
        }

    def _choices(self, told: Telemetry) -> list[str]:
        sentence = _ABOUT_OBJECTS.get(told.understood.get("action", ""), "walk to the {}")
        things = self.stage.fitting(told.understood)
        return [sentence.format(f"{thing.colour} {thing.shape}") for thing in things]

    def _speed_m_s(self) -> float | None:
        if len(self._trail) < 2:
            return None
        (t0, x0, y0), (t1, x1, y1) = self._trail[0], self._trail[-1]
        return float(np.hypot(x1 - x0, y1 - y0) / (t1 - t0)) if t1 > t0 else None

    def _pace(self) -> float | None:
        """Seconds of the robot's time per second of ours."""
        if len(self._clock) < 2:
            return None
        (wall0, time0), (wall1, time1) = self._clock[0], self._clock[-1]
        return (time1 - time0) / (wall1 - wall0) if wall1 > wall0 and time1 >= time0 else None

    def _look(self) -> None:
        while not self._ended.is_set():
            try:
                told = self.operator.telemetry(_LOOK_S)
                if told is not None:
                    self._see(told)
                    self._watch(told)
            except (UserError, WireError) as error:
                self.trouble = str(error)
                self._ended.wait(_RETRY_S)

    def _see(self, told: Telemetry) -> None:
        self.newest, self._seen_s = told, time.monotonic()
        self._clock.append((self._seen_s, told.time_s))
        while self._seen_s - self._clock[0][0] > _PACE_S:
            self._clock.popleft()
        place = _place(told)
        if place is not None:
            self._trail.append((told.time_s, *place))
        while self._trail and not 0 <= told.time_s - self._trail[0][0] <= _SPEED_S:
            self._trail.popleft()


def _place(told: Telemetry) -> tuple[float, float] | None:
    if told.base_pose is not None and len(told.base_pose) >= 2:
        return told.base_pose[0], told.base_pose[1]
    sensed = console_scene.sensors(told)
    if sensed is None:
        return None
    x, y, _ = sensed.odometry
    return float(x), float(y)
