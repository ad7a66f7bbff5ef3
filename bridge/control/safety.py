"""What stands between a policy and the motors: limits on every command, and the ladder of levels.

    RUN         a chunk is playing
    HOLD        no valid step: the pose is kept, the base comes to rest
    SAFE_STAND  latched: the arms come home and the walker keeps the balance
    DAMP        latched: motors only brake, unless a fallen robot was let get up

The more severe level wins. A latched level ends by an operator's release alone. Nothing here reads
a clock, a socket or a file: times come as arguments, in seconds of one monotonic clock.

An operator's `stop` is SAFE_STAND: a controlled stop with power left on, stop category 2 of IEC
60204-1, for a biped without power falls. `cut` is DAMP: all drive ends at once as in category 0,
but by software, and the motors brake. ISO 13850 allows categories 0 and 1 for an emergency stop,
so neither is one. This conforms to no safety standard. It cannot know what lies in the robot's way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np

from bridge.contract import ActionChunk, Observation
from bridge.control.chunk_player import ChunkPlayer
from bridge.embodiment import Embodiment, Limits

FALLEN = "the robot has fallen"


class Level(IntEnum):
    """How much the robot is allowed, from all to nothing."""

    RUN = 0
    HOLD = 1
    SAFE_STAND = 2
    DAMP = 3


@dataclass(frozen=True)
class SafetyConfig:
    """The ladder's triggers. Every duration is in seconds, every angle in radians.

    A loop that did not look for `state_damp_s` either stands safely: meanwhile the driver has
    braked by itself, so that nothing is as it was.

    A fall is a lean past `fall_lean_rad`; a lean past `fall_onset_rad` that will exceed
    `fall_soon_rad` within `fall_ahead_s`; or all knees bent past `fall_knees_rad`, on which a
    robot kneels. Ordinary walks with shoves of 0.8 m/s lean by up to 0.46, are about to lean by up
    to 0.78, and no squat bends the knees by more than 2.0.
    """

    state_hold_s: float = 0.05
    state_damp_s: float = 0.2
    image_hold_s: float = 0.5
    hold_stand_s: float = 0.5
    rejected_in_a_row: int = 5
    fall_lean_rad: float = 0.8
    fall_onset_rad: float = 0.5
    fall_soon_rad: float = 1.0
    fall_ahead_s: float = 0.15
    fall_knees_rad: float = 2.5
    ramp_s: float = 0.2
    stand_s: float = 1.0


@dataclass(frozen=True)
class SafeCommand:
    """What the motors get for one period: a (COMMANDS,) command, or at DAMP only brakes.

    `cause` says in one line why the level is not RUN; it is empty at RUN.
    """

    level: Level
    command: np.ndarray
    cause: str


class Limiter:
    """Follows any finite target without ever leaving the limits, in value, rate or rate's change.

    A value approaches its target no faster than it can stop there, counted in whole periods, so
    that it can also stop before its limit whatever target comes next.
    """

    def __init__(self, limits: Limits, start: np.ndarray) -> None:
        self._limits = limits
        self.value = np.clip(start, limits.low, limits.high).astype(np.float64)
        self.rate = np.zeros_like(self.value)

    def step(self, target: np.ndarray) -> np.ndarray:
        """(COMMANDS,) one period later."""
        limits, step = self._limits, self._limits.rate_change * self._limits.period_s
        away = np.clip(target, limits.low, limits.high) - self.value
        fastest = np.minimum(
            stopping_rate(np.abs(away), limits.rate_change, limits.period_s), limits.rate
        )
        wanted = np.copysign(fastest, away)
        self.rate = np.clip(wanted, self.rate - step, self.rate + step)
        self.value = np.clip(self.value + self.rate * limits.period_s, limits.low, limits.high)
        return self.value.astype(np.float32)


def stopping_rate(distance: np.ndarray, rate_change: np.ndarray, period_s: float) -> np.ndarray:
    """The highest rate from which `distance` suffices to stop, slowing by `rate_change`.

    At rate v and a change of w per period it takes v + (v - w) + (v - 2 w) + ... periods' way; with
    n whole steps that is (n + 1) v - w n (n + 1) / 2, solved here for v.
    """
    step = rate_change * period_s
    way = distance / (period_s * step)
    n = np.floor((np.sqrt(1 + 8 * way) - 1) / 2)
    return step * (way / (n + 1) + n / 2)


class Safety:
    """The ladder of one robot. Call `step` once per control period; the rest are events."""

    def __init__(
        self,
        body: Embodiment,
        config: SafetyConfig = SafetyConfig(),
        start: np.ndarray | None = None,
    ) -> None:
        """`start` (COMMANDS,) is the command in force, by default that of a robot that stands."""
        self.embodiment, self.config = body, config
        names = ("rejected", "clamped", "slowed", "holds", "stands", "damps")
        self.counters: dict[str, int] = dict.fromkeys(names, 0)
        self.level = Level.HOLD
        self._limits = body.limits
        self._knees = body.joint_index(body.knees)
        self._player = ChunkPlayer(body)
        self._latched: tuple[Level, str] | None = None
        self._rejected_in_a_row = 0
        self._expecting_since_s: float | None = None
        self._hold_since_s: float | None = None
        self.restart(body.stand if start is None else start)

    # --- events ---

    def restart(self, start: np.ndarray) -> None:
        """Another body is there, with the command `start` (COMMANDS,) in force; latches stay."""
        self._limiter = Limiter(self._limits, start)
        self._eased: tuple[float, np.ndarray] = (0.0, start.copy())
        self._body: Observation | None = None
        self._state_at_s: float | None = None
        self._stepped_s: float | None = None

    def expect(self, now_s: float, chunks: bool) -> None:
        """An instruction begins, or ends (`chunks` False): only then may the robot idle in HOLD."""
        self._expecting_since_s = now_s if chunks else None
        self._hold_since_s = None
        self._player.reset()

    def accept(self, chunk: ActionChunk, now_s: float) -> str | None:
        """Takes a chunk to play; otherwise returns why not, and goes on with the last one."""
        reason = self._fault_of(chunk)
        if reason is not None:
            return self.reject(reason)
        limits = self._limits
        commands = np.clip(chunk.commands, limits.low, limits.high).astype(np.float32)
        outside = (chunk.commands < limits.low) | (chunk.commands > limits.high)
        self.counters["clamped"] += int(outside.sum())
        limited = replace(chunk, commands=commands)
        executing = self._executing()
        if not self._player.accept(limited, now_s, executing):
            return self.reject("it is over, from the future, or older than the one playing")
        self._rejected_in_a_row = 0
        rate_hz = self.embodiment.chunk_hz
        to_come = commands[int((now_s - chunk.observed_at_s) * rate_hz) :]
        rates = rate_hz * np.abs(np.diff(np.vstack([executing, to_come]), axis=0))
        self.counters["slowed"] += int((rates > limits.rate).sum())
        return None

    def reject(self, reason: str) -> str:
        """Counts an answer that cannot be played; returns `reason`."""
        self.counters["rejected"] += 1
        self._rejected_in_a_row += 1
        if self._rejected_in_a_row >= self.config.rejected_in_a_row:
            self._latch(Level.SAFE_STAND, f"{self._rejected_in_a_row} bad answers: {reason}")
        return reason

    def stop(self, cause: str = "the operator stopped it") -> None:
        """The operator's stop: SAFE_STAND."""
        self._latch(Level.SAFE_STAND, cause)

    def cut(self, cause: str = "the operator cut the motors") -> None:
        """The operator's cut, or that of a body that nothing can move: DAMP.

        A standing robot will fall.
        """
        self._latch(Level.DAMP, cause)

    def release(self, now_s: float) -> str | None:
        """Ends a latched level, to HOLD; or returns why it stays."""
        trouble = self._body_trouble(now_s)
        if trouble is not None:
            return trouble[1]
        self._latched = None
        self._rejected_in_a_row = 0
        if self._expecting_since_s is not None:
            self.expect(now_s, chunks=True)
        return None

    def is_down(self, now_s: float) -> bool:
        """Whether the robot has fallen and lies there."""
        silent_s = np.inf if self._state_at_s is None else now_s - self._state_at_s
        heard = silent_s <= self.config.state_damp_s
        return self.level == Level.DAMP and heard and self._has_fallen()

    def after_fall(self, level: Level, cause: str) -> None:
        """What has become of a fallen robot: up to SAFE_STAND, or still at DAMP."""
        assert level >= Level.SAFE_STAND, "only a release goes further"
        self._latched = (level, cause)

    # --- every period ---

    def step(self, now_s: float, body: Observation | None) -> SafeCommand:
        """The order for the period that begins now. `body` is the newest state, if one came."""
        slept_s = 0.0 if self._stepped_s is None else now_s - self._stepped_s
        self._stepped_s = now_s
        if slept_s > self.config.state_damp_s:
            self._latch(
                Level.SAFE_STAND, f"the loop slept for {slept_s:.1f} s: the robot has braked"
            )
        if body is not None and np.isfinite(body.state).all() and np.isfinite(body.time_s):
            self._body, self._state_at_s = body, min(body.time_s, now_s)
        elif self._state_at_s is None:
            self._state_at_s = now_s
        level, cause = self._judge(now_s, playing=self._player.command(now_s) is not None)
        self._enter(level, now_s)
        command = self._limiter.step(self._target(level, now_s))
        return SafeCommand(level, command, cause)

    def _judge(self, now_s: float, playing: bool) -> tuple[Level, str]:
        trouble = self._body_trouble(now_s)
        if trouble is not None and trouble[0] == Level.DAMP:
            self._latch(*trouble)
        hold = self._hold_cause(now_s, playing) if trouble is None else trouble[1]
        if hold and self._expecting_since_s is not None:
            self._hold_since_s = now_s if self._hold_since_s is None else self._hold_since_s
            # Half a period's grace: sums of periods are not exact.
            stand_s = self.config.hold_stand_s - self.embodiment.period_s / 2
            if now_s - self._hold_since_s >= stand_s:
                self._latch(Level.SAFE_STAND, hold)
        else:
            self._hold_since_s = None
        if self._latched is not None:
            return self._latched
        return (Level.HOLD, hold) if hold else (Level.RUN, "")

    def _hold_cause(self, now_s: float, playing: bool) -> str:
        assert self._body is not None or not playing
        if self._expecting_since_s is None:
            return "no instruction"
        if not playing:
            return "the policy is silent"
        assert self._body is not None
        if not self._body.image_age_s <= self.config.image_hold_s:  # nor if it is not a number
            return "the camera has frozen"
        return ""

    def _body_trouble(self, now_s: float) -> tuple[Level, str] | None:
        c = self.config
        if self._state_at_s is None:
            return Level.HOLD, "the robot has not said anything yet"
        silent_s = now_s - self._state_at_s
        if silent_s > c.state_damp_s:
            return Level.DAMP, f"the robot's state has been silent for over {c.state_damp_s:g} s"
        if self._has_fallen():
            return Level.DAMP, FALLEN
        if self._body is None or silent_s > c.state_hold_s:
            return Level.HOLD, "the robot's state is late"
        return None

    def _has_fallen(self) -> bool:
        body = self._body
        if body is None:
            return False
        knees = body.joint_pos_rad[self._knees]
        return is_falling(body.gravity, body.base_ang_vel_rad_s, knees, self.config)

    def _latch(self, level: Level, cause: str) -> None:
        if self._latched is None or level > self._latched[0]:
            self._latched = (level, cause)

    def _enter(self, level: Level, now_s: float) -> None:
        if level == self.level:
            return
        if level > self.level:
            self.counters[("", "holds", "stands", "damps")[level]] += 1
        if level == Level.RUN:
            self._player.rejoin(now_s, self._executing())
        else:
            self._eased = (now_s, self._limiter.value.astype(np.float32))
        if level >= Level.SAFE_STAND:
            self._player.reset()
        self.level = level

    def _target(self, level: Level, now_s: float) -> np.ndarray:
        since_s, start = self._eased
        if level == Level.RUN:
            played = self._player.command(now_s)
            assert played is not None
            return played
        if level == Level.HOLD:
            target = start.copy()
            target[self.embodiment.velocities] *= self._ramp(now_s - since_s)
            return target
        if level == Level.SAFE_STAND:
            share = min(1.0, (now_s - since_s) / self.config.stand_s)
            smooth = share * share * (3 - 2 * share)
            target = start + smooth * (self.embodiment.stand - start)
            moving = self.embodiment.velocities
            target[moving] = self._ramp(now_s - since_s) * start[moving]
            return target
        # Motors that only brake follow nothing: the next command starts where the joints are.
        self._limiter = Limiter(self._limits, self._as_measured(self.embodiment.stand))
        return self._limiter.value

    def _executing(self) -> np.ndarray:
        """(COMMANDS,) what a new chunk is joined to: the command in force.

        Above RUN the joints' targets are where the joints are.
        """
        command = self._limiter.value.astype(np.float32)
        return self._as_measured(command) if self.level > Level.RUN else command

    def _as_measured(self, command: np.ndarray) -> np.ndarray:
        command = command.copy()
        if self._body is not None:
            joints = self._body.joint_pos_rad[self.embodiment.target_joints]
            command[self.embodiment.targets] = joints
        return command

    def _ramp(self, since_s: float) -> float:
        """From 1 to 0 within `ramp_s`."""
        return max(0.0, 1 - since_s / self.config.ramp_s)

    def _fault_of(self, chunk: ActionChunk) -> str | None:
        shape = self.embodiment.chunk_shape
        if chunk.commands.shape != shape:
            return f"its commands are {chunk.commands.shape}, not {shape}"
        if not np.isfinite(chunk.commands).all():
            fields = np.flatnonzero(~np.isfinite(chunk.commands).all(axis=0))
            return f"its commands hold values that are not finite ({len(fields)} fields)"
        if not np.isfinite(chunk.observed_at_s):
            return "its stamp is not finite"
        return None


