"""Evaluation: how often a policy does what it is told, in scenes it has never seen."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bridge.contract import Policy, UserError
from bridge.files import write_bytes, write_json
from sim.render.video import Frame, clip_frames, draw_clip
from sim.scene import Scene, scene_spec
from sim.world import World
from tasks.episode import ExpertPolicy, run_episode, warm_up
from tasks.evaluation.floors import FLOORS
from tasks.evaluation.report import Clip, rank, write_report
from tasks.evaluation.results import command_line, wilson_interval
from tasks.language.language import SPLITS
from tasks.task import Trial
from tasks.user_task import read_catalogue
from tasks.workers import Worker, progress_bar, workers

# Scenes of an evaluation come from seeds that no collection uses.
EVALUATION = 0x5EED_E7A1
SWAP = "swap"
N_OBJECTS = 4


@dataclass(frozen=True)
class EvaluateConfig:
    """What is tried.

    Attributes:
        families: Task families, or "swap": pairs of episodes in one scene, two objects named.
        episodes: Episodes of each family; pairs of "swap".
        split: Whose wordings: "train" or "heldout".
        seed: Another seed, other scenes.
        processes: Episodes at a time.
        baseline: Names the figures of a policy that is denied something, e.g. "no_text".
        floor: Try a policy that knows nothing instead: one that stands still, or moves at random.
        robot: Another MJCF of the 29-joint G1.
        tasks: Files with tasks of your own, which --families may then name.
        clips: Show the best and the worst run in the report.
    """

    families: tuple[str, ...] = ("go_to", "walk", "gesture", SWAP)
    episodes: int = 50
    split: str = "train"
    seed: int = 0
    processes: int = 2
    baseline: str | None = None
    floor: Literal["zero", "random"] | None = None
    robot: Path | None = None
    tasks: tuple[Path, ...] = ()
    clips: bool = True


@dataclass(frozen=True)
class _Job:
    name: str
    index: int
    swapped: bool
    config: EvaluateConfig


@dataclass(frozen=True)
class _Tried:
    """An episode that was tried: its row, and what it takes to look at it again."""

    row: dict[str, Any]
    scene: Scene
    frames: list[Frame]


def evaluate(
    make_policy: Callable[[], Policy] | None,
    config: EvaluateConfig,
    folder: Path | str | None = None,
    known: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The figures of a policy, by the names that docs/results uses; rates in 0..1.

    `make_policy` is called once in each process and must pickle; None evaluates the expert.
    With a folder, episodes.json has a row for every episode, success.png a bar for every family,
    and report.html all of it, beside the figures that are `known` from other evaluations.
    Raises UserError for a family or split that does not exist.
    """
    if config.floor:
        make_policy = FLOORS[config.floor]
    _check(config)
    jobs = _jobs(config)
    rows: list[dict[str, Any]] = []
    shown: list[_Tried] = []
    processes = min(config.processes, len(jobs))
    with progress_bar() as bar, workers(processes, make_policy, config.tasks) as mapped:
        task = bar.add_task("evaluate", total=len(jobs), note="")
        for tried in mapped(_try, jobs):
            rows.append(tried.row)
            ranked = sorted([*shown, tried], key=lambda other: rank(other.row))
            shown = [ranked[0], ranked[-1]]
            right = sum(r["success"] for r in rows)
            bar.update(task, advance=1, note=f"{right} of {len(rows)} right")
    figures = figures_of(rows, config)
    if folder is not None:
        clips = _clips(shown, config.robot) if config.clips else []
        write_report(Path(folder, "report.html"), rows, figures, known or {}, command_line(), clips)
        kept = [{k: v for k, v in row.items() if k != "latencies_ms"} for row in rows]
        write_json(Path(folder, "episodes.json"), kept)
        write_bytes(Path(folder, "success.png"), draw_success(figures))
    return figures


def _clips(shown: Sequence[_Tried], robot: Path | None) -> list[Clip]:
    """The worst and the best run, the best first; one alone if there is no other."""
    clips = []
    for title, tried in zip(("best run", "worst run"), reversed(shown), strict=True):
        model = scene_spec(tried.scene, robot).compile()
        clips.append(Clip(title, tried.row, draw_clip(model, tried.frames)))
    return clips if shown[0] is not shown[1] else clips[:1]


def _check(config: EvaluateConfig) -> None:
    catalogue = read_catalogue(config.tasks)
    for name in config.families:
        if name != SWAP:
            catalogue[name]
    if config.split not in SPLITS:
        raise UserError(f"no split {config.split!r}: choose {' or '.join(SPLITS)}")
    if config.episodes < 1:
        raise UserError("--episodes must be at least 1")


def _jobs(config: EvaluateConfig) -> list[_Job]:
    return [
        _Job(name, index, swapped, config)
        for name in config.families
        for index in range(config.episodes)
        for swapped in ((False, True) if name == SWAP else (False,))
    ]


