"""Success on the true state: did the robot do what it was told?

A judge watches every control period of an episode. Nothing that the robot believes or says counts
here. Tolerances are the constants below.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.scene import Scene
from sim.world import World
from tasks.arms import SIDES
from tasks.language.intent import Meaning

HOLD_S = 1.0
STANDING_M_S = 0.15
STANDING_RAD_S = 0.3

GOAL_M = 0.6
FACING_RAD = np.deg2rad(25)
KNOCKED_TILT_COS = np.cos(np.deg2rad(30))
KNOCKED_M = 0.10

RELATIVE_TOLERANCE = 0.25
# A quarter of a small amount is less than a footstep: these are the least tolerances.
LEAST_TOLERANCE_M = 0.15
LEAST_TOLERANCE_RAD = np.deg2rad(12)
MOST_ASIDE_M = 0.3
MOST_DRIFT_M = 0.5
MOST_ASKEW_RAD = np.deg2rad(25)

RAISED_M = 0.05
POINTING_RAD = np.deg2rad(20)
SWING_M = 0.12
SWINGS = 2

# From the last wrist's origin to the middle of the hand.
HAND_M = np.array([0.1, 0.0, 0.0])


@dataclass(frozen=True)
class Truth:
    """The state that a judge may see. World frame, m, rad; sides in the order left, right.

    `base` is x, y and yaw; `objects_xy_m` (n, 2); `objects_up_cos` (n,); `hands_m`, `hand_axes`
    (unit vectors along the hands) and `shoulders_m` are (2, 3).
    """

    time_s: float
    base: tuple[float, float, float]
    pelvis_z_m: float
    speed_m_s: float
    yaw_rate_rad_s: float
    fallen: bool
    objects_m: np.ndarray
    objects_up_cos: np.ndarray
    hands_m: np.ndarray
    hand_axes: np.ndarray
    shoulders_m: np.ndarray

    def standing(self) -> bool:
        return self.speed_m_s < STANDING_M_S and abs(self.yaw_rate_rad_s) < STANDING_RAD_S

    def distance_bearing(self, index: int) -> tuple[float, float]:
        """Distance (m) of an object's centre in the plane, and its bearing from the heading."""
        dx, dy = self.objects_m[index, :2] - self.base[:2]
        return float(np.hypot(dx, dy)), wrapped(np.arctan2(dy, dx) - self.base[2])


def true_state(world: World) -> Truth:
    """Reads a world's truth after its last control period."""
    data = world.data
    wrists = [data.body(f"{side}_wrist_yaw_link") for side in SIDES]
    rotations = [wrist.xmat.reshape(3, 3) for wrist in wrists]
    objects = [world.object_pose(i) for i in range(len(world.scene.objects))]
    return Truth(
        time_s=world.time_s,
        base=world.base_pose(),
        pelvis_z_m=float(data.body("pelvis").xpos[2]),
        speed_m_s=float(np.hypot(*data.qvel[:2])),
        yaw_rate_rad_s=float(data.qvel[5]),
        fallen=world.fallen(),
        objects_m=np.array([position for position, _ in objects]).reshape(-1, 3),
        objects_up_cos=np.array([up_cos for _, up_cos in objects]),
        hands_m=np.array([w.xpos + r @ HAND_M for w, r in zip(wrists, rotations, strict=True)]),
        hand_axes=np.array([rotation[:, 0] for rotation in rotations]),
        shoulders_m=np.array([data.body(f"{side}_shoulder_roll_link").xpos for side in SIDES]),
    )


def wrapped(angle: float) -> float:
    """The same angle in [-pi, pi)."""
    return float((angle + np.pi) % (2 * np.pi) - np.pi)