def tilt(gravity: np.ndarray) -> tuple[float, float]:
    """Roll and pitch (rad) of a body in which gravity points along a unit vector (3,)."""
    x, y, z = (float(value) for value in gravity)
    return float(np.arctan2(-y, -z)), float(np.arcsin(np.clip(x, -1, 1)))


def is_falling(
    gravity: np.ndarray, ang_vel: np.ndarray, knees: np.ndarray, config: SafetyConfig
) -> bool:
    """Whether a robot has fallen or surely will, by what its own IMU, gyro and knees say.

    `gravity` (3,) is a unit vector and `ang_vel` (3,) rad/s, both in the body's frame; `knees` (N,)
    rad, none for a body without.
    """
    lean_rad, rate_rad_s = lean(gravity, ang_vel)
    soon_rad = lean_rad + config.fall_ahead_s * rate_rad_s
    return bool(
        lean_rad > config.fall_lean_rad
        or (lean_rad > config.fall_onset_rad and soon_rad > config.fall_soon_rad)
        or (len(knees) > 0 and knees.min() > config.fall_knees_rad)
    )


def lean(gravity: np.ndarray, ang_vel: np.ndarray) -> tuple[float, float]:
    """How far a body is from upright (rad, 0 to pi) and how fast it leans further (rad/s)."""
    x, y, z = (float(value) for value in gravity)
    across = max(float(np.hypot(x, y)), 1e-6)
    # Seen from the body, gravity turns by -ang_vel x gravity.
    return float(np.arctan2(across, -z)), float(ang_vel[1] * x - ang_vel[0] * y) / across
