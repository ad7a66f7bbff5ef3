"""The walker: base velocity and arm targets in, 29 joint targets out, 50 times a second.

Target = home + reference gait + scale x action, where a small network learned the action
(sim/locomotion/train.py). At run time this needs numpy and onnxruntime alone.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from assets import asset_path
from assets.inference import ort
from bridge.contract import UserError
from robots.g1 import gait
from robots.g1.embodiment import (
    ARM_SPEED_RAD_S,
    ARMS,
    BASE_HEIGHT,
    CONTROL_HZ,
    G1,
    HEIGHT_RATE_M_S,
    HIGHEST_M,
    JOINT_NAMES,
    LOWEST_M,
    N_ARM_JOINTS,
    STANDING_HEIGHT_M,
    WAIST_PITCH,
)
from robots.g1.facts import N_LEG_WAIST_JOINTS, joint_facts

OBSERVATION_DIM = 86
DEEPEST_BOW_RAD, BOW_RATE_RAD_S = 0.5, 0.5
# Turns are corrected by 3 rad/s for each rad that was turned too little in the last ten seconds.
HEADING_GAIN_1_S, HEADING_MEMORY_S = 3.0, 10.0
FASTEST_TURN_RAD_S = 1.5  # of the network, so that a turn at the end of its range can be corrected


@lru_cache
def action_scale() -> np.ndarray:
    """(15,) rad per unit of action: a quarter of the motor's effort over its stiffness.

    As in BeyondMimic (Liao et al. 2025, arXiv:2508.08241).
    """
    scale = 0.25 * joint_facts("effort_limit_nm") / joint_facts("kp_nm_rad")
    return scale[:N_LEG_WAIST_JOINTS]


def joint_offsets(joint_pos: np.ndarray, posture: np.ndarray) -> np.ndarray:
    """(..., 29) rad: how far joints at (..., 29) rad are from home in a posture.

    `posture` (..., 15) rad as of `gait.posture`.
    """
    offsets = joint_pos - joint_facts("home_rad")
    offsets[..., :N_LEG_WAIST_JOINTS] -= posture
    return offsets


def hold_heading(
    heading_error: np.ndarray, velocity: np.ndarray, ang_vel: np.ndarray, capture: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The velocity to ask of the network so that turns come true, and the new heading error.

    The network sees a single moment of a swaying gyroscope, and no turn that is a little off.
    `heading_error` (...) rad is how much was turned too little, of late, as far as the network
    may be asked for it: who was held fast turns back by less than a radian. Velocity (..., 3) and
    `ang_vel` (..., 3) in the base frame; `capture` (..., 2) rad as of `gait.capture_offset`. A
    stand turns nowhere, and who stumbles has no legs to spare for turning back: both forget it.
    """
    missing = velocity[..., 2] - ang_vel[..., 2] - heading_error / HEADING_MEMORY_S
    steady = gait.is_moving(velocity) & ~gait.is_stumbling(capture)
    heading_error = np.where(steady, heading_error + missing / CONTROL_HZ, 0.0)
    asked = velocity.copy()
    turn = velocity[..., 2] + HEADING_GAIN_1_S * heading_error
    asked[..., 2] = np.clip(turn, -FASTEST_TURN_RAD_S, FASTEST_TURN_RAD_S)
    return asked, (asked[..., 2] - velocity[..., 2]) / HEADING_GAIN_1_S


@lru_cache
def _joint_range() -> tuple[np.ndarray, np.ndarray]:
    """(29,) rad least and most of every joint."""
    low, high = joint_facts("range_rad").T
    return low.copy(), high.copy()  # each in one piece


def towards(now: np.ndarray, wanted: np.ndarray, rate: float | np.ndarray) -> np.ndarray:
    """What is wanted, or as near to it as `rate` per second allows in one control period."""
    step = rate / CONTROL_HZ
    return now + np.minimum(np.maximum(wanted - now, -step), step)


