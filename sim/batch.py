"""The robot in a simulation, alone or many at once: what its state says, when it has fallen."""

from __future__ import annotations

import mujoco
import numpy as np
from mujoco import batch

from robots.g1.embodiment import CONTROL_HZ, JOINT_NAMES, SIDES, WAIST_PITCH
from robots.g1.facts import facts
from robots.rotations import gravity_in_base, yaw_of

# Lower than the deepest squat of the walker (0.5 m), further over than any stumble that it saves.
FALLEN_HEIGHT_M = 0.45
FALLEN_TILT_COS = 0.5


class Body:
    """The robot in one MjData, or in every simulation of a batch.

    Joints, actuators and sensors are found by name; the free base comes first in the state, and a
    plane or height field "floor" passes through the origin. Arrays have a row for each simulation
    of a batch, no such dimension for an MjData, and SI units. `qpos`, `qvel` and `ctrl` are views:
    to write them is to change the state. `which` (n,) bool marks robots of a batch; None is all.
    """

    def __init__(self, model: mujoco.MjModel, state: mujoco.MjData | batch.Batch) -> None:
        self.model = model
        self.qpos, self.qvel, self.ctrl = state.qpos, state.qvel, state.ctrl
        self._sensordata = state.sensordata
        joints = [model.joint(name) for name in JOINT_NAMES]
        self._joint_qpos = np.array([int(joint.qposadr[0]) for joint in joints])
        self._joint_dof = np.array([int(joint.dofadr[0]) for joint in joints])
        self._actuators = np.array([model.actuator(name).id for name in JOINT_NAMES])
        sensors = [model.sensor(i) for i in range(model.nsensor)]
        self._sensors = {s.name: slice(int(s.adr[0]), int(s.adr[0] + s.dim[0])) for s in sensors}
        self._rise = _floor_rise(model)
        # An expanded field is a simulation's own; a model serves one MjData.
        own = isinstance(state, batch.Batch)
        self._gain, self._bias = (
            state.expand(field) if own else getattr(model, field)
            for field in ("actuator_gainprm", "actuator_biasprm")
        )

    # --- what it is made to do ---

    def place(
        self,
        joints: np.ndarray,
        yaw: np.ndarray | float = 0.0,
        lift_m: float = 0.0,
        velocity: np.ndarray | float = 0.0,
        which: np.ndarray | None = None,
    ) -> None:
        """Stands it over the origin with (..., 29) joint angles, to which its motors hold it.

        `yaw` (...) rad is its heading; its feet are `lift_m` over the floor. The base has a
        `velocity` of (..., 2) m/s in the world, and all else rests.
        """
        rows = ... if which is None else which
        yaw, qpos, ctrl = np.asarray(yaw), self.qpos[rows], self.ctrl[rows]
        qpos[..., :7] = 0
        qpos[..., 2] = facts()["pelvis_home_height_m"] + lift_m
        qpos[..., 3], qpos[..., 6] = np.cos(yaw / 2), np.sin(yaw / 2)
        qpos[..., self._joint_qpos] = ctrl[..., self._actuators] = joints
        self.qpos[rows], self.ctrl[rows] = qpos, ctrl  # a mask took copies of the rows
        self.qvel[rows] = 0
        self.qvel[rows, :2] = velocity

    def set_targets(self, targets: np.ndarray, which: np.ndarray | None = None) -> None:
        """Sets the motors' (..., 29) target angles."""
        if which is None:
            self.ctrl[..., self._actuators] = targets
        else:
            self.ctrl[np.ix_(which, self._actuators)] = targets[which]

    def set_gains(self, kp_nm_rad: np.ndarray, kd_nms_rad: np.ndarray) -> None:
        """Sets the motors' stiffness and damping, both (29,) or a row for each robot."""
        self._gain[..., self._actuators, 0] = kp_nm_rad
        self._bias[..., self._actuators, 1] = -kp_nm_rad
        self._bias[..., self._actuators, 2] = -kd_nms_rad

    def push(self, velocity: np.ndarray, which: np.ndarray | None = None) -> None:
        """Changes the base's velocity at once by (..., 2) m/s in the world's frame."""
        rows = ... if which is None else which
        self.qvel[rows, :2] += velocity[rows]

    # --- what it feels ---

    @property
    def joint_pos(self) -> np.ndarray:
        """(..., 29) rad, a copy."""
        return np.take(self.qpos, self._joint_qpos, axis=-1)

    @property
    def joint_vel(self) -> np.ndarray:
        """(..., 29) rad/s, a copy."""
        return np.take(self.qvel, self._joint_dof, axis=-1)

    def gravity(self) -> np.ndarray:
        """(..., 3) its direction in the pelvis' frame."""
        return gravity_in_base(self.qpos[..., 3:7])

    def proprioception(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What a walker reads: joint angles and speeds, base angular velocity, gravity."""
        return self.joint_pos, self.joint_vel, self.qvel[..., 3:6], self.gravity()

    def sensor(self, name: str) -> np.ndarray:
        """(..., width) readings of one named sensor."""
        return self._sensordata[..., self._sensors[name]]

    # --- truth ---

    def yaw(self) -> np.ndarray:
        """(...) rad in (-pi, pi], the pelvis' heading."""
        return yaw_of(self.qpos[..., 3:7])

    def from_heading(self, vector: np.ndarray) -> np.ndarray:
        """A (..., 2) vector, forward and left of the robot, in the world's frame."""
        cos, sin = np.cos(self.yaw()), np.sin(self.yaw())
        x, y = vector[..., 0], vector[..., 1]
        return np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1)

    def height(self) -> np.ndarray:
        """(...) m of the pelvis over the floor."""
        return self.qpos[..., 2] - self.qpos[..., :2] @ self._rise

    def fallen(
        self, lowest_m: float | np.ndarray = FALLEN_HEIGHT_M, tilt_cos: float = FALLEN_TILT_COS
    ) -> np.ndarray:
        """(...) bool: the pelvis is lower than `lowest_m` over the floor, or it leans too far.

        Too far is an angle whose cosine is under `tilt_cos`: 60 degrees. A state that is not finite
        has fallen.
        """
        upright = (self.height() >= lowest_m) & (self.gravity()[..., 2] <= -tilt_cos)
        return ~(upright & np.isfinite(self.qpos).all(axis=-1))

    def torso_pitch(self) -> np.ndarray:
        """(...) rad that the torso leans forward: the pelvis' lean and the waist's bend."""
        down = self.gravity()
        return np.arctan2(down[..., 0], -down[..., 2]) + self.joint_pos[..., WAIST_PITCH]

    def base_velocity(self) -> np.ndarray:
        """(..., 3) forward m/s, left m/s, yaw rate rad/s in the pelvis' own frame."""
        forward, turn = self.sensor("base_lin_vel"), self.sensor("base_ang_vel")
        return np.concatenate([forward[..., :2], turn[..., 2:]], axis=-1)

    def feet(self, kind: str) -> np.ndarray:
        """(..., 2, width) readings of the sensors left_`kind` and right_`kind`."""
        return np.stack([self.sensor(f"{side}_{kind}") for side in SIDES], axis=-2)

    def contact(self) -> np.ndarray:
        """(..., 2) whether the left and the right foot carry more than 1 N."""
        return self.feet("touch")[..., 0] > 1.0


