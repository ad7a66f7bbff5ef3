"""The reference gait: what the legs would do if balance were free, and the clock that it follows.

The walker's network only corrects it; numbers without a source were chosen by trial. All functions
broadcast over leading dimensions. Lengths m, angles rad, phases in [0, 1): stance below a half,
swing above.
"""

from __future__ import annotations

import numpy as np

from robots.g1.embodiment import CONTROL_HZ, STANDING_HEIGHT_M

PERIOD_S = 0.74
LIFT_M = 0.07
SOLE_RADIUS_M = 0.005
MOVING_SPEED = 0.05  # m/s or rad/s: a slower command is a stand
PENDULUM_RAD_S = 3.6  # sqrt(9.81 / height of the centre of mass)
# A fifth of a metre at the centre of mass starts a step; but steps sway by as much themselves, and
# would call for more for ever.
TIPPING_RAD, TIPPING_STEP_RAD = 0.25, 0.4
STUMBLING_RAD = 0.6
HURRY_RAD = 0.3

# The leg of the home pose, seen from the side: hip to knee, knee to ankle, hip to ankle, in
# the facts' frames.
THIGH_M, SHANK_M, LEG_M = 0.3366, 0.3000, 0.6014
DEEPEST_LEAN_RAD = 0.82  # an ankle ends at 0.87 rad: deeper squats go back, not down alone
BOW_HIPS_BACK = 0.13  # rad of leg per rad of torso: the centre of mass stays over the feet
BOW_SAG = 0.3  # the share of a bow that the torso's own weight makes, against a soft waist
WAIST_LEAN_PER_M = 6.0  # the waist bends forward as hips go back: the body stays over its feet
HIP_PITCH_PER_M_S = 0.55
HIP_YAW_PER_RAD_S = 0.35
HIP_ROLL_PER_M_S = 0.45
# The soft hips droop under one leg's weight, and a foot lifted by less stays on the floor.
KNEE_LIFT_RAD = 0.8
STANCE_HIP_RAD = 0.4
# How far the mean leg leans, forward and left, per rad of its joints. A knee bends the line from
# hip to ankle by half its angle.
LEG_LEAN = np.zeros((12, 2))
LEG_LEAN[[0, 6], 0], LEG_LEAN[[3, 9], 0], LEG_LEAN[[1, 7], 1] = 0.5, 0.25, -0.5
_OUTWARDS = np.array([1.0, -1.0])  # hip roll of the left and of the right leg


def leg_phases(phase: np.ndarray) -> np.ndarray:
    """(..., 2) phases of the left and the right leg, half a cycle apart."""
    return np.stack([phase, (phase + 0.5) % 1.0], axis=-1)


def is_moving(velocity: np.ndarray) -> np.ndarray:
    """Whether a (..., 3) commanded base velocity (m/s, m/s, rad/s) asks for steps."""
    return np.abs(velocity).max(axis=-1) > MOVING_SPEED


def capture_offset(
    gravity: np.ndarray, ang_vel: np.ndarray, joint_offset: np.ndarray, joint_vel: np.ndarray
) -> np.ndarray:
    """(..., 2) rad, forward and left: where the body is about to lean, seen from between its feet.

    The lean of the mean leg plus its rate over the pendulum's frequency, which is the instantaneous
    capture point over its height (Koolen et al. 2012). A pelvis that a push carries off stays
    upright over its soft legs for half a second, so its own lean would tell too late. `gravity`
    (..., 3) is a unit vector and `ang_vel` (..., 3) rad/s, both in the base frame; joints (..., 29)
    are offsets from the commanded posture in rad, and rad/s.
    """
    rate = np.stack([ang_vel[..., 1], -ang_vel[..., 0]], axis=-1)
    legs, leg_vel = joint_offset[..., :12] @ LEG_LEAN, joint_vel[..., :12] @ LEG_LEAN
    return gravity[..., :2] + legs + (rate + leg_vel) / PENDULUM_RAD_S


