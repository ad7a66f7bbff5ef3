"""Learns to go to an object with the DQN of Stable-Baselines3, in minutes on two cores.

    pip install '.[sim,train]' stable-baselines3
    python docs/examples/learn_to_go.py

What is learned is the walk alone: the policy is told where the object is, from `info`, and picks
one of four velocities. Words and pictures are left to policies that can read them.
"""

from __future__ import annotations

import argparse
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
import torch
from stable_baselines3 import DQN  # pyright: ignore[reportMissingImports]

from robots.g1.embodiment import STAND_COMMAND, VEL_X, YAW_RATE
from sim.envs import to_action

# Stand, walk forward, turn left, turn right; each is held for three steps of the environment.
COMMANDS = np.stack([STAND_COMMAND] * 4)
COMMANDS[1, VEL_X] = 0.4
COMMANDS[2:, YAW_RATE] = 0.6, -0.6
HELD = 3
# The first episode of the evaluation; training draws its own from another seed.
EVALUATION_SEED = 1000


class FourWays(gymnasium.Wrapper):
    """Observes distance (m), cosine and sine of the bearing; acts by one of `COMMANDS`."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Box(-100, 100, (3,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(len(COMMANDS))

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        _, info = self.env.reset(**kwargs)
        return _place(info), info

    def step(self, action: int) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        total, terminated, truncated, info = 0.0, False, False, {}
        for _ in range(HELD):
            _, reward, terminated, truncated, info = self.env.step(to_action(COMMANDS[action]))
            total += float(reward)
            if terminated or truncated:
                break
        return _place(info), total, terminated, truncated, info


def _place(info: dict[str, Any]) -> np.ndarray:
    bearing = info["bearing_rad"]
    return np.array([info["distance_m"], np.cos(bearing), np.sin(bearing)], dtype=np.float32)


def make_env() -> gymnasium.Env:
    """The environment, without pictures and with the dense reward."""
    env = gymnasium.make("hitogata:Hitogata/GoTo-v0", images=False, reward_type="dense")
    return FourWays(env)


def evaluate(model: DQN, episodes: int) -> tuple[float, float]:
    """Mean return and share of successes, with as much exploration as training has by now."""
    env, returns, successes = make_env(), [], []
    for seed in range(EVALUATION_SEED, EVALUATION_SEED + episodes):
        observed, info = env.reset(seed=seed)
        total, ended = 0.0, False
        while not ended:
            action, _ = model.predict(observed)
            observed, reward, terminated, truncated, info = env.step(int(action))
            total, ended = total + float(reward), terminated or truncated
        returns.append(total)
        successes.append(info["is_success"])
    env.close()
    return float(np.mean(returns)), float(np.mean(successes))


def main() -> None:
    """Learns, and says what it reached before and after."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6000, help="actions that it learns from")
    parser.add_argument("--episodes", type=int, default=20, help="of each evaluation")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the network is small: more threads would wait for one another
    model = DQN(
        "MlpPolicy",
        make_env(),
        learning_rate=lambda left: 1e-3 * left,
        learning_starts=200,
        gamma=0.95,
        train_freq=1,
        target_update_interval=200,
        exploration_fraction=0.3,
        policy_kwargs={"net_arch": [64, 64]},
        seed=0,
        device="cpu",
        verbose=1,
    )
    for steps in (0, args.steps):
        model.learn(steps, log_interval=10)
        mean_return, success = evaluate(model, args.episodes)
        print(f"{steps} steps: return {mean_return:.2f}, success {success:.0%}", flush=True)


if __name__ == "__main__":
    main()
