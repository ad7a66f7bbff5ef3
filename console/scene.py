"""What the console shows of a robot: the model of its scene, posed as telemetry says, and pictures.

A browser with a graphics card draws MuJoCo's model itself (`console/studio.py`); for the others one
picture is drawn here, for all of them.
"""

from __future__ import annotations

import io
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import mujoco
import numpy as np
from PIL import Image

from bridge.contract import Observation, Status
from bridge.control.safety import Level, tilt
from bridge.operator.messages import Telemetry
from robots.g1.embodiment import G1, IMAGE_SIZE, JOINT_NAMES, STANDING_HEIGHT_M
from sim.objects import SceneObject
from sim.render.camera import ThirdPerson
from sim.scene import Scene, sample_scene, scene_spec
from tasks.catalogue import SHIPPED
from tasks.language.grammar import words_of
from tasks.language.intent import Intent, describe

_DRAWS = 3
_JPEG_QUALITY = 80
_NO_IMAGE = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)


class Stage:
    """The model of one scene: that of a seed, or an empty room for a robot of which none is known.

    `data` is for the thread that poses it.
    """

    def __init__(self, seed: int | None, robot: Path | None = None) -> None:
        self.seed = seed
        self.scene = Scene() if seed is None else sample_scene(np.random.default_rng(seed))
        self.model = scene_spec(self.scene, robot).compile()
        self.data = mujoco.MjData(self.model)
        self._joints = [int(self.model.joint(name).qposadr[0]) for name in JOINT_NAMES]

    def qpos(self, telemetry: Telemetry) -> np.ndarray | None:
        """(nq,) positions of everything at a moment; None while they are not known.

        A robot that does not know where it is stands where its odometry says.
        """
        if telemetry.qpos is not None:
            if len(telemetry.qpos) != self.model.nq * np.dtype(np.float64).itemsize:
                return None  # of another model
            qpos = np.frombuffer(telemetry.qpos, np.float64)
            return qpos if np.isfinite(qpos).all() else None
        sensed = sensors(telemetry)
        if sensed is None:
            return None
        qpos = self.model.qpos0.copy()
        x, y, yaw = sensed.odometry
        roll, pitch = tilt(sensed.gravity)
        qpos[:3] = x, y, STANDING_HEIGHT_M
        mujoco.mju_euler2Quat(qpos[3:7], np.array([yaw, pitch, roll], np.float64), "zyx")
        qpos[self._joints] = sensed.joint_pos_rad
        return qpos

    def fitting(self, understood: dict[str, str]) -> list[SceneObject]:
        """The objects that a reading of the instruction may mean, if it names any."""
        asked = {slot: understood[slot] for slot in ("colour", "shape") if slot in understood}
        if not asked:
            return []
        return [
            thing
            for thing in self.scene.objects
            if all(getattr(thing, slot) == value for slot, value in asked.items())
        ]

    def suggestions(self) -> list[str]:
        """Instructions of every kind of task in the catalogue that this scene allows, or any."""
        rng = np.random.default_rng(self.seed or 0)
        scene = self.scene if self.scene.objects else sample_scene(rng)
        found: set[str] = set()
        for task in SHIPPED.tasks:
            meanings = (task.sample_meaning(rng, scene.objects) for _ in range(_DRAWS))
            found |= {SHIPPED.language.plainly(replace(m, manner=None)) for m in meanings}
        return sorted(found)


@lru_cache(maxsize=4)
def stage(seed: int | None, robot: Path | None = None) -> Stage:
    """The stage of a scene, made once."""
    return Stage(seed, robot)


def sensors(told: Telemetry) -> Observation | None:
    """What the robot's sensors said, its picture left black; None unless all of it is known."""
    state = told.state_vector(G1)
    if state is None or not np.isfinite(state).all():
        return None
    return Observation(G1, told.time_s, state, {"head": _NO_IMAGE})


def level_name(told: Telemetry) -> str:
    """The level of safety in a word; of another release, its number."""
    return Level(told.level).name if told.level in list(Level) else str(told.level)


def status_name(told: Telemetry) -> str:
    """What the policy says of its instruction, in a word, or nothing."""
    return Status(told.status).name.lower() if told.status in list(Status) else ""


def reading(understood: dict[str, str]) -> str:
    """What a policy understood, in plain words."""
    try:
        meaning = Intent.of_slots(understood)
        return describe(meaning, SHIPPED.skill(meaning).names_object)
    except (TypeError, ValueError, KeyError):  # of another release, which knows other words
        return " ".join(f"{slot}={value}" for slot, value in understood.items())


def doubt(instruction: str) -> str:
    """A line for people who use a language that no wording is in, or nothing."""
    if not instruction or _taught().intersection(words_of(instruction)):
        return ""
    return "none of these words was ever taught: expect nothing that is not said as understood"


@lru_cache
def _taught() -> frozenset[str]:
    return SHIPPED.language.vocabulary()


class Painter:
    """Draws stages from outside, in a thread of its own: OpenGL belongs to one thread."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size
        self._thread = ThreadPoolExecutor(1, "painter")
        self._camera: tuple[Stage, ThirdPerson, mujoco.MjData] | None = None

    def draw(self, stage: Stage, qpos: np.ndarray) -> Future[np.ndarray]:
        """The (height, width, 3) uint8 picture to come; UserError where there is no OpenGL."""
        return self._thread.submit(self._draw, stage, qpos)

    def close(self) -> None:
        """Frees the OpenGL memory."""
        self._thread.submit(self._leave)
        self._thread.shutdown(cancel_futures=False)

    def _draw(self, stage: Stage, qpos: np.ndarray) -> np.ndarray:
        if self._camera is None or self._camera[0] is not stage:
            self._leave()
            data = mujoco.MjData(stage.model)
            self._camera = stage, ThirdPerson(stage.model, self._size), data
        _, camera, data = self._camera
        data.qpos[:] = qpos
        mujoco.mj_kinematics(stage.model, data)
        mujoco.mj_camlight(stage.model, data)
        return camera.draw(data)

    def _leave(self) -> None:
        if self._camera is not None:
            self._camera[1].close()
            self._camera = None


def jpeg(picture: np.ndarray) -> bytes:
    """A picture as browsers take it."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
