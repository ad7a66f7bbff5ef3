"""Evaluation: how often a policy does what it is told, in scenes it has never seen."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bridge.contract import Policy, UserError
from bridge.files import check_writable, read_json, write_bytes, write_json, write_text
from bridge.options import differences, plain
from bridge.ranges import PositiveInt, Seed, Workers, check_ranges
from sim.render.video import Frame, clip_frames, draw_clip
from sim.scene import Scene, scene_spec
from sim.world import World
from tasks.episode import ExpertPolicy, run_episode, warm_up
from tasks.evaluation.floors import FLOORS
from tasks.evaluation.report import Clip, page, rank
from tasks.evaluation.results import command_line, paired_difference, wilson_interval
from tasks.language.grammar import pick
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
        resume: Go on where an evaluation of the same kind into the same folder was interrupted.
    """

    families: tuple[str, ...] = ("go_to", "walk", "gesture", SWAP)
    episodes: PositiveInt = 50
    split: str = "train"
    seed: Seed = 0
    processes: Workers = 2
    baseline: str | None = None
    floor: Literal["zero", "random"] | None = None
    robot: Path | None = None
    tasks: tuple[Path, ...] = ()
    clips: bool = True
    resume: bool = False


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
    model: str = "",
) -> dict[str, Any]:
    """The figures of a policy, by the names that docs/results uses; rates in 0..1.

    `make_policy` is called once in each process and must pickle; None evaluates the expert.
    With a folder, episodes.json has a row for every episode as soon as it is over, success.png a
    bar for every family, and report.html all of it, beside the figures that are `known` from other
    evaluations; they tell of what was tried when it ends early. To resume, `model` (its id) and
    all that decides an episode must be what they were.
    Raises UserError for a family or split that does not exist.
    """
    if config.floor:
        make_policy = FLOORS[config.floor]
    _check(config)
    jobs, rows = _jobs(config), _begin(folder, config, model)
    left, shown = jobs[len(rows) :], []

    def leave(clips: Sequence[Clip]) -> dict[str, Any]:
        figures = figures_of(rows, config)
        if folder is not None and rows:
            content = page(rows, figures, known or {}, command_line(), clips)
            write_text(Path(folder, "report.html"), content)
            write_bytes(Path(folder, "success.png"), draw_success(figures))
        return figures

    try:
        with (
            progress_bar() as bar,
            workers(min(config.processes, len(left)), make_policy, config.tasks) as mapped,
        ):
            task = bar.add_task("evaluate", total=len(jobs), completed=len(rows), note="")
            for tried in mapped(_try, left):
                rows.append(tried.row)
                if folder is not None:
                    _keep(Path(folder), rows)
                ranked = sorted([*shown, tried], key=lambda other: rank(other.row))
                shown = [ranked[0], ranked[-1]]
                right = sum(r["success"] for r in rows)
                bar.update(task, advance=1, note=f"{right} of {len(rows)} right")
    except BaseException:
        leave([])
        if folder is not None:
            print(f"{len(rows)} of {len(jobs)} episodes are in {folder}: go on with --resume")
        raise
    return leave(_clips(shown, config.robot) if config.clips and shown else [])


def _begin(folder: Path | str | None, config: EvaluateConfig, model: str) -> list[dict[str, Any]]:
    """The rows that need not be tried again; UserError if the folder cannot take any."""
    if folder is None:
        return []
    path, rows = Path(folder, "config.json"), []
    deciding = {k: v for k, v in vars(config).items() if k not in ("processes", "clips", "resume")}
    told = plain(deciding | {"model": model})
    check_writable(Path(folder))
    if config.resume and path.exists():
        if differ := differences(path, told):
            raise UserError(
                f"{folder} was begun with another {', '.join(differ)}: give that, or leave out"
                " --resume"
            )
        kept = Path(folder, "episodes.json")
        rows = read_json(kept, "leave out --resume", list[dict[str, Any]])
        begun = [(job.name, job.index, job.swapped) for job in _jobs(config)[: len(rows)]]
        if [tuple(row.get(k) for k in ("family", "index", "swapped")) for row in rows] != begun:
            raise UserError(f"{kept} has other episodes than were begun: leave out --resume")
    _keep(Path(folder), rows)  # first: rows of other options must not stand beside these
    write_json(path, told)
    return rows


