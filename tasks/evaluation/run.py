"""One instruction, carried out before the user's eyes: scene, episode, report and video."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bridge.contract import Policy, Refusal, UserError
from bridge.files import read_json
from bridge.ranges import PositiveFloat, Seed
from robots.g1.embodiment import CONTROL_HZ
from sim.render.video import Frame, write_video
from sim.scene import Scene, sample_scene
from sim.world import World
from tasks.episode import EpisodeOutcome, run_episode, warm_up
from tasks.language.intent import UNKNOWN, Intent, describe
from tasks.language.parse import read_wording
from tasks.success import named_object
from tasks.task import Skill
from tasks.user_task import read_catalogue

HOLD_S = 1.0
MOST_SEEDS = 1000


REASONS: dict[str, str] = {
    Refusal.LENGTH: "it does not hear so much at once; say it in fewer words",
    Refusal.WORDS: "it does not know these words; say it otherwise, in English",
    Refusal.UNSEEN: "it has looked around and sees no such thing",
    Refusal.UNABLE: "it cannot do that",
}


@dataclass(frozen=True)
class RunConfig:
    """Where an instruction is carried out, and what is left of it.

    Attributes:
        seed: Which random scene; without it the first one that has what the instruction names.
        scene: A scene file (JSON) instead of a random scene.
        robot: Another MJCF of the 29-joint G1, e.g. the mesh model of MuJoCo Menagerie.
        out: The video.
        time_limit_s: When to give up; without it what the kind of task allows.
        view: Show a window while it runs.
        tasks: Files with tasks of your own, so that they are judged.
    """

    seed: Seed | None = None
    scene: Path | None = None
    robot: Path | None = None
    out: Path = Path("out/run.mp4")
    time_limit_s: PositiveFloat | None = None
    view: bool = False
    tasks: tuple[Path, ...] = ()


@dataclass(frozen=True)
class PreparedRun:
    """All that stands before the policy is asked. `meaning` and `skill` serve the verdict alone."""

    instruction: str
    meaning: Intent | None
    skill: Skill
    scene: Scene
    world: World


def set_stage(instruction: str, config: RunConfig) -> PreparedRun:
    """The robot in its scene, standing, or moving when there must be something to stop."""
    catalogue = read_catalogue(config.tasks)
    meaning = read_wording(instruction, catalogue.language)
    skill = catalogue.skill(meaning or UNKNOWN)
    seed, scene = choose_scene(config, meaning)
    scene = skill.clear_way(meaning, scene) if meaning and config.scene is None else scene
    print(f"scene       {_scene_words(scene, seed)}")
    world = World(scene, seed=seed or 0, robot_path=config.robot)
    rng = np.random.default_rng(seed)
    warm_up(world, skill.start_command(rng))
    return PreparedRun(instruction, meaning, skill, scene, world)


def carry_out(stage: PreparedRun, policy: Policy, config: RunConfig) -> EpisodeOutcome:
    """Runs the episode, prints what came of it and writes the video.

    If the policy fails, the robot is left standing before the error goes on.
    """
    with _window(stage.world) if config.view else nullcontext(lambda: None) as show:
        try:
            outcome, frames = perform(stage, policy, config.time_limit_s, show)
        except UserError:
            _stand(stage.world, show)
            raise
    _report(outcome, stage.meaning)
    write_video(config.out, stage.world.model, frames, stage.instruction)
    print(f"video       {config.out}")
    return outcome


def perform(
    stage: PreparedRun,
    policy: Policy,
    time_limit_s: float | None = None,
    show: Callable[[], None] = lambda: None,
) -> tuple[EpisodeOutcome, list[Frame]]:
    """Runs the episode and tells what came of it; `show` is called after every control period."""
    frames: list[Frame] = []

    def record(frame: Frame) -> None:
        frames.append(frame)
        show()

    meaning = stage.meaning or UNKNOWN
    success = stage.skill.success(meaning, stage.scene)
    limit_s = time_limit_s or stage.skill.limit_s(meaning)
    outcome = run_episode(stage.world, policy, stage.instruction, success, limit_s, on_frame=record)
    return outcome, frames


def _stand(world: World, show: Callable[[], None]) -> None:
    for _ in range(round(HOLD_S * CONTROL_HZ)):
        world.hold()
        show()
    print(f"robot       {'has fallen' if world.fallen() else 'left standing'}")


def choose_scene(config: RunConfig, meaning: Intent | None) -> tuple[int | None, Scene]:
    """The scene of a file or a seed, or the first seed's that has the one thing that is named."""
    if config.scene is not None:
        content = read_json(config.scene, "choose a file of a scene, written by Scene.to_dict()")
        try:
            return None, Scene.from_dict(content)
        except UserError as error:
            raise UserError(f"{config.scene}: {error}") from error
    seed = next(fitting_seeds(meaning), None) if config.seed is None else config.seed
    if seed is None:
        raise UserError("no scene has what the instruction names; choose another with --scene")
    return seed, sample_scene(np.random.default_rng(seed))


def fitting_seeds(meaning: Intent | None) -> Iterator[int]:
    """The seeds, from 0 on, whose scenes have the one thing that is named, if one is."""
    named = meaning is not None and bool(meaning.colour or meaning.shape)
    for seed in range(MOST_SEEDS):
        scene = sample_scene(np.random.default_rng(seed))
        if not (meaning and named) or named_object(meaning, scene) is not None:
            yield seed


def _scene_words(scene: Scene, seed: int | None) -> str:
    things = ", ".join(f"{thing.colour} {thing.shape}" for thing in scene.objects)
    return f"{'from a file' if seed is None else seed}: {things}"


def _report(outcome: EpisodeOutcome, meaning: Intent | None) -> None:
    understood = " ".join(f"{slot}={value}" for slot, value in outcome.understood.items())
    p50, p95 = np.percentile(outcome.latencies_ms, (50, 95))
    print(f"understood  {understood or 'nothing'}")
    why = f": {REASONS[outcome.reason]}" if outcome.reason in REASONS else ""
    print(f"status      {outcome.said} after {outcome.time_s:.1f} s{why}")
    print(f"success     {verdict(outcome, meaning)}")
    print(f"falls       {int(outcome.fell)}")
    print(f"latency     p50 {p50:.0f} ms, p95 {p95:.0f} ms, observation to chunk")


def verdict(outcome: EpisodeOutcome, meaning: Intent | None) -> str:
    """Whether the true state is what was asked for, in words.

    A refusal is right where nothing else can be.
    """
    if meaning is None:
        return "not judged: these words are in no grammar of ours"
    if meaning == UNKNOWN:
        right = outcome.said == "refused" and not outcome.fell
    else:
        right = outcome.success
    return f"{'yes' if right else 'no'}: {describe(meaning)}"


@contextmanager
def _window(world: World) -> Iterator[Callable[[], None]]:
    """MuJoCo's viewer, in real time where the machine keeps up."""
    if sys.platform == "linux" and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        raise UserError("--view needs a display and there is none here; watch the video instead")
    import mujoco.viewer

    with mujoco.viewer.launch_passive(world.model, world.data) as viewer:
        due = time.monotonic()

        def show() -> None:
            nonlocal due
            due = max(due + 1 / CONTROL_HZ, time.monotonic() - 0.1)
            time.sleep(max(0.0, due - time.monotonic()))
            viewer.sync()

        yield show
