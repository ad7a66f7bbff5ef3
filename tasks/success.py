"""Success on the true state: did the robot do what it was told?

A `Success` watches every control period of an episode. Nothing that the robot believes or says
counts here. Those of the tasks are in tasks/families.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from robots.g1.embodiment import SIDES
from robots.rotations import to_heading
from sim.scene import Scene
from sim.world import World
from tasks.language.intent import Intent

HOLD_S = 1.0
STANDING_M_S = 0.15
STANDING_RAD_S = 0.3

KNOCKED_TILT_COS = np.cos(np.deg2rad(30))
KNOCKED_M = 0.10

# How far from where it began a robot may be that was told to stay there.
MOST_DRIFT_M = 0.5

# From the last wrist's origin to the middle of the hand.
HAND_M = np.array([0.1, 0.0, 0.0])


@dataclass(frozen=True)
class PrivilegedState:
    """The state by which success is judged. World frame, m, rad; sides in the order left, right.

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


def true_state(world: World) -> PrivilegedState:
    """Reads a world's truth after its last control period."""
    data = world.data
    wrists = [data.body(f"{side}_wrist_yaw_link") for side in SIDES]
    rotations = [wrist.xmat.reshape(3, 3) for wrist in wrists]
    objects = [world.object_pose(i) for i in range(len(world.scene.objects))]
    return PrivilegedState(
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


class Success(ABC):
    """Whether one episode succeeds. `begin` once, then `watch` after every control period.

    A skill says what its success is in `is_success`; it must hold for `hold_s`.
    """

    hold_s = HOLD_S

    def __init__(self, meaning: Intent, scene: Scene) -> None:
        self.meaning = meaning
        self.scene = scene

    @abstractmethod
    def is_success(self, truth: PrivilegedState) -> bool:
        """Whether the state is the one that was asked for."""

    def is_mistaken(self, truth: PrivilegedState) -> bool:
        """Whether the state is one that only another object or hand asks for.

        Who tries all of them one after another has not understood which.
        """
        return False

    @property
    def failed(self) -> bool:
        """Whether nothing can make the episode a success any more."""
        return self.fell or self.mistaken

    def begin(self, truth: PrivilegedState) -> None:
        self._start = self._last = truth
        self._yaw = 0.0
        self._since: float | None = None
        self._mistaken_since: float | None = None
        self.fell = truth.fallen
        self.knocked = self.mistaken = False

    def watch(self, truth: PrivilegedState) -> bool:
        """Whether the instruction has been carried out by now, and held where that is asked."""
        self._yaw += wrapped(truth.base[2] - self._last.base[2])
        self._last = truth
        self.fell |= truth.fallen
        self.knocked |= self._knocked(truth)
        self._mistaken_since = _since(self._mistaken_since, self.is_mistaken(truth), truth)
        self.mistaken |= _held(self._mistaken_since, truth, HOLD_S)
        self._since = _since(self._since, not self.failed and self.is_success(truth), truth)
        return _held(self._since, truth, self.hold_s)

    def remaining(self, truth: PrivilegedState) -> float:
        """How far a state is from the one that was asked for.

        Lengths in m and angles in rad are added up; 0 where a skill does not say.
        """
        return 0.0

    def details(self) -> dict[str, float]:
        """What the truth came to, for the record."""
        along, across, yaw = self.displacement(self._last)
        details = {"forward_m": along, "left_m": across, "turned_rad": yaw}
        if (target := self.target()) is not None:
            distance, bearing = self._last.distance_bearing(target)
            details |= {"distance_m": distance, "bearing_rad": bearing}
        return details

    def reached(self) -> dict[str, Any]:
        """Which object was asked for and which was reached, where a skill is about that."""
        return {}

    def target(self) -> int | None:
        """The one object that the instruction names, if it names one."""
        return named_object(self.meaning, self.scene)

    def nearest(self) -> tuple[int, float] | None:
        """The object nearest to the robot at the end, and its distance in m; None without any."""
        distances = [self._last.distance_bearing(i)[0] for i in range(len(self.scene.objects))]
        return min(enumerate(distances), key=lambda pair: pair[1]) if distances else None

    def displacement(self, truth: PrivilegedState) -> tuple[float, float, float]:
        """Forward m, left m and turned rad (not wrapped) since `begin`, in its heading frame."""
        dx, dy = np.subtract(truth.base[:2], self._start.base[:2])
        forward, left = to_heading(dx, dy, self._start.base[2])
        return float(forward), float(left), self._yaw

    def stayed(self, truth: PrivilegedState) -> bool:
        """Whether the robot is still about where it began."""
        return bool(np.hypot(*self.displacement(truth)[:2]) <= MOST_DRIFT_M)

    def _knocked(self, truth: PrivilegedState) -> bool:
        moved = np.linalg.norm(truth.objects_m[:, :2] - self._start.objects_m[:, :2], axis=1)
        # A ball has no upright.
        upright = [thing.shape != "ball" for thing in self.scene.objects]
        tilted = (truth.objects_up_cos < KNOCKED_TILT_COS) & np.array(upright, dtype=bool)
        return bool(np.any(moved > KNOCKED_M) or np.any(tilted))


def _since(before: float | None, now: bool, truth: PrivilegedState) -> float | None:
    """Since when a condition has held without a break, given since when it had before."""
    return None if not now else truth.time_s if before is None else before


def _held(since: float | None, truth: PrivilegedState, for_s: float) -> bool:
    return since is not None and bool(truth.time_s - since >= for_s)


class NoSuccess(Success):
    """Of what is out of scope: no state of the body is the one that was asked for."""

    def is_success(self, truth: PrivilegedState) -> bool:
        return False


def named_object(meaning: Intent, scene: Scene) -> int | None:
    """The one object of a scene that a meaning names, if it names one."""
    if not (meaning.colour or meaning.shape):
        return None
    named = [i for i, thing in enumerate(scene.objects) if meaning.fits(thing)]
    return named[0] if len(named) == 1 else None