def _keep(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    kept = [{k: v for k, v in row.items() if k != "latencies_ms"} for row in rows]
    write_json(folder / "episodes.json", kept)


def _clips(shown: Sequence[_Tried], robot: Path | None) -> list[Clip]:
    """The worst and the best run, the best first; one alone if there is no other."""
    clips = []
    for title, tried in zip(("best run", "worst run"), reversed(shown), strict=True):
        model = scene_spec(tried.scene, robot).compile()
        clips.append(Clip(title, tried.row, draw_clip(model, tried.frames)))
    return clips if shown[0] is not shown[1] else clips[:1]


def _check(config: EvaluateConfig) -> None:
    check_ranges(config)
    if not config.families:
        raise UserError("--families names none: leave it out for all")
    catalogue = read_catalogue(config.tasks)
    for name in config.families:
        if name != SWAP:
            catalogue[name]
    if config.split not in SPLITS:
        raise UserError(f"no split {config.split!r}: choose {' or '.join(SPLITS)}")
    if len({*config.families}) < len(config.families):
        raise UserError("--families names one twice: its scenes would count twice")


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
    found = [chunk.stats.expert_use for chunk in chunks.values() if chunk.stats.expert_use]
    return np.mean(found, axis=0).tolist() if found else []


def _swapped(trial: Trial, rng: np.random.Generator) -> Trial:
    """The same scene, another of its objects named."""
    meaning = trial.meaning
    others = [thing for thing in trial.scene.objects if not meaning.fits(thing)]
    other = pick(others, rng)
    return replace(trial, meaning=replace(meaning, colour=other.colour, shape=other.shape))


def figures_of(rows: Sequence[Mapping[str, Any]], config: EvaluateConfig) -> dict[str, Any]:
    """Rates with their Wilson intervals (key + "_interval") and counts (key + "_episodes").

    key + "_outcomes" has a 1 for every success and a 0 for every failure, in the order of scenes.
    """
    figures: dict[str, Any] = {}
    if config.baseline and rows:
        # A baseline has one figure over all that it was tried on, besides those of each family.
        figures |= _rate(f"{config.baseline}_success", [row["success"] for row in rows])
    prefix = f"{config.baseline}_" if config.baseline else ""
    prefix += f"{config.floor}_" if config.floor else ""
    prefix += "" if config.split == "train" else f"{config.split}_"
    for name in config.families:
        own = [row for row in rows if row["family"] == name]
        if not own:  # it ended early
            continue
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
        f"{key}_outcomes": "".join("1" if success else "0" for success in successes),
    }


def paired_drop(
    results: Mapping[str, Any], name: str, pairs: Iterable[tuple[str, str]]
) -> dict[str, Any]:
    """How much lower the second rate of each pair is than the first, over all pairs as one.

    `results` is the content of a results file. Only the same scenes are compared: empty unless the
    outcomes of every rate are there, and those of a pair come from the same seed and robot.
    """
    figures, sources = results.get("figures", {}), results.get("sources", {})
    outcomes: list[tuple[str, str]] = []
    for pair in pairs:
        tried = [figures.get(f"{key}_outcomes") for key in pair]
        seeds = [[sources[key].get(k) for k in ("seed", "robot")] for key in pair if key in sources]
        if not all(tried) or len(seeds) < 2 or seeds[0] != seeds[1]:
            return {}
        outcomes += zip(*tried, strict=False)  # of the longer one the same scenes
    if not outcomes:
        return {}
    first, second = ([outcome == "1" for outcome in side] for side in zip(*outcomes, strict=True))
    drop, interval = paired_difference(first, second)
    return {name: drop, f"{name}_interval": list(interval), f"{name}_episodes": len(outcomes)}


def drops(results: Mapping[str, Any], config: EvaluateConfig) -> dict[str, Any]:
    """The drops that an evaluation has changed, after its figures were added to `results`.

    `heldout_drop` is about the families that were last tried with held-out wordings, `int8_drop`
    about `go_to`, in float32 and as a bundle.
    """
    before = results.get("sources", {}).get("heldout_drop", {}).get("families", [])
    families = config.families if config.split == "heldout" else before
    found: dict[str, Any] = {}
    if not config.baseline and not config.floor:
        pairs = [(f"{f}_success", f"heldout_{f}_success") for f in families if f != SWAP]
        found |= paired_drop(results, "heldout_drop", pairs)
    if "go_to" in config.families and config.split == "train" and not config.floor:
        pair = ("fp32_go_to_success", "go_to_success")
        found |= paired_drop(results, "int8_drop", [pair])
    return found


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