def is_tipping(capture: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """Whether a (..., 2) capture offset has left the feet, so that only a step can save it.

    While the clock runs, at a phase above zero, more is normal.
    """
    return _lean(capture) > np.where(phase > 0, TIPPING_STEP_RAD, TIPPING_RAD)


def is_stumbling(capture: np.ndarray) -> np.ndarray:
    """Whether a (..., 2) capture offset is more than that of any walk."""
    return _lean(capture) > STUMBLING_RAD


def pace(capture: np.ndarray) -> np.ndarray:
    """(...) how fast the clock runs: twice as fast while a (..., 2) capture offset is large.

    The foot that would catch a fall may be the one that has just come down. The capture point runs
    away by a factor of four within half a period, so the next step had better be early.
    """
    return np.where(_lean(capture) > HURRY_RAD, 2.0, 1.0)


def start_phase(phase: np.ndarray, velocity: np.ndarray, capture: np.ndarray) -> np.ndarray:
    """The clock as a step begins: a stand that tips over to the left lifts the left foot first.

    `capture` (..., 2) rad as of `capture_offset`.
    """
    starting = (phase == 0) & ~is_moving(velocity) & is_tipping(capture, phase)
    return np.where(starting & (capture[..., 1] > 0), 0.5, phase)


def is_stepping(phase: np.ndarray, velocity: np.ndarray, capture: np.ndarray) -> np.ndarray:
    """Whether the clock runs: for the command, to save the balance, or to end a step begun."""
    return is_moving(velocity) | is_tipping(capture, phase) | (phase > 0)


def advance_clock(
    phase: np.ndarray, unasked_s: np.ndarray, velocity: np.ndarray, capture: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The phase, and how long nothing has asked for steps, one control period later.

    On a stand in balance the phase rests at zero. A clock that nothing asks for any more ends its
    step and takes a whole one in place: a stand with one foot ahead does not last.
    """
    ticking = phase + pace(capture) / (CONTROL_HZ * PERIOD_S)
    wanted = is_moving(velocity) | is_tipping(capture, phase)
    unasked_s = np.where(wanted, 0.0, unasked_s + 1.0 / CONTROL_HZ)
    step_ends = (ticking >= 1.0) | ((phase < 0.5) & (ticking >= 0.5))
    in_place = unasked_s > 0.5 * PERIOD_S - 0.5 / CONTROL_HZ
    rests = ~wanted & ((phase == 0) | (step_ends & in_place))
    return np.where(rests, 0.0, ticking % 1.0), unasked_s


def _lean(capture: np.ndarray) -> np.ndarray:
    return np.hypot(capture[..., 0], capture[..., 1])


def posture(height: np.ndarray, pitch: np.ndarray) -> np.ndarray:
    """(..., 15) offsets of leg and waist joints for a pelvis at (...) m, a torso at (...) rad.

    The torso bows forward over an upright pelvis, while the legs carry the hips back.
    """
    offsets = squat(height)
    back = BOW_HIPS_BACK * np.asarray(pitch)
    for hip in (0, 6):
        offsets[..., hip] -= back
        offsets[..., hip + 4] += back
    offsets[..., 14] += pitch
    return offsets


def squat(height: np.ndarray) -> np.ndarray:
    """(..., 15) offsets of the leg and waist joints that lower the pelvis to (...) m, feet flat.

    The two-link leg of the home pose, shortened; `height` at most STANDING_HEIGHT_M and at least
    0.45.
    """
    leg = LEG_M - (STANDING_HEIGHT_M - height)

    def lean(of: float, other: float, length: np.ndarray | float) -> np.ndarray:
        """By the law of cosines: the angle between one link and the line from hip to ankle."""
        return np.arccos((of**2 + length**2 - other**2) / (2 * of * length))

    shank = np.minimum(lean(SHANK_M, THIGH_M, leg), DEEPEST_LEAN_RAD)
    thigh = np.arccos((leg - SHANK_M * np.cos(shank)) / THIGH_M)
    shank_bend = shank - lean(SHANK_M, THIGH_M, LEG_M)
    thigh_bend = thigh - lean(THIGH_M, SHANK_M, LEG_M)
    back = np.maximum(THIGH_M * np.sin(thigh) - SHANK_M * np.sin(shank), 0.0)
    offsets = np.zeros((*np.shape(height), 15))
    for hip in (0, 6):
        offsets[..., hip] = -thigh_bend
        offsets[..., hip + 3] = thigh_bend + shank_bend
        offsets[..., hip + 4] = -shank_bend
    offsets[..., 14] = np.minimum(WAIST_LEAN_PER_M * back, 0.45)
    return offsets


def foot_lift(phases: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """(..., 2) in [0, 1]: how far each foot should be up."""
    lift = np.where(phases < 0.5, 0.0, np.sin(np.pi * (2 * phases - 1)))
    return lift * moving[..., None]


def reference(phases: np.ndarray, velocity: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """(..., 15) offsets of the leg and waist joints from home, in the SDK order."""
    sweep = np.where(phases < 0.5, 4 * phases - 1, np.cos(np.pi * (2 * phases - 1)))
    sweep = sweep * moving[..., None]
    lift = foot_lift(phases, moving)
    forward = HIP_PITCH_PER_M_S * velocity[..., 0:1] * sweep
    offsets = np.zeros((*phases.shape[:-1], 15))
    legs = offsets[..., :12].reshape(*phases.shape, 6)  # a view: what it gets, `offsets` has
    legs[..., 0] = forward - 0.5 * KNEE_LIFT_RAD * lift
    # A stance hip is held up, outwards, while the other leg is in the air.
    legs[..., 1] = STANCE_HIP_RAD * lift[..., ::-1] * _OUTWARDS
    legs[..., 1] -= HIP_ROLL_PER_M_S * velocity[..., 1:2] * sweep
    legs[..., 2] = -HIP_YAW_PER_RAD_S * velocity[..., 2:3] * sweep
    legs[..., 3] = KNEE_LIFT_RAD * lift
    legs[..., 4] = -0.5 * (KNEE_LIFT_RAD * lift + forward)
    return offsets


def foot_height(lift: np.ndarray) -> np.ndarray:
    """Reference height of the sole spheres' centres above the floor."""
    return SOLE_RADIUS_M + LIFT_M * lift
