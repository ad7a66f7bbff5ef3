"""A robot at work: its control loop, joined to the people who command it and to its black box."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from bridge.blackbox.recorder import Recorder
from bridge.blackbox.recording import Moment
from bridge.contract import UserError
from bridge.control.loop import ControlLoop, Tick
from bridge.control.safety import Level
from bridge.operator import port as operators
from bridge.operator.messages import Telemetry, floats
from bridge.operator.port import OperatorPort
from bridge.png import encode_png
from bridge.wire.messages import one_line

_RATE_WINDOW_S = 3.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GroundTruth:
    """What only a simulation knows of its robot, and the seed of its scene.

    `base_pose` is x, y, z m and a quaternion wxyz.
    """

    base_pose: list[float]
    qpos: np.ndarray
    scene: int | None = None


class RobotNode:
    """Runs a loop period by period: operators' wishes, motion, record, telemetry.

    `truth` gives what a simulation shows besides, `new_scene` puts its robot into another scene.
    Nothing here blocks, and no error ends it: what fails lets the robot stand safely, or brake if
    it cannot be moved.
    """

    def __init__(
        self,
        loop: ControlLoop,
        port: OperatorPort,
        recorder: Recorder,
        truth: Callable[[], GroundTruth] | None = None,
        new_scene: Callable[[int], None] | None = None,
    ) -> None:
        self.loop, self.port, self.recorder = loop, port, recorder
        self.told = ""  # the last thing that a person should read
        self._truth, self._new_scene = truth, new_scene
        self._failure = ""
        self._level = Level.HOLD
        self._accepted: deque[float] = deque()
        self._chunk_at_s: float | None = None
        self._latency_ms: float | None = None
        self._images: dict[str, np.ndarray] = {}

    def step(self, overruns: int = 0) -> Tick:
        """One control period."""
        tick, stops = None, self.port.stops
        try:
            for event in self.port.poll():
                self._obey(event)
            tick = self.loop.tick()
            self._show(tick, stops, overruns)
        except Exception as error:  # a loop that ended would leave the motors as they are
            tick = self._settle(error, tick, stops)
        return tick

    def _settle(self, error: Exception, tick: Tick | None, stops: int) -> Tick:
        """Stands safely after a failure, or brakes; `tick` is the period's, if it got so far."""
        line = one_line(str(error)) or type(error).__name__
        cause = f"the robot's loop failed: {line}"
        log = _log.error if cause != self._failure else _log.debug  # once in a row
        log("%s", cause, exc_info=error)
        self._failure = cause
        try:
            self.loop.stop(cause)
            tick = tick or self.loop.tick()
        except Exception as worse:
            log("the robot cannot stand safely", exc_info=worse)
            tick = self.loop.brake(cause)
        try:
            self._note_level(tick, stops)
            level, newest = tick.order.level, self.port.stops
            told = Telemetry(time_s=tick.time_s, level=level, cause=cause, stops=newest)
            self.port.publish(told)
        except Exception as deaf:
            log("nobody can be told", exc_info=deaf)
        return tick

    # --- what people ask ---

    def _obey(self, event: operators.Event) -> None:
        self.told = ""
        try:
            self._carry_out(event)
        except UserError as error:
            self.told = str(error)

    def _carry_out(self, event: operators.Event) -> None:
        match event:
            case operators.Stopped():
                self.loop.stop()
            case operators.MotorsCut():
                self.loop.cut()
            case operators.Instructed(text):
                self.loop.handle_utterance(text)
            case operators.Released():
                self.told = self.loop.release() or ""
            case operators.Paused():
                self.loop.pause()
            case operators.Resumed():
                self.loop.resume()
            case operators.CommanderLost():
                self.loop.idle()
            case operators.SceneAsked(seed):
                assert self._new_scene is not None, "only a simulated robot's port lets it through"
                self.loop.exchange(partial(self._new_scene, seed))

    # --- what people see ---

    def _show(self, tick: Tick, stops: int, overruns: int) -> None:
        """Records and publishes a period; `stops` is the number of the last stop before it."""
        self._count_chunks(tick)
        self._note_level(tick, stops)
        counters = self._counters(overruns)
        images = self._new_images(tick)
        self.recorder.add(self._moment(tick, counters, images))
        self.port.publish(self._telemetry(tick, counters, overruns, images))

    def _note_level(self, tick: Tick, stops: int) -> None:
        level, before, self._level = tick.order.level, self._level, tick.order.level
        if level > Level.HOLD and level > before:
            if self.port.stops == stops:
                self.port.stops += 1  # the robot's own, of which no operator knew
            self.recorder.write(f"{level.name}: {tick.order.cause}")

    def _count_chunks(self, tick: Tick) -> None:
        chunk = tick.chunk
        if chunk is not None and chunk.observed_at_s != self._chunk_at_s:
            self._latency_ms = 1000 * (tick.time_s - chunk.observed_at_s)
            self._accepted.append(tick.time_s)
        self._chunk_at_s = chunk.observed_at_s if chunk else None
        while self._accepted and not 0 <= tick.time_s - self._accepted[0] < _RATE_WINDOW_S:
            self._accepted.popleft()

    def _counters(self, overruns: int) -> dict[str, int]:
        return {
            **self.loop.safety.counters,
            **self.port.counters,
            **self.recorder.counters,
            "dropped_replies": self.loop.link.dropped,
            "overruns": overruns,
        }

    def _new_images(self, tick: Tick) -> dict[str, np.ndarray]:
        """The pictures that are new in this period, by camera."""
        if tick.observation is None:
            return {}
        seen = tick.observation.images.items()
        new = {name: image for name, image in seen if image is not self._images.get(name)}
        self._images |= new
        return new

    def _news(self, cause: str) -> str:
        """All that a person should read now, in one line; each thing once."""
        lines = (cause, self.loop.trouble, self.told, self.recorder.trouble)
        return "; ".join(dict.fromkeys(filter(None, lines)))

    def _telemetry(
        self, tick: Tick, counters: dict[str, int], overruns: int, images: dict[str, np.ndarray]
    ) -> Telemetry:
        truth = self._truth() if self._truth else None
        chunk = tick.chunk
        cameras = self.loop.safety.embodiment.cameras
        image = images.get(cameras[0].name) if cameras else None
        return Telemetry(
            time_s=tick.time_s,
            level=tick.order.level,
            cause=self._news(tick.order.cause),
            instruction=self.loop.instruction,
            commander=self.port.commander,
            status=int(chunk.status) if chunk else None,
            status_probability=chunk.status_probability if chunk else 0.0,
            reason=chunk.reason if chunk else "",
            understood=dict(chunk.understood) if chunk else {},
            state=floats(tick.observation.state) if tick.observation else b"",
            command=floats(tick.order.command),
            base_pose=truth.base_pose if truth else None,
            qpos=truth.qpos.astype(np.float64).tobytes() if truth else None,
            scene=truth.scene if truth else None,
            policy_latency_ms=self._latency_ms,
            chunk_rate_hz=len(self._accepted) / _RATE_WINDOW_S,
            loop_overruns=overruns,
            stops=self.port.stops,
            counters=counters,
            expert_use=[list(layer) for layer in chunk.stats.expert_use] if chunk else None,
            tokens=chunk.stats.tokens if chunk else None,
            steps=chunk.stats.steps if chunk else None,
            image=encode_png(image) if image is not None else None,
        )

    def _moment(
        self, tick: Tick, counters: dict[str, int], images: dict[str, np.ndarray]
    ) -> Moment:
        chunk, asked = tick.chunk, None
        if chunk is not None:
            rate_hz = self.loop.safety.embodiment.chunk_hz
            step = int((tick.time_s - chunk.observed_at_s) * rate_hz)
            asked = chunk.commands[step] if 0 <= step < len(chunk.commands) else None
        return Moment(
            time_s=tick.time_s,
            level=int(tick.order.level),
            cause=tick.order.cause,
            state=tick.observation.state if tick.observation else None,
            asked=asked,
            sent=tick.order.command,
            counters=counters,
            images=images,
        )