def _try(worker: Worker, job: _Job) -> _Tried:
    """One episode. The same job gives the same scene and words."""
    config, catalogue = job.config, worker.catalogue
    rng = np.random.default_rng([EVALUATION, config.seed, job.index, *job.name.encode()])
    trial = catalogue["go_to" if job.name == SWAP else job.name].trial(rng, N_OBJECTS)
    if job.swapped:
        trial = _swapped(trial, rng)
    wording = catalogue.language.sample_wording(trial.meaning, rng, config.split)
    world = World(trial.scene, seed=job.index, robot_path=config.robot)
    success, frames = trial.success(), []
    try:
        warm_up(world, trial.start_command)
        policy = worker.policy or ExpertPolicy(world, trial.meaning, trial.skill.expert)
        outcome = run_episode(
            world, policy, wording, success, trial.time_limit_s, on_frame=frames.append
        )
    finally:
        world.close()
    row = dict(vars(outcome), family=job.name, index=job.index, swapped=job.swapped)
    row |= success.reached() | {
        "split": config.split,
        "wording": wording,
        "meaning": trial.meaning.slots(),
        "latency_p50_ms": float(np.median(outcome.latencies_ms)),
        "expert_use": expert_use(frames),
    }
    return _Tried(row, trial.scene, clip_frames(frames) if config.clips else [])


def expert_use(frames: Sequence[Frame]) -> list[list[float]]:
    """The share of the choices of each expert, per layer, over an episode's chunks, each alike.

    Empty for a policy without experts.
    """
    chunks = {id(frame.chunk): frame.chunk for frame in frames if frame.chunk is not None}
    found = [chunk.thinking.expert_use for chunk in chunks.values() if chunk.thinking.expert_use]
    return np.mean(found, axis=0).tolist() if found else []


def _swapped(trial: Trial, rng: np.random.Generator) -> Trial:
    """The same scene, another of its objects named."""
    meaning = trial.meaning
    others = [thing for thing in trial.scene.objects if not meaning.fits(thing)]
    other = others[int(rng.integers(len(others)))]
    return replace(trial, meaning=replace(meaning, colour=other.colour, shape=other.shape))


def figures_of(rows: Sequence[Mapping[str, Any]], config: EvaluateConfig) -> dict[str, Any]:
    """Rates with their Wilson intervals (key + "_interval") and counts (key + "_episodes")."""
    if config.baseline:
        # A baseline has one figure, over all that it was tried on.
        return _rate(f"{config.baseline}_success", [row["success"] for row in rows])
    prefix = f"{config.floor}_" if config.floor else ""
    prefix += "" if config.split == "train" else f"{config.split}_"
    figures: dict[str, Any] = {}
    for name in config.families:
        own = [row for row in rows if row["family"] == name]
        if name == SWAP:
            pairs = Counter(row["index"] for row in own if row["success"])
            both = [pairs[index] == 2 for index in sorted({row["index"] for row in own})]
            figures |= _rate(f"{prefix}swap_both", both)
        else:
            figures |= _rate(f"{prefix}{name}_success", [row["success"] for row in own])
            figures |= _rate(f"{prefix}{name}_falls", [row["fell"] for row in own])
            figures[f"{prefix}{name}_said_done"] = float(np.mean([row["done_said"] for row in own]))
            figures[f"{prefix}{name}_time_s"] = float(np.mean([row["time_s"] for row in own]))
    return figures


def _rate(key: str, successes: Sequence[bool]) -> dict[str, Any]:
    right, tried = sum(map(bool, successes)), len(successes)
    return {
        key: right / tried,
        f"{key}_interval": list(wilson_interval(right, tried)),
        f"{key}_episodes": tried,
    }


def heldout_drop(figures: Mapping[str, Any]) -> dict[str, float]:
    """How much lower success is with held-out wordings, over the families tried with both.

    Empty unless `figures` has both of at least one family.
    """
    pairs = [
        (figures[key.removeprefix("heldout_")], figures[key])
        for key in figures
        if re.fullmatch(r"heldout_\w+_success", key) and key.removeprefix("heldout_") in figures
    ]
    return {"heldout_drop": float(np.mean([a - b for a, b in pairs]))} if pairs else {}


def draw_success(figures: Mapping[str, Any]) -> bytes:
    """A PNG of every success rate in `figures`, with its interval."""
    from matplotlib.figure import Figure

    keys = [key for key in figures if f"{key}_interval" in figures and not key.endswith("_falls")]
    rates = np.array([figures[key] for key in keys])
    low, high = np.array([figures[f"{key}_interval"] for key in keys]).T
    picture = Figure(figsize=(1.6 + 1.2 * len(keys), 3.6), layout="constrained")
    axes = picture.subplots()
    axes.bar(range(len(keys)), rates, color="#4477aa", width=0.6)
    errors = np.clip([rates - low, high - rates], 0, None)
    axes.errorbar(range(len(keys)), rates, errors, fmt="none", ecolor="black", capsize=4)
    for place, (rate, top) in enumerate(zip(rates, high, strict=True)):
        axes.text(place, max(rate, top) + 0.02, f"{rate:.0%}", ha="center", fontweight="bold")
    labels = [key.removesuffix("_success").replace("_", " ") for key in keys]
    axes.set_xticks(range(len(keys)), labels)
    axes.set_ylim(0, 1.1)
    axes.set_ylabel("success (95 % Wilson interval)")
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
