"""Tasks as environments of Gymnasium: every family of a catalogue, its instruction observed.

The names, `Hitogata/GoTo-v0` and others, are registered by `hitogata/environments.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NoReturn

import gymnasium
import numpy as np
from gymnasium.error import CustomSpaceError
from gymnasium.spaces import Box, Dict, Text
from gymnasium.vector.utils import create_shared_memory

from bridge.contract import INSTRUCTION_MAX_BYTES, UserError
from bridge.control.safety import Limiter
from bridge.ranges import NonNegativeInt, check_ranges
from robots.g1.embodiment import G1
from sim.envs import STATE_LIMIT, Info, Observed, WorldEnv, WorldVectorEnv, to_action
from sim.world import World
from tasks.catalogue import SHIPPED, Catalogue
from tasks.episode import context_of, warm_up
from tasks.expert import act
from tasks.language.language import SPLITS
from tasks.success import true_state
from tasks.task import Trial

RewardType = Literal["sparse", "dense"]
REWARD_TYPES: tuple[RewardType, ...] = ("sparse", "dense")
MOST_DRAWS = 100


class Instruction(Text):
    """The space of instructions that may be typed in some set of characters."""

    def __init__(self, charset: frozenset[str]) -> None:
        super().__init__(INSTRUCTION_MAX_BYTES, charset=charset)


# Gymnasium reads text once from shared memory: the first words would be shown for ever.
@create_shared_memory.register(Instruction)
def _refuse_shared_memory(space: Instruction, **_: Any) -> NoReturn:
    raise CustomSpaceError("text is not renewed in shared memory")


@dataclass(frozen=True)
class TaskEnvConfig:
    """Which episodes an environment has, and what it shows of them.

    Attributes:
        family: A task of the catalogue by its name.
        catalogue: Where it is; with tasks of the user's own through `read_catalogue`.
        split: Whose wordings: "train" or "heldout".
        n_objects: How many objects each scene has.
        images: Whether pictures are observed; without them it is several times as fast.
        reward_type: "sparse" or "dense", see `TaskEpisode`.
    """

    family: str
    catalogue: Catalogue = SHIPPED
    split: str = "train"
    n_objects: NonNegativeInt = 4
    images: bool = True
    reward_type: RewardType = "sparse"

    def __post_init__(self) -> None:
        """Raises UserError for a value that does not exist."""
        task = self.catalogue[self.family]
        for name, valid in (("split", SPLITS), ("reward_type", REWARD_TYPES)):
            if (value := getattr(self, name)) not in valid:
                raise UserError(f"no {name} {value!r}: choose {' or '.join(valid)}")
        check_ranges(self)
        if not self.n_objects and any(skill.names_object for skill in task.skills):
            raise UserError(f"{self.family} names objects: n_objects must be at least 1")

    def observation_space(self) -> Dict:
        """What an episode observes.

        `instruction` is text, `state` (STATE,) float32 is `Observation.state`, and each camera has
        a `<name>_image` (H, W, 3) uint8.
        """
        text = Instruction(self.catalogue.language.characters())
        state = Box(-STATE_LIMIT, STATE_LIMIT, (len(G1.state_names),), np.float32)
        spaces: dict[str, gymnasium.Space[Any]] = {"instruction": text, "state": state}
        for camera in G1.cameras if self.images else ():
            shape = (camera.height, camera.width, 3)
            spaces[f"{camera.name}_image"] = Box(0, 255, shape, np.uint8)
        return Dict(spaces)

    def trial(self, rng: np.random.Generator) -> Trial:
        """A random episode whose scene has `n_objects`, none of them in the way."""
        for _ in range(MOST_DRAWS):
            trial = self.catalogue[self.family].trial(rng, self.n_objects)
            if len(trial.scene.objects) == self.n_objects:
                return trial
        raise UserError(f"{self.family} has no scene of {self.n_objects} objects: set n_objects")


class TaskEpisode:
    """A `WorldTask`: one instruction of a family, to be carried out within its time limit.

    Success, info["is_success"], is what an evaluation counts, held for as long as it asks. It
    terminates, as does what makes it impossible, info["failed"]: a fall, another object or hand
    than was asked for, and for some skills an object knocked over. The time limit truncates. The
    sparse reward is 1 for success, else 0. The dense one adds what `Success.remaining` fell by in
    the step, and -1 for failure. Commands go through the `Limiter` of the robot's safety.
    """

    def __init__(self, rng: np.random.Generator, config: TaskEnvConfig) -> None:
        self.trial, self._config = config.trial(rng), config
        self.instruction = config.catalogue.language.sample_wording(
            self.trial.meaning, rng, config.split
        )
        seed = int(rng.integers(2**31))
        self.world = World(self.trial.scene, seed=seed, render=config.images)
        warm_up(self.world, self.trial.start_command)
        self.world.begin_instruction()
        self._end_s = self.world.time_s + self.trial.time_limit_s
        self._limiter = Limiter(G1.limits, self.world.command)
        self._succeeded = False
        self._success = self.trial.success()
        self._truth = true_state(self.world)
        self._success.begin(self._truth)
        self._remaining = self._success.remaining(self._truth)

    def observe(self) -> Observed:
        observation = self.world.observe()
        observed: Observed = {"instruction": self.instruction, "state": observation.state}
        if self._config.images:
            observed |= {f"{name}_image": image for name, image in observation.images.items()}
        return observed

    def info(self) -> Info:
        """Whether it has succeeded or failed, the meaning by slots, and figures of the truth."""
        told = {"is_success": self._succeeded, "failed": self._success.failed}
        return told | {"meaning": self.trial.meaning.slots()} | self._success.details()

    def limited(self, command: np.ndarray) -> np.ndarray:
        return self._limiter.step(command)

    def watch(self) -> None:
        self._truth = true_state(self.world)
        self._succeeded |= self._success.watch(self._truth)

    def judge(self) -> tuple[float, bool, bool, Info]:
        failed = self._success.failed
        self._succeeded &= not failed
        ended = self._succeeded or failed
        reward = float(self._succeeded)
        if self._config.reward_type == "dense":
            before, self._remaining = self._remaining, self._success.remaining(self._truth)
            reward += before - self._remaining - failed
        late = self.world.time_s >= self._end_s - 1e-9
        return reward, ended, late and not ended, self.info()

    def expert_action(self) -> np.ndarray:
        """The (18,) action of the skill's scripted expert, which knows the scene."""
        trial, view = self.trial, self.world.snapshot()
        context = context_of(self.world.observe())
        commands, _ = act(trial.skill.expert, trial.meaning, view, context)
        return to_action(commands[0])


class TaskEnv(WorldEnv):
    """A family of tasks as an environment, told by the fields of `TaskEnvConfig`.

    Observations are of `TaskEnvConfig.observation_space`, actions commands as of `WorldEnv`; see
    `TaskEpisode` for reward, end and info.
    """

    def __init__(self, family: str, render_mode: str | None = None, **options: Any) -> None:
        config = TaskEnvConfig(family, **options)
        new_episode = partial(TaskEpisode, config=config)
        super().__init__(new_episode, config.observation_space(), render_mode)

    def expert_action(self) -> np.ndarray:
        """The (18,) action that the skill's scripted expert would take now."""
        assert isinstance(self._episode, TaskEpisode), "call reset() first"
        return self._episode.expert_action()


class TaskVectorEnv(WorldVectorEnv):
    """A family of tasks as a vector of `num_envs`, see `TaskEnv`."""

    def __init__(self, family: str, num_envs: int = 1, threads: int = 0, **options: Any) -> None:
        config = TaskEnvConfig(family, **options)
        new_episode = partial(TaskEpisode, config=config)
        super().__init__(new_episode, config.observation_space(), num_envs, threads)