class Judge:
    """Watches one episode. `begin` once, then `watch` after every control period."""

    def __init__(self, meaning: Meaning, scene: Scene):
        self.meaning = meaning
        self.scene = scene

    @property
    def spoilt(self) -> bool:
        """Whether nothing can make the episode a success any more."""
        return self.fell or (self.knocked and self.meaning.action == "go_to")

    def begin(self, truth: Truth) -> None:
        self._start = self._last = truth
        self._yaw = 0.0
        self._since: float | None = None
        self._tracks = [_Swings() for _ in SIDES]
        self.fell = truth.fallen
        self.knocked = False

    def watch(self, truth: Truth) -> bool:
        """Whether the instruction has been carried out by now, and held where that is asked."""
        self._yaw += wrapped(truth.base[2] - self._last.base[2])
        self._last = truth
        self.fell |= truth.fallen
        self.knocked |= self._knocked(truth)
        for track, raised, hand in zip(
            self._tracks, self._raised(truth), self._aside(truth), strict=True
        ):
            track.watch(raised, hand)
        if self.spoilt or not self.fulfilled(truth):
            self._since = None
            return False
        if self._since is None:
            self._since = truth.time_s
        hold_s = 0.0 if self.meaning.action == "wave" else HOLD_S
        return bool(truth.time_s - self._since >= hold_s)

    def details(self) -> dict[str, float]:
        """What the truth came to, for the record."""
        along, across, yaw = self.displacement(self._last)
        details = {"forward_m": along, "left_m": across, "turned_rad": yaw}
        if (target := self.target()) is not None:
            distance, bearing = self._last.distance_bearing(target)
            details |= {"distance_m": distance, "bearing_rad": bearing}
        return details

    def target(self) -> int | None:
        """The one object that the instruction names, if it names one."""
        meaning = self.meaning
        if not (meaning.colour or meaning.shape):
            return None
        named = [
            i
            for i, thing in enumerate(self.scene.objects)
            if meaning.colour in (None, thing.colour) and meaning.shape in (None, thing.shape)
        ]
        return named[0] if len(named) == 1 else None

    def nearest(self) -> tuple[int, float] | None:
        """The object nearest to the robot at the end, and its distance in m; None without any."""
        distances = [self._last.distance_bearing(i)[0] for i in range(len(self.scene.objects))]
        return min(enumerate(distances), key=lambda pair: pair[1]) if distances else None

    def displacement(self, truth: Truth) -> tuple[float, float, float]:
        """Forward m, left m and turned rad (not wrapped) since `begin`, in its heading frame."""
        dx, dy = np.subtract(truth.base[:2], self._start.base[:2])
        cos, sin = np.cos(self._start.base[2]), np.sin(self._start.base[2])
        return float(cos * dx + sin * dy), float(-sin * dx + cos * dy), self._yaw

    def fulfilled(self, truth: Truth) -> bool:
        """Whether the state is the one that was asked for; tasks of the user's own say it anew."""
        action = self.meaning.action
        if action == "go_to":
            return self._at_goal(truth)
        if action.startswith(("walk", "step", "turn", "stop")):
            return truth.standing() and self._moved_right(truth)
        if np.hypot(*self.displacement(truth)[:2]) > MOST_DRIFT_M:
            return False
        return {
            "raise_hand": self._hands_up,
            "wave": self._waved,
            "point_at": self._pointing,
            "lower_arms": self._hands_down,
        }.get(action, lambda _: False)(truth)

    def _knocked(self, truth: Truth) -> bool:
        moved = np.linalg.norm(truth.objects_m[:, :2] - self._start.objects_m[:, :2], axis=1)
        # A ball has no upright.
        upright = [thing.shape != "ball" for thing in self.scene.objects]
        tilted = (truth.objects_up_cos < KNOCKED_TILT_COS) & np.array(upright, dtype=bool)
        return bool(np.any(moved > KNOCKED_M) or np.any(tilted))

    def _at_goal(self, truth: Truth) -> bool:
        target = self.target()
        if target is None or not truth.standing():
            return False
        distance, bearing = truth.distance_bearing(target)
        return distance < GOAL_M and abs(bearing) < FACING_RAD

    def _moved_right(self, truth: Truth) -> bool:
        action = self.meaning.action
        forward, left, yaw = self.displacement(truth)
        if action == "stop":
            return bool(np.hypot(forward, left) < MOST_DRIFT_M)
        sign = -1.0 if action in ("walk_backward", "step_right", "turn_right") else 1.0
        if action.startswith("turn"):
            angle = self.meaning.angle_rad
            tolerance = max(RELATIVE_TOLERANCE * angle, LEAST_TOLERANCE_RAD)
            drift = np.hypot(forward, left)
            return abs(sign * yaw - angle) <= tolerance and bool(drift < MOST_DRIFT_M)
        distance = self.meaning.distance_m
        along, across = (left, forward) if action.startswith("step") else (forward, left)
        return (
            abs(sign * along - distance) <= max(RELATIVE_TOLERANCE * distance, LEAST_TOLERANCE_M)
            and abs(across) <= max(RELATIVE_TOLERANCE * distance, MOST_ASIDE_M)
            and abs(yaw) <= MOST_ASKEW_RAD
        )

    def _raised(self, truth: Truth) -> np.ndarray:
        return truth.hands_m[:, 2] > truth.shoulders_m[:, 2] + RAISED_M

    def _aside(self, truth: Truth) -> np.ndarray:
        """(2,) m: the hands' places to the left of the pelvis."""
        yaw = truth.base[2]
        return (truth.hands_m[:, :2] - truth.base[:2]) @ np.array([-np.sin(yaw), np.cos(yaw)])

    def _hands_up(self, truth: Truth) -> bool:
        """The hands that are asked for, and no other; any one if the side is not said."""
        raised = self._raised(truth)
        if self.meaning.side is None:
            return raised.sum() == 1
        asked = [self.meaning.side in (side, "both") for side in SIDES]
        return bool(np.array_equal(raised, asked))

    def _hands_down(self, truth: Truth) -> bool:
        return bool(np.all(truth.hands_m[:, 2] < truth.pelvis_z_m))

    def _waved(self, truth: Truth) -> bool:
        waved = {side: t.swings >= SWINGS for side, t in zip(SIDES, self._tracks, strict=True)}
        if self.meaning.side == "both":
            return all(waved.values())
        return waved[self.meaning.side] if self.meaning.side else any(waved.values())

    def _pointing(self, truth: Truth) -> bool:
        """A hand, and the line from its shoulder to it, aim at the object."""
        target = self.target()
        if target is None:
            return False
        for side, hand, axis, shoulder in zip(
            SIDES, truth.hands_m, truth.hand_axes, truth.shoulders_m, strict=True
        ):
            towards = truth.objects_m[target] - hand
            angles = _angle(axis, towards), _angle(hand - shoulder, towards)
            if self.meaning.side in (None, side) and max(angles) < POINTING_RAD:
                return True
        return False


class _Swings:
    """Counts how often a raised hand swung to one side and back, each way SWING_M or more."""

    def __init__(self) -> None:
        self._turning_point: float | None = None
        self._direction = 0
        self._ways = 0

    @property
    def swings(self) -> int:
        return self._ways // 2

    def watch(self, raised: bool, place_m: float) -> None:
        if not raised:
            self._turning_point, self._direction = None, 0
            return
        if self._turning_point is None:
            self._turning_point = place_m
        moved = place_m - self._turning_point
        if self._direction * moved > 0:
            self._turning_point = place_m  # still on its way: the turning point moves along
        elif abs(moved) >= SWING_M:
            self._direction = 1 if moved > 0 else -1
            self._turning_point = place_m
            self._ways += 1


def _angle(a: np.ndarray, b: np.ndarray) -> float:
    cos = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.arccos(np.clip(cos, -1.0, 1.0)))
