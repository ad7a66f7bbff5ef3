"""How fast a policy answers, on observations of a robot that looks around."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from bridge.contract import Observation, Policy
from robots.g1.embodiment import CHUNK_HZ, STAND_COMMAND, YAW_RATE
from sim.scene import sample_scene
from sim.world import World
from tasks.episode import warm_up

INSTRUCTION = "walk to the red ball"
N_OBSERVATIONS = 20
TURN_RAD_S = 0.5


def record_observations() -> list[Observation]:
    """What a robot sees and feels while it turns on the spot, one every 0.1 s."""
    world = World(sample_scene(np.random.default_rng(0)), seed=0)
    command = STAND_COMMAND.copy()
    command[YAW_RATE] = TURN_RAD_S
    warm_up(world, STAND_COMMAND)
    world.begin_instruction()
    observations = []
    for _ in range(N_OBSERVATIONS):
        observations.append(world.observe())
        warm_up(world, command, 1 / CHUNK_HZ)
    world.close()
    return observations


def chunk_figures(
    policy: Policy, observations: list[Observation], chunks: int, suffix: str = ""
) -> dict[str, float]:
    """p50 and p95 of the time from observation to chunk, as figures for a results file."""
    p50, p95 = np.percentile(chunk_latencies_ms(policy, observations, chunks), (50, 95))
    return {f"chunk_p50_ms{suffix}": float(p50), f"chunk_p95_ms{suffix}": float(p95)}


def chunk_latencies_ms(policy: Policy, observations: list[Observation], chunks: int) -> np.ndarray:
    """(chunks,) ms from observation to chunk, after a few that nobody counts."""
    warm = max(3, chunks // 20)
    latencies = []
    for i in range(warm + chunks):
        # A new stamp each time: a server may drop what it has answered before.
        observation = replace(observations[i % len(observations)], time_s=float(i))
        started = time.perf_counter()
        policy.act(INSTRUCTION, observation)
        latencies.append(1000 * (time.perf_counter() - started))
    return np.array(latencies[warm:])
