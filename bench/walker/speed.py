"""How fast the walker answers, and how much of the physics' speed its training worlds keep."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from mujoco import batch

from assets.inference import ort
from robots.g1.embodiment import STAND_COMMAND
from robots.g1.facts import joint_facts
from robots.g1.walker import Walker
from sim.locomotion.env import WalkConfig, WalkEnv
from sim.robot import CONTROL_SUBSTEPS


def step_ms(path: Path, steps: int = 500, rounds: int = 10) -> float:
    """Median ms of one step of one robot's walker, on one core; of the fastest of the rounds.

    What else the machine does only adds to it, for seconds at a time.
    """
    walker, rng = Walker(path), np.random.default_rng(0)
    home, upright = joint_facts("home_rad").astype(np.float64), np.array([0.0, 0.0, -1.0])
    times = np.zeros((rounds, steps))
    for i in np.ndindex(times.shape):
        joint_pos, joint_vel = home + rng.normal(0, 0.05, 29), rng.normal(0, 0.5, 29)
        started = time.perf_counter()
        walker.step(STAND_COMMAND, joint_pos, joint_vel, np.zeros(3), upright)
        times[i] = time.perf_counter() - started
    return float(1000 * np.median(times, axis=1).min())


def batch_ratio(
    path: Path, steps: int = 30, config: WalkConfig = WalkConfig(push_m_s=0.0)
) -> float:
    """Control steps per second of a WalkEnv over those of bare `mujoco.batch` from equal states.

    The two take turns, step by step, so that whatever else the machine does slows both.
    """
    env = WalkEnv(config)
    bare = batch.Batch(env.bodies.model, nsim=config.n_worlds, nthread=config.threads)
    state, ctrl = bare.state, bare.bind("ctrl")
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    observation, _ = env.reset(seed=0)
    ratios = []
    for _ in range(steps):
        action = session.run(None, {"observation": observation})[0]
        before = env.bodies.batch.state.copy()
        started = time.perf_counter()
        observation, *_ = env.step(np.asarray(action))
        ours = time.perf_counter() - started
        state[:], ctrl[:] = before, env.bodies.ctrl
        started = time.perf_counter()
        bare.step(nstep=CONTROL_SUBSTEPS)
        ratios.append((time.perf_counter() - started) / ours)
    return float(np.median(ratios))
