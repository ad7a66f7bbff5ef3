"""Trains the walker with rsl-rl's PPO and exports it to ONNX."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rsl_rl.env import VecEnv
from rsl_rl.runners import OnPolicyRunner
from safetensors import safe_open
from safetensors.torch import save
from tensordict import TensorDict

from bridge.contract import UserError
from bridge.files import write_bytes, write_json
from bridge.options import differences, plain
from bridge.ranges import NonNegativeFloat, PositiveFloat, PositiveInt, Seed, check_ranges
from robots.g1.embodiment import JOINT_NAMES
from robots.g1.facts import N_LEG_WAIST_JOINTS
from robots.g1.walker import OBSERVATION_DIM, Walker
from sim.locomotion.env import WalkConfig, WalkEnv

# Penalties that follow the length of episodes, and its bounds, are holosoma's (PenaltyCurriculum);
# how fast they grow was chosen by trial.
PENALTY_FLOOR, PENALTY_GROWTH = 0.1, 2.5e-4
SHORT_EPISODE, LONG_EPISODE = 150, 750  # control steps
CHECKPOINT = "checkpoint.safetensors"
CRITIC_ALONE = 40  # iterations until a new critic may judge a walker that is already good
GENTLE = 3e-5  # the learning rate at which such a walker begins to change


@dataclass(frozen=True)
class WalkTrainConfig:
    """One run of walker training.

    `start` is the folder of a run whose end is this one's begin, or a walker.onnx: its network
    goes on, with a critic that first learns alone.
    """

    iterations: PositiveInt = 3000
    minutes: PositiveFloat = 110.0
    seed: Seed = 0
    steps_per_iteration: PositiveInt = 24
    save_every: PositiveInt = 25
    learning_rate: PositiveFloat = 1e-3
    kl_low: PositiveFloat = 0.025
    kl_high: PositiveFloat = 0.05
    initial_std: PositiveFloat = 0.4
    entropy: NonNegativeFloat = 0.002
    hidden: tuple[PositiveInt, ...] = (256, 128, 128)
    start: Path | None = None
    worlds: WalkConfig = field(default_factory=WalkConfig)


class RslEnv(VecEnv):
    """rsl-rl's view of a WalkEnv, with the curriculum of the penalties."""

    def __init__(self, env: WalkEnv, seed: int) -> None:
        self.env, self.cfg = env, asdict(env.config)
        self.num_envs, self.num_actions = env.num_envs, N_LEG_WAIST_JOINTS
        self.device = "cpu"
        env.difficulty = 0.0
        self.max_episode_length = env.max_steps
        observation, info = env.reset(seed=seed)
        self._observations = self._pack(observation, info["critic"])
        self.grows = True  # whether penalties and difficulty follow what is learned
        self.episode_length = float(SHORT_EPISODE)
        self.tracking_error = 0.5

    @property
    def episode_length_buf(self) -> torch.Tensor:
        return torch.as_tensor(self.env.episode_steps)

    @episode_length_buf.setter
    def episode_length_buf(self, value: torch.Tensor) -> None:
        self.env.episode_steps[:] = value.numpy()

    def _pack(self, observation: np.ndarray, critic: np.ndarray) -> TensorDict:
        return TensorDict(
            {"actor": torch.from_numpy(observation), "critic": torch.from_numpy(critic)},
            batch_size=[self.num_envs],
        )

    def get_observations(self) -> TensorDict:
        return self._observations

    def step(
        self, actions: torch.Tensor
    ) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(actions.numpy())
        self._follow_curriculum(info["episode_steps"][terminated | truncated])
        self._observations = self._pack(observation, info["critic"])
        # What nobody could foresee is no action's merit: returns end before it, as at a time-out
        # (Pardo et al. 2018, arXiv:1712.00378).
        unforeseen = truncated | (info["disturbed"] & ~terminated)
        extras = {
            "time_outs": torch.from_numpy(unforeseen),
            "log": {f"/reward/{name}": value for name, value in info["terms"].items()}
            | {
                "/curriculum/penalty_factor": self.env.penalty_factor,
                "/curriculum/difficulty": self.env.difficulty,
                "/curriculum/tracking_error": self.tracking_error,
                "/curriculum/episode_length": self.episode_length,
            },
        }
        dones = torch.from_numpy((terminated | unforeseen).astype(np.int64))
        return self._observations, torch.from_numpy(reward), dones, extras

    def _follow_curriculum(self, finished: np.ndarray) -> None:
        """Penalties grow while episodes are long and shrink while they are short."""
        share = min(1.0, len(finished) / 1000)
        if len(finished):
            self.episode_length += share * (float(finished.mean()) - self.episode_length)
        error = np.linalg.norm(self.env.smooth_velocity - self.env.velocity, axis=1).mean()
        self.tracking_error += 0.005 * (float(error) - self.tracking_error)
        if not self.grows:
            self.env.penalty_factor = self.env.difficulty = 1.0
            return
        factor = self.env.penalty_factor
        if self.episode_length < SHORT_EPISODE:
            factor *= 1 - PENALTY_GROWTH
        elif self.episode_length > LONG_EPISODE:
            factor *= 1 + PENALTY_GROWTH
        self.env.penalty_factor = float(np.clip(factor, PENALTY_FLOOR, 1.0))
        # First to go where it is told, then to do so while arms swing and people push.
        steady = np.clip((self.episode_length - 250) / 600, 0.0, 1.0)
        exact = np.clip((0.4 - self.tracking_error) / 0.15, 0.2, 1.0)
        self.env.difficulty = float(steady * exact)