class ControlLaw:
    """What surrounds the walker's network, of one robot or many: posture, arms, clock and heading.

    A control period is `observe`, the network, `act`: at run time and in training alike. All
    attributes are arrays with a row for each robot, or without such a dimension for one robot.
    """

    def __init__(self, n: int | None = None) -> None:
        lead = () if n is None else (n,)
        self.phase, self.unasked_s, self.heading_error = (np.zeros(lead) for _ in range(3))
        self.height, self.pitch = np.zeros(lead), np.zeros(lead)
        self.arms = np.zeros((*lead, N_ARM_JOINTS))
        self.action = np.zeros((*lead, N_LEG_WAIST_JOINTS), dtype=np.float32)
        self.reset()

    def reset(self, robots: np.ndarray | None = None) -> None:
        """Forgets all steps; of those robots alone that a (n,) bool marks."""
        forgotten = ... if robots is None else robots
        self.phase[forgotten] = self.unasked_s[forgotten] = self.heading_error[forgotten] = 0.0
        self.action[forgotten] = 0.0
        self.height[forgotten], self.pitch[forgotten] = STANDING_HEIGHT_M, 0.0
        self.arms[forgotten] = np.nan  # unknown: the next step reads where they are

    def part(self, robots: np.ndarray) -> ControlLaw:
        """A copy for those robots alone that a (n,) bool marks."""
        law = ControlLaw()
        vars(law).update({name: value[robots] for name, value in vars(self).items()})
        return law

    def observe(
        self,
        command: np.ndarray,
        torso_pitch: np.ndarray,
        joint_pos: np.ndarray,
        joint_vel: np.ndarray,
        ang_vel: np.ndarray,
        gravity: np.ndarray,
        arm_speed: float | np.ndarray = ARM_SPEED_RAD_S,
    ) -> np.ndarray:
        """(..., 86) float32: what the network reads as a control period begins.

        Posture and arms begin to follow an (..., 18) command and a (...) rad torso pitch within
        their ranges; the rest is as of `observation`.
        """
        self.velocity = command[..., :BASE_HEIGHT].copy()
        arms = np.where(np.isnan(self.arms), joint_pos[..., N_LEG_WAIST_JOINTS:], self.arms)
        height = np.clip(command[..., BASE_HEIGHT], LOWEST_M, HIGHEST_M)
        pitch = np.clip(torso_pitch, 0.0, DEEPEST_BOW_RAD)
        self.arms[...] = towards(arms, command[..., ARMS], arm_speed)
        self.height[...] = towards(self.height, height, HEIGHT_RATE_M_S)
        self.pitch[...] = towards(self.pitch, pitch, BOW_RATE_RAD_S)
        self.posture = gait.posture(self.height, self.pitch)
        self.joint_offset = joint_offsets(joint_pos, self.posture)
        self.capture = gait.capture_offset(gravity, ang_vel, self.joint_offset, joint_vel)
        self.phase[...] = gait.start_phase(self.phase, self.velocity, self.capture)
        self.stepping = gait.is_stepping(self.phase, self.velocity, self.capture)
        self.asked, self.heading_error[...] = hold_heading(
            self.heading_error, self.velocity, ang_vel, self.capture
        )
        return self.observation(self.joint_offset, joint_vel, ang_vel, gravity)

    def observation(
        self,
        joint_offset: np.ndarray,
        joint_vel: np.ndarray,
        ang_vel: np.ndarray,
        gravity: np.ndarray,
    ) -> np.ndarray:
        """(..., 86) float32: what the network reads of the moment last observed.

        The sensors may have said otherwise than in `observe`: joints (..., 29), offsets as of
        `joint_offsets` and rad/s; angular velocity (..., 3) rad/s and gravity (..., 3) in the IMU
        frame.
        """
        angle = 2 * np.pi * self.phase[..., None]
        stepping = self.stepping[..., None]
        # Scaled to about unit size: a tenth of a radian of joint offset decides about balance.
        return np.concatenate(
            [
                ang_vel * 0.5,
                gravity * 3.0,
                self.asked * np.array([2.0, 2.0, 1.0]),
                np.sin(angle) * stepping,
                np.cos(angle) * stepping,
                joint_offset * 4.0,
                joint_vel * 0.1,
                self.action,
                5.0 * (STANDING_HEIGHT_M - self.height[..., None]),
                2.0 * self.pitch[..., None],
            ],
            axis=-1,
        ).astype(np.float32)

    def act(self, action: np.ndarray) -> np.ndarray:
        """(..., 29) rad within the joints' ranges: the targets that a (..., 15) action makes.

        Legs and waist at home + posture + reference + scaled action, arms as they follow.
        """
        self.action = action
        home = joint_facts("home_rad")[:N_LEG_WAIST_JOINTS] + self.posture
        home[..., WAIST_PITCH] -= gait.BOW_SAG * self.pitch
        offsets = gait.reference(gait.leg_phases(self.phase), self.asked, self.stepping)
        legs = home + offsets + action * action_scale()
        targets = np.concatenate([legs, self.arms], axis=-1)
        # The clock follows the balance that the command was computed from.
        self.phase[...], self.unasked_s[...] = gait.advance_clock(
            self.phase, self.unasked_s, self.velocity, self.capture
        )
        low, high = _joint_range()
        return np.minimum(np.maximum(targets, low), high)