def _floor_rise(model: mujoco.MjModel) -> np.ndarray:
    """(2,) m that the floor rises per m along x and along y."""
    frame = np.zeros(9)
    mujoco.mju_quat2Mat(frame, model.geom("floor").quat)
    return -frame[[2, 5]] / frame[8]


class BodyBatch(Body):
    """`n` equal robots stepped together, on `threads` threads (0: one per core)."""

    def __init__(self, model: mujoco.MjModel, n: int, threads: int = 0, fresh: bool = True) -> None:
        """`fresh` computes sensors from each new state; else they are of the physics step before.

        To leave them saves a tenth of a step.
        """
        self.batch = batch.Batch(model, nsim=n, nthread=threads)
        super().__init__(model, self.batch)
        self.n, self.substeps = n, round(1.0 / (CONTROL_HZ * model.opt.timestep))
        self._stage = mujoco.mjtStage.mjSTAGE_VEL if fresh else mujoco.mjtStage.mjSTAGE_NONE

    def place(
        self,
        joints: np.ndarray,
        yaw: np.ndarray | float = 0.0,
        lift_m: float = 0.0,
        velocity: np.ndarray | float = 0.0,
        which: np.ndarray | None = None,
    ) -> None:
        """As `Body.place`, from a clean state."""
        self.batch.reset(which, stage=mujoco.mjtStage.mjSTAGE_NONE)
        super().place(joints, yaw, lift_m, velocity, which)
        self.batch.forward(which)

    def step(
        self,
        targets: np.ndarray,
        which: np.ndarray | None = None,
        delay: np.ndarray | None = None,
    ) -> None:
        """One control period towards (n, 29) joint targets.

        `delay` (n,) is for how many physics steps, from none to all of the period's, each robot
        obeys its last targets still; it goes with all robots alone.
        """
        if delay is None:
            self.set_targets(targets)
            self._advance(which, self.substeps)
            return
        at_once, at_the_end = delay == 0, delay == self.substeps
        self.set_targets(targets, at_once)
        self._advance(at_once | at_the_end, self.substeps)
        for late in range(1, self.substeps):
            some = delay == late
            self._advance(some, late)
            self.set_targets(targets, some)
            self._advance(some, self.substeps - late)
        self.set_targets(targets, at_the_end)

    def _advance(self, which: np.ndarray | None, substeps: int) -> None:
        if which is None or which.all():
            self.batch.step(nstep=substeps, stage=self._stage)
        elif which.any():
            self.batch.step(which, nstep=substeps, stage=self._stage)