class WalkRunner(OnPolicyRunner):
    """rsl-rl's runner with checkpoints of safetensors and JSON, written atomically."""

    def save(self, path: str, infos: dict | None = None) -> None:
        folder = Path(path).parent
        optimizer = self.alg.optimizer.state_dict()
        tensors = {
            **{f"actor.{k}": v for k, v in self.alg.actor.state_dict().items()},
            **{f"critic.{k}": v for k, v in self.alg.critic.state_dict().items()},
            **{
                f"optimizer.{i}.{k}": v
                for i, state in optimizer["state"].items()
                for k, v in state.items()
            },
        }
        state = {
            "iteration": self.current_learning_iteration,
            "learning_rate": self.alg.learning_rate,
            "penalty_factor": self.env.env.penalty_factor,
            "episode_length": self.env.episode_length,
            "tracking_error": self.env.tracking_error,
            "grows": self.env.grows,
        }
        tensors = {k: v.contiguous() for k, v in tensors.items()}
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise UserError(
                f"the walker's weights are no longer finite: {folder} keeps those of before; begin"
                " with a lower --learning-rate"
            )
        write_bytes(folder / CHECKPOINT, save(tensors, {"state": json.dumps(state)}))
        export_walker(self, folder / "walker.onnx")
        self.logger.save_model(path, self.current_learning_iteration)

    def restore(self, folder: Path) -> None:
        with safe_open(folder / CHECKPOINT, framework="pt") as file:
            state = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

        def part(prefix: str) -> dict[str, torch.Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.alg.actor.load_state_dict(part("actor."))
        self.alg.critic.load_state_dict(part("critic."))
        optimizer = self.alg.optimizer.state_dict()
        for name, value in part("optimizer.").items():
            index, key = name.split(".")
            optimizer["state"].setdefault(int(index), {})[key] = value
        self.alg.optimizer.load_state_dict(optimizer)
        self.alg.learning_rate = state["learning_rate"]
        self.current_learning_iteration = state["iteration"] + 1
        self.env.env.penalty_factor = state["penalty_factor"]
        self.env.episode_length = state["episode_length"]
        self.env.tracking_error = state["tracking_error"]
        self.env.grows = state.get("grows", True)  # of an older checkpoint

    def begin_from(self, path: Path) -> None:
        """Takes the network of a walker.onnx, which can walk: at full penalties and difficulty."""
        Walker(path)  # refuses a file that is no walker of this body
        import onnx

        weights = {
            tensor.name: torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
            for tensor in onnx.load(str(path)).graph.initializer
        }
        own = self.alg.actor.state_dict()
        network = {name: weights.get(name) for name in own if name.startswith("mlp.network.")}
        for name, tensor in network.items():
            if tensor is None or tensor.shape != own[name].shape:
                raise UserError(f"{path} holds a network of another size than --hidden says")
        self.alg.actor.load_state_dict(own | network)
        self.alg.learning_rate = GENTLE
        self.env.grows = False


def runner_config(config: WalkTrainConfig) -> dict[str, Any]:
    """rsl-rl's configuration of a run."""
    network = {"class_name": "MLPModel", "hidden_dims": list(config.hidden), "activation": "elu"}
    gaussian = {"class_name": "GaussianDistribution", "std_type": "log"}
    gaussian |= {"init_std": config.initial_std}
    return {
        "num_steps_per_env": config.steps_per_iteration,
        "save_interval": config.save_every,
        "logger": {"class_name": "sim.locomotion.curves:CurveWriter"},
        "obs_groups": {"actor": ["actor"], "critic": ["critic"]},
        "actor": network
        | {"class_name": "sim.locomotion.ppo:SymmetricActor", "distribution_cfg": gaussian},
        "critic": dict(network),
        "algorithm": {
            "class_name": "sim.locomotion.ppo:SteadyPPO",
            "schedule": "fixed",
            "desired_kl": None,
            "learning_rate": config.learning_rate,
            "entropy_coef": config.entropy,
            "use_clipped_value_loss": False,  # clipped, a new critic needs hundreds of updates
            "num_learning_epochs": 5,
            "num_mini_batches": 4,
        },
    }


def train_walker(out: Path, config: WalkTrainConfig = WalkTrainConfig()) -> Path:
    """Trains (or goes on training) the walker in folder `out`; returns its ONNX file.

    Ends after `iterations` in all or `minutes` of this call, whichever comes first.
    """
    check_ranges(config)
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.worlds.threads)
    out.mkdir(parents=True, exist_ok=True)
    _check_same_config(out, config)
    env = RslEnv(WalkEnv(config.worlds), config.seed)
    runner = WalkRunner(env, runner_config(config), log_dir=str(out))
    runner.alg.kl_low, runner.alg.kl_high = config.kl_low, config.kl_high
    from_file = config.start is not None and config.start.is_file()
    if (out / CHECKPOINT).exists():
        runner.restore(out)
    elif config.start is not None and from_file:
        runner.begin_from(config.start)
    elif config.start is not None:
        _check_start(config.start, config)
        runner.restore(config.start)
    deadline = time.monotonic() + 60 * config.minutes
    first = True
    while runner.current_learning_iteration < config.iterations and time.monotonic() < deadline:
        alone = from_file and runner.current_learning_iteration < CRITIC_ALONE
        runner.alg.actor.requires_grad_(not alone)
        end = min(config.iterations, CRITIC_ALONE) if alone else config.iterations
        left = end - runner.current_learning_iteration
        runner.learn(min(config.save_every, left), init_at_random_ep_len=first)
        runner.current_learning_iteration += 1
        first = False
    return out / "walker.onnx"


