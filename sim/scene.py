"""Scenes: a room with a floor, four walls, light and a few coloured objects around the robot."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import msgspec
import mujoco
import numpy as np

from bridge.contract import UserError
from bridge.files import checked
from sim.objects import (
    COLOURS,
    FLOOR_BIT,
    OBJECT_BIT,
    SHAPES,
    Rgb,
    SceneObject,
    add_object,
    sample_object,
)
from sim.robot import FEET, robot_spec

N_OBJECTS = (3, 5)
LEAST_BEARING_RAD = np.deg2rad(40)
WALL_M = (5.0, 6.0)
WALL_HEIGHT_M, WALL_THICKNESS_M = 2.6, 0.05
# Arms at its sides, the robot keeps within this of the origin.
ROBOT_RADIUS_M = 0.35

# Geom groups. The shell is what the head camera sits in, and what is never in its view.
SCENERY_GROUP, SHELL_GROUP, VISUAL_GROUP, COLLISION_GROUP = 0, 1, 2, 3
HEAD_CAMERA = "head"
SHELL_PARTS = (
    "pelvis",
    "waist",
    "torso",
    "hip_pitch",
    "hip_roll",
    "shoulder_pitch",
    "shoulder_roll",
)


_Component = Annotated[float, msgspec.Meta(ge=-1e3, le=1e3)]
_Offset = Annotated[float, msgspec.Meta(ge=-0.1, le=0.1)]


@dataclass(frozen=True)
class Scene:
    """Everything that differs between rooms. The robot starts at the origin and faces +x.

    `camera_pitch_rad` (positive down) and `camera_offset_m` (in the torso's frame) are how far the
    head camera is off its nominal pose.
    """

    objects: Annotated[
        tuple[SceneObject, ...], msgspec.Meta(max_length=len(COLOURS) * len(SHAPES))
    ] = ()
    floor_rgb: tuple[Rgb, Rgb, Rgb] = (0.55, 0.55, 0.55)
    wall_rgb: tuple[Rgb, Rgb, Rgb] = (0.8, 0.8, 0.78)
    wall_m: Annotated[float, msgspec.Meta(ge=2, le=20)] = 5.5
    light_direction: tuple[_Component, _Component, _Component] = (0.3, 0.2, -1.0)
    light_level: Annotated[float, msgspec.Meta(ge=0, le=3)] = 1.0
    friction: Annotated[float, msgspec.Meta(ge=0.05, le=2)] = 0.8
    camera_pitch_rad: Annotated[float, msgspec.Meta(ge=-0.5, le=0.5)] = 0.0
    camera_offset_m: tuple[_Offset, _Offset, _Offset] = (0.0, 0.0, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Numbers, strings, lists and dicts alone, fit for JSON."""
        return msgspec.to_builtins(self)

    @classmethod
    def from_dict(cls, values: object) -> Scene:
        """The scene that `to_dict` described; UserError names the field that is none of a scene."""
        try:
            scene = checked(values, cls)
            assert isinstance(values, dict), "what became a scene is a dict"
            _refuse_unknown(values, cls)
            for thing in values.get("objects", ()):
                _refuse_unknown(thing, SceneObject)
            _refuse_crowd(scene)
        except ValueError as error:
            raise UserError(f"this is no scene: {error}; {_REMEDY}") from error
        return scene


_REMEDY = "correct it, or write one with Scene.to_dict()"


def _refuse_unknown(values: dict[str, Any], kind: type) -> None:
    known = [field.name for field in fields(kind)]
    for name in values:
        if name not in known:
            raise ValueError(f"there is no field {name!r}, but {', '.join(known)}")


def _refuse_crowd(scene: Scene) -> None:
    """ValueError where things are in each other, the robot or a wall, or the lamp shines up."""
    if scene.light_direction[2] >= 0:
        raise ValueError(f"light_direction is {scene.light_direction}: its z must be negative")
    room_m = scene.wall_m - WALL_THICKNESS_M
    for i, thing in enumerate(scene.objects):
        place = f"objects[{i}] at x_m {thing.x_m:g}, y_m {thing.y_m:g}"
        if np.hypot(thing.x_m, thing.y_m) < ROBOT_RADIUS_M + thing.radius_m:
            raise ValueError(f"{place} is in the robot, which stands at 0, 0")
        if max(abs(thing.x_m), abs(thing.y_m)) > room_m - thing.radius_m:
            raise ValueError(f"{place} is outside the walls: they are at {scene.wall_m:g} m")
    for (i, one), (j, other) in combinations(enumerate(scene.objects), 2):
        apart_m = np.hypot(one.x_m - other.x_m, one.y_m - other.y_m)
        if apart_m < one.radius_m + other.radius_m:
            raise ValueError(f"objects[{i}] and objects[{j}] are in each other")


def sample_scene(rng: np.random.Generator, n_objects: int | None = None) -> Scene:
    """A random room with 3 to 5 objects, or `n_objects`, each of its own colour and shape.

    Objects are 1.2 to 3.5 m away, their bearings at least 40 degrees apart, so that a straight walk
    to one passes the others clear.
    """
    n = int(rng.integers(N_OBJECTS[0], N_OBJECTS[1] + 1)) if n_objects is None else n_objects
    if n * LEAST_BEARING_RAD > 2 * np.pi:
        raise UserError(f"{n} objects do not fit around the robot; take at most 9")
    kinds = rng.choice(len(COLOURS) * len(SHAPES), n, replace=False)
    objects = tuple(
        sample_object(rng, COLOURS[kind // len(SHAPES)], SHAPES[kind % len(SHAPES)], bearing)
        for kind, bearing in zip(kinds, _sample_bearings(rng, n), strict=True)
    )
    tilt, towards = rng.uniform(0.1, 0.6), rng.uniform(-np.pi, np.pi)
    return Scene(
        objects=objects,
        floor_rgb=_dull_rgb(rng, 0.35, 0.75),
        wall_rgb=_dull_rgb(rng, 0.55, 0.95),
        wall_m=float(rng.uniform(*WALL_M)),
        light_direction=(float(tilt * np.cos(towards)), float(tilt * np.sin(towards)), -1.0),
        light_level=float(rng.uniform(0.75, 1.15)),
        friction=float(rng.uniform(0.6, 1.0)),
        camera_pitch_rad=float(np.deg2rad(rng.uniform(-2, 2))),
        camera_offset_m=tuple(rng.uniform(-0.01, 0.01, 3).tolist()),
    )


def _sample_bearings(rng: np.random.Generator, n: int) -> np.ndarray:
    """(n,) bearings whose gaps are the least gap plus a random share of what is left of a turn."""
    spare = 2 * np.pi - n * LEAST_BEARING_RAD
    gaps = LEAST_BEARING_RAD + spare * rng.dirichlet(np.ones(max(n, 1)))[:n]
    return rng.uniform(-np.pi, np.pi) + np.cumsum(gaps)


def _dull_rgb(rng: np.random.Generator, dark: float, bright: float) -> tuple[float, float, float]:
    """A grey with a hint of a tint: too dull to be taken for any object's colour."""
    return colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, 0.14), rng.uniform(dark, bright))


def scene_spec(scene: Scene, robot_path: Path | str | None = None) -> mujoco.MjSpec:
    """The room, its objects (bodies and free joints "object_0", ...) and the robot, to compile.

    Raises UserError for a robot's file that cannot be used.
    """
    spec = robot_spec(robot_path)
    if robot_path is None:
        _furnish(spec, scene)
        return spec
    try:
        _furnish(spec, scene)
        spec.compile()
    except ValueError as error:
        reason = " ".join(str(error).split()).removeprefix("Error: ")
        raise UserError(
            f"robot file {robot_path} cannot stand in a scene ({reason}): correct it, and leave the"
            " robot alone in it"
        ) from error
    return spec


def _furnish(spec: mujoco.MjSpec, scene: Scene) -> None:
    for key in list(spec.keys):
        spec.delete(key)  # written for the robot alone, they do not fit its qpos in a scene
    spec.option.iterations, spec.option.ls_iterations = 10, 20
    _prepare_robot(spec, scene)
    _add_camera(spec, scene)
    _add_look(spec, scene)
    _add_room(spec, scene)
    for index, thing in enumerate(scene.objects):
        add_object(spec, index, thing)


def _prepare_robot(spec: mujoco.MjSpec, scene: Scene) -> None:
    """Sets what the robot's geoms may touch, and hides the shell from its own camera."""
    for pair in list(spec.pairs):  # these would touch whatever their geoms may
        spec.delete(pair)
    soles = _soles(spec)
    for geom in spec.geoms:
        if geom.group == VISUAL_GROUP:
            geom.contype = geom.conaffinity = 0
            if any(part in geom.parent.name for part in SHELL_PARTS):
                geom.group = SHELL_GROUP
        elif geom in soles:
            geom.contype, geom.conaffinity = 0, FLOOR_BIT | OBJECT_BIT
            geom.priority = 1
            geom.friction[0] = scene.friction
        else:
            geom.contype = 0
            geom.conaffinity = OBJECT_BIT if geom.parent.name in FEET else FLOOR_BIT | OBJECT_BIT
            geom.group = COLLISION_GROUP


def _soles(spec: mujoco.MjSpec) -> list[mujoco.MjsGeom]:
    """What the feet stand on: their spheres, or all of a foot that has none."""
    soles = []
    for name in FEET:
        geoms = [geom for geom in spec.body(name).geoms if geom.group != VISUAL_GROUP]
        spheres = [geom for geom in geoms if geom.type == mujoco.mjtGeom.mjGEOM_SPHERE]
        soles += spheres or geoms
    return soles


def _add_camera(spec: mujoco.MjSpec, scene: Scene) -> None:
    """Puts the head camera where the scene wants it; a robot without one gets that of ours."""
    ours = robot_spec().camera(HEAD_CAMERA)
    camera = spec.camera(HEAD_CAMERA) or spec.body(ours.parent.name).add_camera(name=HEAD_CAMERA)
    right, up = np.reshape(ours.alt.xyaxes, (2, 3))
    back = np.cross(right, up)
    cos, sin = np.cos(scene.camera_pitch_rad), np.sin(scene.camera_pitch_rad)
    camera.alt.type = mujoco.mjtOrientation.mjORIENTATION_XYAXES
    camera.alt.xyaxes = [*right, *(cos * up - sin * back)]
    camera.pos = ours.pos + scene.camera_offset_m
    camera.fovy = ours.fovy


def _add_look(spec: mujoco.MjSpec, scene: Scene) -> None:
    visual = spec.visual
    visual.map.znear, visual.map.zfar = 0.01, 30
    spec.stat.extent = 1.0
    visual.headlight.ambient = [0.35 * scene.light_level] * 3
    visual.headlight.diffuse = [0.25 * scene.light_level] * 3
    visual.headlight.specular = [0, 0, 0]
    spec.worldbody.add_light(
        name="lamp",
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        pos=[0, 0, 4],
        dir=scene.light_direction,
        diffuse=[0.6 * scene.light_level] * 3,
        specular=[0.15] * 3,
        castshadow=True,
    )


def _add_room(spec: mujoco.MjSpec, scene: Scene) -> None:
    world, size = spec.worldbody, scene.wall_m
    world.add_geom(
        name="floor",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[size, size, size],
        rgba=[*scene.floor_rgb, 1],
        contype=FLOOR_BIT,
        conaffinity=0,
    )
    # Which wall is meant can be seen: opposite ones are a shade apart.
    for index, shade in enumerate((1.0, 0.92, 0.85, 0.95)):
        angle = index * np.pi / 2
        world.add_geom(
            name=f"wall_{index}",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=[WALL_THICKNESS_M, size, WALL_HEIGHT_M / 2],
            pos=[size * np.cos(angle), size * np.sin(angle), WALL_HEIGHT_M / 2],
            quat=[np.cos(angle / 2), 0, 0, np.sin(angle / 2)],
            rgba=[*(shade * np.array(scene.wall_rgb)), 1],
            contype=FLOOR_BIT,
            conaffinity=0,
        )
