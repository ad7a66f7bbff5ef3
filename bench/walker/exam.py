"""Examines a walker: falls under random commands, and how well it goes where it is told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime

from assets import asset_path
from robots.g1.embodiment import CONTROL_HZ
from sim.locomotion.env import WalkConfig, WalkEnv

EXAM_WORLDS = WalkConfig(push_m_s=0.0, low_share=0.0, stand_share=0.15, turn_share=0.2)
TRACKED: dict[str, tuple[float, float, float]] = {
    "stand": (0, 0, 0),
    "forward 0.4": (0.4, 0, 0),
    "forward 0.8": (0.8, 0, 0),
    "back 0.4": (-0.4, 0, 0),
    "left 0.3": (0, 0.3, 0),
    "right 0.3": (0, -0.3, 0),
    "turn left 0.8": (0, 0, 0.8),
    "turn right 0.8": (0, 0, -0.8),
    "forward 0.5 turn 0.5": (0.5, 0, 0.5),
}


@dataclass(frozen=True)
class WalkExam:
    """What an examination found."""

    runs: int
    falls: int
    velocity_error_m_s: float
    yaw_error_rad_s: float
    tracking: dict[str, tuple[float, float, float]]  # command name -> mean vx, vy, yaw rate

    def figures(self) -> dict[str, float]:
        """Keys and values for the results file."""
        return {
            "walker_falls": self.falls / self.runs,
            "walker_velocity_error": self.velocity_error_m_s,
            "walker_yaw_error": self.yaw_error_rad_s,
        }


class _Rollout:
    """One walker stepping a WalkEnv."""

    def __init__(self, path: Path, config: WalkConfig, seed: int):
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.env = WalkEnv(config)
        self.observation, _ = self.env.reset(seed=seed)

    def step(self) -> np.ndarray:
        """(n,) which worlds fell in this control period."""
        action = self.session.run(None, {"observation": self.observation})[0]
        self.observation, _, _, _, info = self.env.step(action)
        return info["fallen"]


def examine_walker(
    path: Path | None = None, runs: int = 100, seconds: float = 20.0, seed: int = 10_000
) -> WalkExam:
    """`runs` worlds follow random commands for `seconds` with moving arms, then fixed ones for 6 s.

    Errors are means over time and worlds of |command - velocity|, each smoothed over 0.4 s, after
    the first second of a command.
    """
    path = path or asset_path("models/walker.onnx")
    config = replace(EXAM_WORLDS, n_worlds=runs, episode_s=2 * seconds)
    rollout = _Rollout(path, config, seed)
    env, fallen, errors = rollout.env, np.zeros(runs, dtype=bool), []
    since_command = np.zeros(runs)
    for _ in range(round(seconds * CONTROL_HZ)):
        before = env.velocity.copy()
        fallen |= rollout.step()
        since_command = np.where((before == env.velocity).all(axis=1), since_command + 1, 0)
        settled = (since_command > CONTROL_HZ) & ~fallen
        errors.append(np.abs(env.smooth_velocity - env.velocity)[settled])
    error = np.concatenate(errors)
    return WalkExam(
        runs,
        int(fallen.sum()),
        float(np.hypot(error[:, 0], error[:, 1]).mean()),
        float(error[:, 2].mean()),
        _track(path, seed),
    )


def _track(path: Path, seed: int, worlds_each: int = 8) -> dict[str, tuple[float, float, float]]:
    """Mean velocity over seconds 2 to 6 of each fixed command."""
    n = worlds_each * len(TRACKED)
    config = replace(EXAM_WORLDS, n_worlds=n, command_s=np.inf, episode_s=60)
    rollout = _Rollout(path, config, seed)
    rollout.env.velocity[:] = np.repeat(list(TRACKED.values()), worlds_each, axis=0)
    sums = np.zeros((n, 3))
    for step in range(round(6 * CONTROL_HZ)):
        rollout.step()
        if step >= 2 * CONTROL_HZ:
            sums += rollout.env.smooth_velocity
    means = (sums / (4 * CONTROL_HZ)).reshape(len(TRACKED), worlds_each, 3).mean(axis=1)
    return {
        name: (float(x), float(y), float(w)) for name, (x, y, w) in zip(TRACKED, means, strict=True)
    }
