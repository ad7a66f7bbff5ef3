"""Gestures: raising, waving and lowering hands, and pointing at an object."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import atan2, radians
from pathlib import Path

import numpy as np

from bridge.contract import Status
from robots.g1.embodiment import ARM_HOME_RAD, ARMS, SIDES, STAND_COMMAND, STANDING_HEIGHT_M
from tasks import arms
from tasks.expert import ExpertState, ExpertTarget, stand, turning, without_target
from tasks.language.grammar import pick
from tasks.language.intent import Intent
from tasks.success import PrivilegedState, Success
from tasks.task import Skill, Task

DEFAULT_SIDE = "right"

RAISE_S = 2.2
WAVE_START_S = 1.6
WAVE_END_S = 7.0
ARM_REACHED_RAD = 0.25
POINT_FACING_RAD = radians(20)

RAISED_M = 0.05
POINTING_RAD = np.deg2rad(20)
SWING_M = 0.12
SWINGS = 2


# --- the expert -------------------------------------------------------------------------------


def raise_hand(meaning: Intent, moment: ExpertState) -> ExpertTarget:
    """Stands with the hands asked for held up."""
    goal = arms.raised(_sides(meaning))
    done = moment.elapsed_s > RAISE_S and _reached(moment, goal)
    return ExpertTarget((0.0, 0.0, 0.0), goal, Status.DONE if done else Status.ACTING)


def lower_arms(meaning: Intent, moment: ExpertState) -> ExpertTarget:
    """Stands with both arms at home."""
    done = moment.elapsed_s > RAISE_S and _reached(moment, ARM_HOME_RAD)
    return stand(Status.DONE if done else Status.ACTING)


def wave(meaning: Intent, moment: ExpertState) -> ExpertTarget:
    """Raises the hand, swings it by the clock of the instruction, and lowers it again."""
    if moment.elapsed_s > WAVE_END_S:
        return stand(Status.DONE)
    phase_s = moment.elapsed_s - WAVE_START_S
    goal = arms.waving(_sides(meaning), phase_s)
    return ExpertTarget((0.0, 0.0, 0.0), goal, Status.ACTING)


def point_at(meaning: Intent, moment: ExpertState) -> ExpertTarget:
    """Turns until the object is well ahead, then stretches the arm toward it."""
    named = moment.seen.named
    if len(named) != 1:
        return without_target(moment)
    x, y = moment.place(named[0])
    bearing = atan2(y, x)
    target = (x, y, named[0][2] - STANDING_HEIGHT_M)
    goal = arms.both_arms({side: arms.pointing(side, target) for side in _sides(meaning)})
    resting = moment.still() and abs(bearing) < POINT_FACING_RAD
    rate = 0.0 if resting else turning(bearing)
    done = rate == 0.0 and moment.still() and _reached(moment, goal)
    return ExpertTarget((0.0, 0.0, rate), goal, Status.DONE if done else Status.ACTING)


def _sides(meaning: Intent) -> tuple[str, ...]:
    return SIDES if meaning.side == "both" else (meaning.side or DEFAULT_SIDE,)


def _reached(moment: ExpertState, goal: np.ndarray) -> bool:
    return bool(np.abs(moment.arm_targets - goal).max() < ARM_REACHED_RAD)


# --- success ----------------------------------------------------------------------------------


class Raised(Success):
    """The hands that are asked for, and no other; any one if the side is not said."""

    def is_success(self, truth: PrivilegedState) -> bool:
        return self.stayed(truth) and _are_asked(_raised(truth), self.meaning)

    def is_mistaken(self, truth: PrivilegedState) -> bool:
        return _has_others(_raised(truth), self.meaning)

    def remaining(self, truth: PrivilegedState) -> float:
        below = _below_raised(truth)
        return min(
            float(np.maximum(0, np.where(asked, below, -below)).sum())
            for asked in _ways_to_choose(self.meaning)
        )


class Lowered(Success):
    """Both hands below the pelvis."""

    def is_success(self, truth: PrivilegedState) -> bool:
        return self.stayed(truth) and bool(np.all(truth.hands_m[:, 2] < truth.pelvis_z_m))

    def remaining(self, truth: PrivilegedState) -> float:
        return float(np.maximum(0, truth.hands_m[:, 2] - truth.pelvis_z_m).sum())


class Waved(Success):
    """Swings of the raised hands that are asked for; of any one if the side is not said.

    Of both only while both are raised: to wave one after the other serves every side at once.
    """

    hold_s = 0.0

    def begin(self, truth: PrivilegedState) -> None:
        super().begin(truth)
        self._swings = [_Swings() for _ in SIDES]

    def watch(self, truth: PrivilegedState) -> bool:
        yaw = truth.base[2]
        left = np.array([-np.sin(yaw), np.cos(yaw)])
        places_m = (truth.hands_m[:, :2] - truth.base[:2]) @ left
        hands = _raised(truth)
        if self.meaning.side == "both":
            hands = hands & hands.all()
        for swings, raised, place_m in zip(self._swings, hands, places_m, strict=True):
            swings.watch(raised, place_m)
        return super().watch(truth)

    def is_success(self, truth: PrivilegedState) -> bool:
        waved = np.array([swings.count >= SWINGS for swings in self._swings])
        others = _has_others(_raised(truth), self.meaning)
        return self.stayed(truth) and not others and _are_asked(waved, self.meaning)

    def is_mistaken(self, truth: PrivilegedState) -> bool:
        return _has_others(_raised(truth), self.meaning)

    def remaining(self, truth: PrivilegedState) -> float:
        """Swings count as metres."""
        left = np.maximum(0, SWINGS - np.array([swings.count for swings in self._swings]))
        left = left + (left > 0) * np.maximum(0, _below_raised(truth))
        return min(float(left[asked].sum()) for asked in _ways_to_choose(self.meaning))


class Pointed(Success):
    """A hand, and the line from its shoulder to it, aim at the object, and no hand at another."""

    def is_success(self, truth: PrivilegedState) -> bool:
        target = self.target()
        if target is None or not self.stayed(truth):
            return False
        aimed = np.array([_pointing(truth, i) for i in range(len(self.scene.objects))])
        astray = aimed.any(axis=0) & ~aimed[target]
        return bool(np.any(aimed[target] & _asked(self.meaning)) and not astray.any())

    def is_mistaken(self, truth: PrivilegedState) -> bool:
        pointing = [_pointing(truth, i).any() for i in range(len(self.scene.objects))]
        return any(pointing) and not self.is_success(truth)

    def remaining(self, truth: PrivilegedState) -> float:
        target = self.target()
        if target is None:
            return 0.0
        off_rad = _off_target_rad(truth, target)[_asked(self.meaning)]
        return max(0.0, float(off_rad.min()) - POINTING_RAD)


class _Swings:
    """Counts how often a raised hand swung to one side and back, each way SWING_M or more."""

    def __init__(self) -> None:
        self._turning_point: float | None = None
        self._direction = 0
        self._ways = 0

    @property
    def count(self) -> int:
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


def _raised(truth: PrivilegedState) -> np.ndarray:
    """(2,) bool: which hands are over their shoulders."""
    return _below_raised(truth) < 0


def _below_raised(truth: PrivilegedState) -> np.ndarray:
    """(2,) m that the hands lack to be raised."""
    return truth.shoulders_m[:, 2] + RAISED_M - truth.hands_m[:, 2]


def _ways_to_choose(meaning: Intent) -> list[np.ndarray]:
    """(2,) bool each: the hands that are meant; either one if the side is not said."""
    return [*np.eye(2, dtype=bool)] if meaning.side is None else [_asked(meaning)]


def _are_asked(hands: np.ndarray, meaning: Intent) -> bool:
    """Whether these (2,) hands are those asked for; one of the two if the side is not said."""
    if meaning.side is None:
        return hands.sum() == 1
    return bool(np.array_equal(hands, _asked(meaning)))


def _has_others(hands: np.ndarray, meaning: Intent) -> bool:
    """Whether one of these (2,) hands is not asked for, or one too many if no side is said."""
    return hands.sum() > 1 if meaning.side is None else bool(np.any(hands & ~_asked(meaning)))


def _asked(meaning: Intent) -> np.ndarray:
    return np.array([meaning.side in (None, side, "both") for side in SIDES])


def _pointing(truth: PrivilegedState, index: int) -> np.ndarray:
    """(2,) bool: which hands, and the lines from their shoulders to them, aim at an object."""
    return _off_target_rad(truth, index) < POINTING_RAD


def _off_target_rad(truth: PrivilegedState, index: int) -> np.ndarray:
    """(2,) how far hands aim beside an object, or the lines from their shoulders to them."""
    towards = truth.objects_m[index] - truth.hands_m
    pairs = zip(truth.hand_axes, truth.hands_m - truth.shoulders_m, towards, strict=True)
    return np.array([max(_angle(axis, to), _angle(arm, to)) for axis, arm, to in pairs])


def _angle(a: np.ndarray, b: np.ndarray) -> float:
    cos = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.arccos(np.clip(cos, -1.0, 1.0)))


# --- the task ---------------------------------------------------------------------------------


def _side(sides: tuple[str, ...], share: float) -> Callable[[np.random.Generator], dict[str, str]]:
    """Says one of the hands in a share of the cases."""
    return lambda rng: {"side": pick(sides, rng)} if rng.random() < share else {}


def one_raised(rng: np.random.Generator) -> np.ndarray:
    """(18,) a stand with a raised hand: there must be something to lower."""
    command = STAND_COMMAND.copy()
    command[ARMS] = arms.raised((pick(SIDES, rng),))
    return command


ONE, ANY = SIDES, (*SIDES, "both")
_gesture = partial(Skill, time_limit_s=12.0, label_share=0.06)
_point_at = Skill(
    "point_at",
    point_at,
    Pointed,
    time_limit_s=40.0,
    names_object=True,
    sample_slots=_side(ONE, 0.2),
    label_share=0.10,
    absent_share=0.036,
)

TASK = Task(
    name="gesture",
    summary="raise, wave or lower a hand; point at an object",
    skills=(
        _gesture("raise_hand", raise_hand, Raised, sample_slots=_side(ANY, 0.75)),
        _gesture("wave", wave, Waved, sample_slots=_side(ANY, 0.6)),
        _point_at,
        _gesture("lower_arms", lower_arms, Lowered, start_command=one_raised),
    ),
    words=Path(__file__).parent / "en" / "gesture.toml",
    share=0.22,
)
