"""One G1 in one scene: a `Robot` of the contract, with a walker in its legs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np

from bridge.contract import Observation
from robots.g1.embodiment import (
    ARMS,
    COMMAND_DIM,
    CONTROL_HZ,
    DAMP_KD_NMS_RAD,
    G1,
    IMAGE_SIZE,
    N_JOINTS,
    STAND_COMMAND,
)
from robots.g1.facts import N_LEG_WAIST_JOINTS, joint_facts
from robots.g1.getup import DAMPING_RATIO, STIFFNESS_RATIO, GetUp
from robots.g1.walker import Walker
from robots.rotations import to_heading
from sim.batch import Body
from sim.odometry import Odometry
from sim.render.camera import HeadCamera
from sim.render.visibility import Visibility
from sim.robot import CONTROL_SUBSTEPS
from sim.scene import Scene, scene_spec

CAMERA_HZ = 10.0


@dataclass(frozen=True)
class WorldView:
    """All that an expert may know of a world at one moment.

    `base_pose` is x m, y m, yaw rad in the world. `object_pos_m` (n, 3) are the objects' centres in
    the robot's heading frame, z over the floor; `visible` (n,) bool; `extent_px` (n,) the diameter
    in the head camera's picture, 0 if not visible; `image_location` (n, 2) where its centre is in
    it, column and row as shares. `arm_targets` (14,) rad are those in force.
    """

    time_s: float
    base_pose: tuple[float, float, float]
    arm_targets: np.ndarray
    colours: tuple[str, ...]
    shapes: tuple[str, ...]
    object_pos_m: np.ndarray
    visible: np.ndarray
    extent_px: np.ndarray
    image_location: np.ndarray


class World:
    """A simulated robot. Joints and motors are addressed by name, so any G1 model will do.

    Equal arguments and commands give equal worlds, bit by bit.
    """

    def __init__(
        self,
        scene: Scene,
        seed: int = 0,
        robot_path: Path | str | None = None,
        walker_path: Path | str | None = None,
        render: bool = True,
    ) -> None:
        """`render=False` saves the pictures: those observed are black.

        Raises UserError for a robot or walker that cannot be used.
        """
        self.scene = scene
        self.model = scene_spec(scene, robot_path).compile()
        self.data = mujoco.MjData(self.model)
        self._body = Body(self.model, self.data)
        bodies = [self.model.body(f"object_{i}").id for i in range(len(scene.objects))]
        self._objects = np.array(bodies, dtype=np.int64)
        self._walker = Walker(walker_path)
        self._odometry = Odometry(np.random.default_rng(seed))
        self._visibility = Visibility(self.model, scene)
        self._render = render
        self._other_gains = False
        self._camera: HeadCamera | None = None
        self.reset()

    def reset(self) -> None:
        """Back to the beginning: the robot stands at the origin, faces +x, and objects rest."""
        mujoco.mj_resetData(self.model, self.data)
        self._body.place(joint_facts("home_rad"))
        mujoco.mj_forward(self.model, self.data)
        self._walker.reset()
        self._getting_up: GetUp | None = None
        self._steps = 0
        self._command = STAND_COMMAND.copy()
        self.begin_instruction()
        self._forget_picture()

    def close(self) -> None:
        """Frees the camera's OpenGL memory; a world that is dropped leaves that to the next one."""
        if self._camera is not None:
            self._camera.close()
            self._camera = None

    @property
    def time_s(self) -> float:
        return self._steps / CONTROL_HZ

    @property
    def command(self) -> np.ndarray:
        """(18,) the command in force."""
        return self._command.copy()

    # --- Robot ---

    def observe(self) -> Observation:
        """What the body knows now. Its picture is renewed at CAMERA_HZ, as a camera's is."""
        joint_pos, joint_vel, ang_vel, gravity = self._body.proprioception()
        state = G1.state(
            joint_pos_rad=joint_pos,
            joint_vel_rad_s=joint_vel,
            base_ang_vel_rad_s=ang_vel,
            gravity=gravity,
            command=self._command,
            elapsed_s=(self._steps - self._begin_step) / CONTROL_HZ,
            odometry=self._odometry.pose,
        )
        images = {"head": self._picture_now()}
        image_age_s = (self._steps - (self._picture_step or 0)) / CONTROL_HZ
        return Observation(G1, self.time_s, state, images, image_age_s)

    def apply(self, command: np.ndarray) -> None:
        """Walks, balances and moves the arms for one control period as an (18,) command asks."""
        self.set_targets(command)
        mujoco.mj_step(self.model, self.data, CONTROL_SUBSTEPS)
        self.after_step()

    def set_targets(self, command: np.ndarray) -> None:
        """The first third of `apply`: sets the motors' targets, for physics that runs elsewhere."""
        command = np.asarray(command, dtype=np.float32)
        if command.shape != (COMMAND_DIM,) or not np.isfinite(command).all():
            raise ValueError(f"a command is {COMMAND_DIM} finite numbers")
        self._command = command.copy()
        self._getting_up = None
        if self._other_gains:
            self._body.set_gains(joint_facts("kp_nm_rad"), joint_facts("kd_nms_rad"))
            self._other_gains = False
        self._body.set_targets(self._walker.step(command, *self._body.proprioception()))

    def after_step(self) -> None:
        """The last third of `apply`, once physics has moved `data` by one control period."""
        # A step leaves the frames of bodies and camera as they were one substep earlier.
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)
        self._steps += 1
        self._odometry.advance(self.base_pose(), 1.0 / CONTROL_HZ)

    def hold(self) -> None:
        """Stands still for one control period, arms where they were last sent."""
        command = STAND_COMMAND.copy()
        command[ARMS] = self._command[ARMS]
        self.apply(command)

    def damp(self) -> None:
        """Lets the motors only brake for one control period; a standing robot sinks and falls."""
        self._getting_up = None
        self._leave_walker()
        self._body.set_gains(np.zeros(N_JOINTS), np.full(N_JOINTS, DAMP_KD_NMS_RAD))
        mujoco.mj_step(self.model, self.data, CONTROL_SUBSTEPS)
        self.after_step()

    def get_up(self) -> bool | None:
        """Gets up from lying for one control period; True once it stands, False when it gave up."""
        if self._getting_up is None:
            self._getting_up = GetUp()
            self._leave_walker()
            kp, kd = joint_facts("kp_nm_rad"), joint_facts("kd_nms_rad")
            self._body.set_gains(STIFFNESS_RATIO * kp, DAMPING_RATIO * kd)
        joint_pos, _, ang_vel, gravity = self._body.proprioception()
        targets = self._getting_up.step(joint_pos, ang_vel, gravity)
        if targets is None:
            stands, self._getting_up = not self._getting_up.failed, None
            return stands
        self._body.set_targets(targets)
        mujoco.mj_step(self.model, self.data, CONTROL_SUBSTEPS)
        self.after_step()
        return None

    def _leave_walker(self) -> None:
        """Another than the walker moves the joints: it starts anew, arms from where they are."""
        self._command = STAND_COMMAND.copy()
        self._command[ARMS] = self._body.joint_pos[N_LEG_WAIST_JOINTS:]
        self._walker.reset()
        self._other_gains = True

    # --- instructions and disturbances ---

    def begin_instruction(self) -> None:
        """Elapsed time and odometry count from now."""
        self._begin_step = self._steps
        self._odometry.begin(self.base_pose())

    def push(self, delta_velocity_xy: np.ndarray) -> None:
        """Changes the base's velocity at once by (2,) m/s in the world's frame, like a shove."""
        self._body.push(delta_velocity_xy)

    # --- truth ---

    def base_pose(self) -> tuple[float, float, float]:
        """True x m, y m and yaw rad, in (-pi, pi], of the pelvis in the world."""
        x, y = self.data.qpos[:2]
        return float(x), float(y), float(self._body.yaw())

    def object_pose(self, index: int) -> tuple[np.ndarray, float]:
        """An object's true centre (3,) m in the world, and the cosine of its tilt."""
        body = int(self._objects[index])
        return self.data.xpos[body].copy(), float(self.data.xmat[body, 8])

    def fallen(self) -> bool:
        """Whether it lies, or is about to: `sim.batch.Body.fallen`."""
        return bool(self._body.fallen())

    def snapshot(self) -> WorldView:
        """The moment as an expert may see it."""
        x, y, yaw = base = self.base_pose()
        positions = self.data.xpos[self._objects]
        ahead, left = to_heading(positions[:, 0] - x, positions[:, 1] - y, yaw)
        visible, extent, location = self._look()
        return WorldView(
            time_s=self.time_s,
            base_pose=base,
            arm_targets=self._command[ARMS].copy(),
            colours=tuple(thing.colour for thing in self.scene.objects),
            shapes=tuple(thing.shape for thing in self.scene.objects),
            object_pos_m=np.stack([ahead, left, positions[:, 2]], axis=1),
            visible=visible,
            extent_px=extent,
            image_location=location,
        )

    # --- states for later ---

    def qpos(self) -> np.ndarray:
        """(nq,) a copy of all positions, from which any picture can be drawn again."""
        return self.data.qpos.copy()

    def set_qpos(self, qpos: np.ndarray) -> None:
        """Puts everything where a recorded (nq,) state had it, at rest."""
        self.data.qpos[:] = qpos
        self.data.qvel[:] = 0
        mujoco.mj_forward(self.model, self.data)
        self._forget_picture()

    def _look(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self._look_step != self._steps:
            self._looked, self._look_step = self._visibility.look(self.data), self._steps
        return self._looked

    def _picture_now(self) -> np.ndarray:
        due = self._picture_step is None or (
            self._steps - self._picture_step >= CONTROL_HZ / CAMERA_HZ
        )
        if due:
            if self._render and self._camera is None:
                self._camera = HeadCamera(self.model)
            black = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
            self._picture = self._camera.draw(self.data) if self._camera else black
            self._picture_step = self._steps
        return self._picture

    def _forget_picture(self) -> None:
        self._picture_step = self._look_step = None