def _check_same_config(out: Path, config: WalkTrainConfig) -> None:
    """A resumed run must be the same run but for its length and speed; keeps its options."""
    new = plain(asdict(config))
    differ = differences(
        out / "config.json", new, {"iterations", "minutes", "save_every", "worlds.threads"}
    )
    if differ:
        raise UserError(
            f"{out} holds a run with another {', '.join(differ)}; give that, or another --out"
        )
    write_json(out / "config.json", new)


def _check_start(start: Path, config: WalkTrainConfig) -> None:
    """A run may go on from another with other options, which are told, but not as another net."""
    if not (start / CHECKPOINT).exists():
        raise UserError(f"{start} holds no {CHECKPOINT}; give --start the folder of a run")
    new = plain(asdict(config))
    differ = differences(
        start / "config.json", new, {"iterations", "minutes", "save_every", "start"}
    )
    shape = [line for line in differ if line.startswith("hidden ")]
    if shape:
        raise UserError(f"{start} holds a network with another {shape[0]}; give that")
    print(f"goes on from {start}, which had another {', '.join(differ) or 'length alone'}")


def export_walker(runner: OnPolicyRunner, path: Path) -> None:
    """Writes the actor's mean as ONNX: `observation` (n, 86) -> `action` (n, 15)."""
    import onnx

    model = runner.alg.actor.as_onnx(verbose=False).to("cpu").eval()
    program = torch.onnx.export(
        model,
        (torch.zeros(2, OBSERVATION_DIM),),
        dynamic_shapes=({0: "n"},),
        input_names=["observation"],
        output_names=["action"],
        opset_version=21,
        dynamo=True,
        verbose=False,
    )
    proto = program.model_proto
    for key, value in {"joints": ",".join(JOINT_NAMES), "rate_hz": "50"}.items():
        proto.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(proto)
    write_bytes(path, proto.SerializeToString())