class Walker:
    """The walker of one robot, or of `n`: the network within its control law."""

    takes_posture = True

    def __init__(self, path: Path | str | None = None, n: int | None = None) -> None:
        """With `n`, every array given and returned has a row for each robot."""
        path = Path(path) if path else asset_path("models/walker.onnx")
        if not path.is_file():
            raise UserError(f"walker {path} does not exist; train one with: hitogata walk")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has a class for each way to be no graph
            raise UserError(
                f"walker {path} is no ONNX file; train one with: hitogata walk"
            ) from error
        _check_walker(path, self._session)
        self._law = ControlLaw(n)

    def reset(self, robots: np.ndarray | None = None) -> None:
        """Forgets all steps; of those robots alone that a (n,) bool marks."""
        self._law.reset(robots)

    def step(
        self,
        command: np.ndarray,
        joint_pos: np.ndarray,
        joint_vel: np.ndarray,
        ang_vel: np.ndarray,
        gravity: np.ndarray,
        torso_pitch: float | np.ndarray = 0.0,
    ) -> np.ndarray:
        """29 joint targets (rad) for the next control period from an (18,) command.

        `torso_pitch` rad, 0 to 0.5, bows the torso forward. Velocities, height and pitch are
        clamped to the trained range, arms to the joint ranges and to 3 rad/s. Raises ValueError,
        before anything changes, where a number is not finite.
        """
        for name, values in (
            ("command", command),
            ("joint positions", joint_pos),
            ("joint velocities", joint_vel),
            ("angular velocity", ang_vel),
            ("gravity", gravity),
            ("torso pitch", torso_pitch),
        ):
            if not np.isfinite(values).all():
                raise ValueError(f"the walker was given {name} that are not finite")
        command = np.clip(command, G1.limits.low, G1.limits.high)
        observation = self._law.observe(
            command, np.asarray(torso_pitch), joint_pos, joint_vel, ang_vel, gravity
        )
        rows = observation.reshape(-1, OBSERVATION_DIM)
        action = self._session.run(None, {"observation": rows})[0]
        return self._law.act(action.reshape(self._law.action.shape))


def _check_walker(path: Path, session: ort.InferenceSession) -> None:
    """Refuses a file that is not a walker of this body at this rate."""
    retrain = "train one for this body with: hitogata walk"
    width = session.get_inputs()[0].shape[-1]
    if width != OBSERVATION_DIM:
        raise UserError(f"walker {path} reads {width} numbers, not {OBSERVATION_DIM}; {retrain}")
    about = session.get_modelmeta().custom_metadata_map
    if about.get("joints", "").split(",") != list(JOINT_NAMES):
        raise UserError(f"walker {path} has its joints in another order; {retrain}")
    if float(about.get("rate_hz", "0")) != CONTROL_HZ:
        raise UserError(
            f"walker {path} is for {about.get('rate_hz', 'no known')} Hz, not {CONTROL_HZ:g};"
            f" {retrain}"
        )
