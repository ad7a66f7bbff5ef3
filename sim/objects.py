"""The objects of scenes: what kinds there are, how they look, and their bodies in MuJoCo."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Annotated

import msgspec
import mujoco
import numpy as np

from bridge.contract import UserError

BOX, SPHERE, CYLINDER, MESH = (
    mujoco.mjtGeom.mjGEOM_BOX,
    mujoco.mjtGeom.mjGEOM_SPHERE,
    mujoco.mjtGeom.mjGEOM_CYLINDER,
    mujoco.mjtGeom.mjGEOM_MESH,
)


@dataclass(frozen=True)
class Kind:
    """One shape: its geom (a mesh is a cone), and its radius over half its height."""

    geom: mujoco.mjtGeom
    radius: float
    condim: int = 3


# All shapes look about as wide as high. Balls resist rolling, so that one that was only brushed
# comes to rest.
KINDS = {
    "cube": Kind(BOX, 1.0),
    "ball": Kind(SPHERE, 1.0, condim=6),
    "cylinder": Kind(CYLINDER, 0.8),
    "cone": Kind(MESH, 0.95),
}
# Hue in degrees and its spread, then the range of brightness. Yellow and orange have no dark
# shades: those are olive and brown to people.
SHADES: dict[str, tuple[float, float, float, float]] = {
    "red": (0, 6, 0.6, 1.0),
    "green": (122, 14, 0.45, 0.9),
    "blue": (220, 10, 0.6, 1.0),
    "yellow": (55, 4, 0.85, 1.0),
    "purple": (283, 9, 0.45, 0.9),
    "orange": (27, 4, 0.9, 1.0),
}
SHAPES, COLOURS = tuple(KINDS), tuple(SHADES)
DISTANCE_M = (1.2, 3.5)
HALF_HEIGHT_M = (0.12, 0.18)
OBJECT_KG = 0.6
CONE_EDGES = 20
# Contact bits. The robot's limbs meet objects and, in a fall, the floor, but never each other.
FLOOR_BIT, OBJECT_BIT = 1, 2


# The ranges of these types are those of files; code may go beyond them.
Rgb = Annotated[float, msgspec.Meta(ge=0, le=1)]
Metres = Annotated[float, msgspec.Meta(ge=-20, le=20)]


@dataclass(frozen=True)
class SceneObject:
    """A free body on the floor. `size_m` is half its height; `rgb` is in 0..1.

    Raises UserError for a shape that is none of KINDS, or a colour that is none of SHADES.
    """

    shape: str
    colour: str
    rgb: tuple[Rgb, Rgb, Rgb]
    size_m: Annotated[float, msgspec.Meta(ge=0.02, le=0.5)]
    x_m: Metres
    y_m: Metres
    yaw_rad: Annotated[float, msgspec.Meta(ge=-10, le=10)]

    def __post_init__(self) -> None:
        for name, known in (("shape", SHAPES), ("colour", COLOURS)):
            if (value := getattr(self, name)) not in known:
                raise UserError(f"no {name} {value!r}; choose one of {', '.join(known)}")

    @property
    def radius_m(self) -> float:
        """Of its cylinder; a cube reaches further at its edges."""
        return KINDS[self.shape].radius * self.size_m


def sample_object(rng: np.random.Generator, colour: str, shape: str, bearing: float) -> SceneObject:
    """An object of random size, shade and heading, at a random distance in a direction (rad)."""
    distance = rng.uniform(*DISTANCE_M)
    return SceneObject(
        shape=shape,
        colour=colour,
        rgb=sample_shade(rng, colour),
        size_m=float(rng.uniform(*HALF_HEIGHT_M)),
        x_m=float(distance * np.cos(bearing)),
        y_m=float(distance * np.sin(bearing)),
        yaw_rad=float(rng.uniform(-np.pi, np.pi)),
    )


def sample_shade(rng: np.random.Generator, colour: str) -> tuple[float, float, float]:
    """A shade that people call by the colour's name: rgb in 0..1."""
    hue, spread, dark, bright = SHADES[colour]
    degrees = hue + rng.uniform(-spread, spread)
    return colorsys.hsv_to_rgb(degrees / 360 % 1, rng.uniform(0.8, 1), rng.uniform(dark, bright))


def add_object(spec: mujoco.MjSpec, index: int, thing: SceneObject) -> None:
    """Adds an object as the body, the free joint and the geom "object_{index}"."""
    name, half, kind = f"object_{index}", thing.size_m, KINDS[thing.shape]
    body = spec.worldbody.add_body(
        name=name,
        pos=[thing.x_m, thing.y_m, half],
        quat=[np.cos(thing.yaw_rad / 2), 0, 0, np.sin(thing.yaw_rad / 2)],
    )
    body.add_freejoint(name=name)
    radius = thing.radius_m
    # All scenes of n objects have one memory layout, which a batch of them needs: each object has
    # this mesh, used or not, and the inertia of a cylinder around its centre, whatever its shape.
    body.explicitinertial = True
    body.mass, body.ipos = OBJECT_KG, [0, 0, 0]
    across = OBJECT_KG * (3 * radius**2 + 4 * half**2) / 12
    body.inertia = [across, across, OBJECT_KG * radius**2 / 2]
    mesh = spec.add_mesh(name=f"{name}_cone", scale=[radius, radius, half])
    mesh.make_cone(CONE_EDGES, 0.0)
    geom = body.add_geom(
        name=name,
        type=kind.geom,
        rgba=[*thing.rgb, 1],
        contype=OBJECT_BIT,
        conaffinity=FLOOR_BIT | OBJECT_BIT,
        condim=kind.condim,
        friction=[0.8, 0.01, 0.01],
    )
    if kind.geom == MESH:
        geom.meshname = mesh.name
    else:
        geom.size = {BOX: [radius, radius, half], SPHERE: [radius, 0, 0]}.get(
            kind.geom, [radius, half, 0]
        )
