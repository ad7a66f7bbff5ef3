"""Inverse kinematics: the joints of an arm whose hand shall point somewhere."""

from __future__ import annotations

import mink
import mujoco
import numpy as np

from robots.g1.embodiment import ARM_JOINTS, JOINT_NAMES
from robots.g1.facts import joint_facts
from sim.robot import robot_spec

N_JOINTS_OF_AN_ARM = len(ARM_JOINTS)
# Nearly stretched: a straight arm loses a direction to move in.
WRIST_REACH_M = 0.355
POINTING_START = np.array([-0.6, 0.1, 0.0, 1.0, 0.0, 0.0, 0.0])


class ArmSolver:
    """Solves for the left arm of a robot whose torso does not move."""

    def __init__(self) -> None:
        self._model = robot_spec().compile()
        self._configuration = mink.Configuration(self._model)
        ids = [self._model.joint(f"left_{joint}_joint").id for joint in ARM_JOINTS]
        self._qpos = self._model.jnt_qposadr[ids]
        self._dofs = self._model.jnt_dofadr[ids]
        first = JOINT_NAMES.index(f"left_{ARM_JOINTS[0]}_joint")
        self._kp = joint_facts("kp_nm_rad")[first : first + N_JOINTS_OF_AN_ARM]
        self._wrist = mink.FrameTask("left_wrist_yaw_link", "body", 1.0, 0.0, lm_damping=1e-3)
        self._hand = mink.AxisAlignTask("left_wrist_yaw_link", "body", (1, 0, 0), 0.3)
        # The wrist prefers to stay straight: the line of the forearm is what people see.
        posture = np.full(self._model.nv, 1e-3)
        posture[self._dofs] = [0.003, 0.003, 0.02, 0.003, 0.05, 0.02, 0.02]
        self._posture = mink.PostureTask(self._model, cost=posture)
        others = [dof for dof in range(self._model.nv) if dof not in set(self._dofs.tolist())]
        self._still = mink.DofFreezingTask(self._model, others)
        self._limits = [mink.ConfigurationLimit(self._model)]

    def solve(self, towards: np.ndarray, start: np.ndarray) -> np.ndarray:
        """(7,) joint angles with the wrist on the ray from the shoulder, the hand along it."""
        self._configuration.update(self._pose(POINTING_START))
        self._posture.set_target_from_configuration(self._configuration)
        self._configuration.update(self._pose(start))
        shoulder = self._configuration.data.body("left_shoulder_roll_link").xpos
        rest = mink.SO3.identity()
        goal = mink.SE3.from_rotation_and_translation(rest, shoulder + WRIST_REACH_M * towards)
        self._wrist.set_target(goal)
        self._hand.set_target(towards)
        tasks = [self._wrist, self._hand, self._posture]
        for _ in range(60):
            velocity = mink.solve_ik(
                self._configuration,
                tasks,
                0.1,
                "daqp",
                damping=1e-4,
                limits=self._limits,
                constraints=[self._still],
            )
            self._configuration.integrate_inplace(velocity, 0.1)
        return self._configuration.q[self._qpos].copy()

    def sag(self, pose: np.ndarray) -> np.ndarray:
        """(7,) rad that a standing robot's motors give way to under the arm's own weight."""
        data = mujoco.MjData(self._model)
        data.qpos[:] = self._pose(pose)
        mujoco.mj_forward(self._model, data)
        return data.qfrc_bias[self._dofs] / self._kp

    def _pose(self, arm: np.ndarray) -> np.ndarray:
        qpos = np.zeros(self._model.nq)
        qpos[3] = 1.0
        qpos[self._qpos] = arm
        return qpos
