"""The catalogue of task families: what is asked, in which scene, judged how, for how long."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bridge.contract import UserError
from robots.g1.embodiment import ARMS, STAND_COMMAND, VEL_X
from sim.scene import Scene, sample_scene
from tasks import arms
from tasks.language.intent import FAMILIES, Meaning, sample_meaning
from tasks.success import Judge

# Half the width that a walking robot needs, and how far before its feet an object must stay.
WAY_HALF_WIDTH_M = 0.5
WAY_MARGIN_M = 0.5


@dataclass(frozen=True)
class Trial:
    """One drawn episode: a scene, what is asked in it, and the command in force when it begins."""

    family: str
    scene: Scene
    meaning: Meaning
    start_command: np.ndarray
    time_limit_s: float

    def judge(self) -> Judge:
        return CATALOGUE[self.family].judge(self.meaning, self.scene)


@dataclass(frozen=True)
class Family:
    """A kind of task. `trial` draws one; the scene has `n_objects`, or any number if None."""

    summary: str
    scene: Callable[[np.random.Generator, int | None], Scene]
    meaning: Callable[[np.random.Generator, Scene], Meaning]
    time_limit_s: Callable[[Meaning], float]
    judge: Callable[[Meaning, Scene], Judge] = Judge

    def trial(self, rng: np.random.Generator, n_objects: int | None = None) -> Trial:
        scene = self.scene(rng, n_objects)
        meaning = self.meaning(rng, scene)
        return Trial(
            family=next(name for name, family in CATALOGUE.items() if family is self),
            scene=clear_way(scene, meaning),
            meaning=meaning,
            start_command=start_command(meaning, rng),
            time_limit_s=self.time_limit_s(meaning),
        )


def family(name: str) -> Family:
    """A family by its name; raises UserError with the nearest names for an unknown one."""
    if name in CATALOGUE:
        return CATALOGUE[name]
    nearest = difflib.get_close_matches(name, CATALOGUE, n=3, cutoff=0.4) or list(CATALOGUE)
    raise UserError(f"unknown task {name!r}: did you mean {' or '.join(nearest)}?")


def family_of(meaning: Meaning | None) -> Family | None:
    """The family to which what is asked belongs; None for what is no task."""
    names = (name for name, actions in FAMILIES.items() if meaning and meaning.action in actions)
    return next((CATALOGUE[name] for name in names), None)


def start_command(meaning: Meaning, rng: np.random.Generator) -> np.ndarray:
    """The (18,) command before the instruction: there must be something to stop or to lower."""
    command = STAND_COMMAND.copy()
    if meaning.action == "stop":
        command[VEL_X] = rng.uniform(0.3, 0.6)
    if meaning.action == "lower_arms":
        side = arms.SIDES[int(rng.integers(2))]
        command[ARMS] = arms.raised((side,))
    return command


def walk_direction(meaning: Meaning) -> tuple[float, float] | None:
    """Unit vector (x forward, y left) of a walk or step; None for what stays in its place."""
    return {
        "walk_forward": (1.0, 0.0),
        "walk_backward": (-1.0, 0.0),
        "step_left": (0.0, 1.0),
        "step_right": (0.0, -1.0),
    }.get(meaning.action)


def in_the_way(meaning: Meaning, xy_m: Sequence[float]) -> bool:
    """Whether an object at (x, y) in the heading frame stands where a walk will lead."""
    direction = walk_direction(meaning)
    if direction is None:
        return False
    along = direction[0] * xy_m[0] + direction[1] * xy_m[1]
    across = direction[0] * xy_m[1] - direction[1] * xy_m[0]
    return 0 < along < meaning.distance_m + WAY_MARGIN_M and abs(across) < WAY_HALF_WIDTH_M


def clear_way(scene: Scene, meaning: Meaning) -> Scene:
    """The scene without the objects that a walk from its origin would run into."""
    kept = tuple(o for o in scene.objects if not in_the_way(meaning, (o.x_m, o.y_m)))
    return replace(scene, objects=kept)


def _walk_limit_s(meaning: Meaning) -> float:
    if meaning.action == "stop":
        return 6.0
    if meaning.action.startswith("turn"):
        return 6.0 + meaning.angle_rad / 0.2
    return 6.0 + meaning.distance_m / 0.1


def _gesture_limit_s(meaning: Meaning) -> float:
    return 40.0 if meaning.action == "point_at" else 12.0


CATALOGUE: dict[str, Family] = {
    "walk": Family(
        summary="walk, step or turn by an amount; stop",
        scene=sample_scene,
        meaning=lambda rng, scene: sample_meaning("walk", rng),
        time_limit_s=_walk_limit_s,
    ),
    "go_to": Family(
        summary="stand before the object named by colour and shape, facing it",
        scene=sample_scene,
        meaning=lambda rng, scene: sample_meaning("go_to", rng, scene.objects),
        time_limit_s=lambda meaning: 40.0,
    ),
    "gesture": Family(
        summary="raise, wave or lower a hand; point at an object",
        scene=sample_scene,
        meaning=lambda rng, scene: sample_meaning("gesture", rng, scene.objects),
        time_limit_s=_gesture_limit_s,
    ),
}
