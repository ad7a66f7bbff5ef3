"""Walkers that others trained for this robot, so that ours is compared with the best at hand.

PyPI's `holosoma-inference` carries two as ONNX. What they read, and their gait clock, follow that
package's `policies/locomotion.py` and `config/config_values/`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx

from assets.inference import ort
from bridge.contract import UserError
from robots.g1.embodiment import (
    ARM_HOME_RAD,
    ARM_SPEED_RAD_S,
    ARMS,
    CONTROL_HZ,
    JOINT_NAMES,
    N_ARM_JOINTS,
    N_JOINTS,
)
from robots.g1.facts import N_LEG_WAIST_JOINTS, joint_facts
from robots.g1.walker import Walker, towards

BASELINE_PACKAGE = "holosoma_inference"
OURS = "ours"
BASELINES = {
    "holosoma_ppo": "models/loco/g1_29dof/ppo_g1_29dof.onnx",
    "holosoma_fastsac": "models/loco/g1_29dof/fastsac_g1_29dof.onnx",
}
BASELINE_ACTION_SCALE = 0.25
BASELINE_PERIOD_S = 1.0
BASELINE_STILL = 0.01  # m/s or rad/s: a slower command is a stand
BASELINE_FASTEST = 1.0  # m/s or rad/s
AT_HOME_RAD = 1e-6
_ARMS = slice(N_LEG_WAIST_JOINTS, N_JOINTS)  # of the 29 joints


class BatchedWalker(Protocol):
    """The walker of n robots: (n, 18) commands and what the bodies feel in, (n, 29) targets out."""

    takes_posture: bool

    def reset(self, robots: np.ndarray | None = None) -> None: ...

    def step(
        self,
        command: np.ndarray,
        joint_pos: np.ndarray,
        joint_vel: np.ndarray,
        ang_vel: np.ndarray,
        gravity: np.ndarray,
    ) -> np.ndarray: ...


@dataclass(frozen=True)
class Entrant:
    """A walker to be examined: `make(n)` gives that of n robots, (29,) gains go with it."""

    name: str
    make: Callable[[int], BatchedWalker]
    kp_nm_rad: np.ndarray
    kd_nms_rad: np.ndarray


def our_walker(path: Path) -> Entrant:
    """The walker of a file that `hitogata walk` wrote; UserError where there is none."""
    Walker(path)
    return Entrant(
        OURS, lambda n: Walker(path, n), joint_facts("kp_nm_rad"), joint_facts("kd_nms_rad")
    )


def baseline_walker(name: str) -> Entrant:
    """One of BASELINES; UserError where the package that carries it is not installed."""
    package = find_spec(BASELINE_PACKAGE)
    if package is None or package.origin is None:
        raise UserError(
            "the walkers of others are not installed: make baselines, or leave them out with"
            " --no-baselines"
        )
    path = Path(package.origin).parent / BASELINES[name]
    facts = {p.key: json.loads(p.value) for p in onnx.load(str(path)).metadata_props}
    assert facts["dof_names"] == list(JOINT_NAMES)
    return Entrant(
        name, lambda n: HolosomaWalker(path, n), np.array(facts["kp"]), np.array(facts["kd"])
    )


def holosoma_observation(
    velocity: np.ndarray,
    phases: np.ndarray,
    joint_pos: np.ndarray,
    joint_vel: np.ndarray,
    ang_vel: np.ndarray,
    gravity: np.ndarray,
    last_action: np.ndarray,
) -> np.ndarray:
    """(n, 100) float32: the terms in the alphabetical order of their names.

    velocity (n, 3) m/s, m/s, rad/s; phases (n, 2) rad of the left and the right foot; action
    (n, 29). Its home pose is ours.
    """
    terms = {
        "actions": last_action,
        "base_ang_vel": 0.25 * ang_vel,
        "command_ang_vel": velocity[:, 2:],
        "command_lin_vel": velocity[:, :2],
        "cos_phase": np.cos(phases),
        "dof_pos": joint_pos - joint_facts("home_rad"),
        "dof_vel": 0.05 * joint_vel,
        "projected_gravity": gravity,
        "sin_phase": np.sin(phases),
    }
    return np.concatenate([terms[name] for name in sorted(terms)], axis=1).astype(np.float32)


class HolosomaWalker:
    """A holosoma walker of n robots. It drives arms that are asked to be at home, and no others.

    It was trained to keep the arms there, so of others it is told that they are. Told where they
    really were it fought them: of 48 robots with moving arms 22 then fell in 5 s, else none.
    """

    takes_posture = False

    def __init__(self, path: Path, n: int) -> None:
        self._session = _batched_session(path)
        self._phases = np.zeros((n, 2))
        self._action = np.zeros((n, N_JOINTS), dtype=np.float32)
        self._arms = np.zeros((n, N_ARM_JOINTS))
        self._standing = np.zeros(n, dtype=bool)
        self.reset()

    def reset(self, robots: np.ndarray | None = None) -> None:
        """Forgets all steps; of those robots alone that a (n,) bool marks."""
        forgotten = ... if robots is None else robots
        self._phases[forgotten] = [0.0, np.pi]
        self._action[forgotten] = 0.0
        self._arms[forgotten] = np.nan
        self._standing[forgotten] = False

    def step(
        self,
        command: np.ndarray,
        joint_pos: np.ndarray,
        joint_vel: np.ndarray,
        ang_vel: np.ndarray,
        gravity: np.ndarray,
    ) -> np.ndarray:
        """(n, 29) joint targets (rad) for the next control period from (n, 18) commands."""
        velocity = np.clip(command[:, :3], -BASELINE_FASTEST, BASELINE_FASTEST)
        self._advance_phases(velocity)
        wanted = command[:, ARMS]
        own = (np.abs(wanted - ARM_HOME_RAD) < AT_HOME_RAD).all(axis=1, keepdims=True)
        known_pos, known_vel = joint_pos.copy(), joint_vel.copy()
        known_pos[:, _ARMS] = np.where(own, joint_pos[:, _ARMS], ARM_HOME_RAD)
        known_vel[:, _ARMS] = np.where(own, joint_vel[:, _ARMS], 0.0)
        observation = holosoma_observation(
            velocity, self._phases, known_pos, known_vel, ang_vel, gravity, self._action
        )
        action = self._session.run(None, {"actor_obs": observation})[0]
        self._action = np.clip(np.asarray(action), -100, 100)
        targets = joint_facts("home_rad") + BASELINE_ACTION_SCALE * self._action
        arms = np.where(np.isnan(self._arms), joint_pos[:, _ARMS], self._arms)
        self._arms = np.where(own, targets[:, _ARMS], towards(arms, wanted, ARM_SPEED_RAD_S))
        targets[:, _ARMS] = self._arms
        return targets

    def _advance_phases(self, velocity: np.ndarray) -> None:
        """On a stand both feet wait at pi; a walk begins with the left foot at 0."""
        ticking = self._phases + 2 * np.pi / (CONTROL_HZ * BASELINE_PERIOD_S)
        phases = np.fmod(ticking + np.pi, 2 * np.pi) - np.pi
        still = (np.linalg.norm(velocity[:, :2], axis=1) < BASELINE_STILL) & (
            np.abs(velocity[:, 2]) < BASELINE_STILL
        )
        phases[still] = np.pi
        phases[self._standing & ~still] = [0.0, np.pi]
        self._phases, self._standing = phases, still


def _batched_session(path: Path) -> ort.InferenceSession:
    """A session of a graph that was exported for one robot, for any number of them."""
    model = onnx.load(str(path))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    del model.graph.value_info[:]
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
