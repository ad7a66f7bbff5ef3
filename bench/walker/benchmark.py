"""The outside examination of walkers, ours and others, on two bodies in the same scenarios."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import mujoco
import numpy as np
from annotated_types import Ge, Interval
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from assets import asset_path
from bench.walker.baselines import BASELINES, Entrant, baseline_walker, our_walker
from bench.walker.bodies import BodyName, body_model, find_body
from bench.walker.scenarios import (
    Scenario,
    Trace,
    bow_scenario,
    fixed_scenario,
    height_scenario,
    low_scenario,
    push_scenario,
    random_scenario,
    run_scenario,
)
from bridge.contract import UserError
from bridge.files import read_json, sha256_of, write_json
from bridge.options import plain
from bridge.ranges import PositiveInt, Seed, check_ranges
from robots.g1.embodiment import CONTROL_HZ
from tasks.evaluation.results import wilson_interval

PUSH_SPEEDS_M_S = (0.5, 0.8, 1.2, 1.5)
PUSHED: dict[str, tuple[float, float, float]] = {"stand": (0, 0, 0), "walk": (0.5, 0, 0)}
TRACKED: dict[str, tuple[float, float, float]] = {
    "forward 0.5": (0.5, 0, 0),
    "forward 1.0": (1.0, 0, 0),
    "back 0.4": (-0.4, 0, 0),
    "side 0.3": (0, 0.3, 0),
    "turn 0.8": (0, 0, 0.8),
    "forward 0.5 turn 0.5": (0.5, 0, 0.5),
}
HEIGHTS_M = (0.7, 0.65, 0.6, 0.55, 0.5, 0.45)
HEIGHT_ERROR_M = 0.03
HEIGHTS, LOW, BOW = "heights", "low", "bow"
POSTURE_FIGURES = {HEIGHTS: "lowest_height_m", LOW: "low_height", BOW: "bow_error_rad"}
LOW_M, LOW_S, GOING_DOWN_S = 0.55, 10.0, 3.0
BOW_RAD, BOW_S = 0.4, 10.0
HAND_PAYLOAD_KG = 1.0
SETTLED_S = 1.0  # after a new command, or at the start
STAND_S, TRACK_S = 20.0, 6.0
BUMPS_S = 20.0  # later a robot may leave them
LEAST_STEP_S = 0.06  # in the air; shorter ones are a foot that trembles


@dataclass(frozen=True)
class WalkBenchConfig:
    """What is examined.

    Attributes:
        walker: Our walker.onnx.
        runs: Robots under random commands; of every other examination at most as many.
        seconds: How long random commands last, on every ground.
        directions: From which pushes come.
        bodies: On which bodies: "ours" of primitives, "mesh" of the real robot's meshes.
        ours: Examine our walker.
        baselines: Examine the walkers of PyPI's holosoma-inference (make baselines).
        seed: Another seed, other commands.
        threads: CPU threads of the physics; 0 means one per core.
        resume: Go on where an examination of the same kind was interrupted.
    """

    walker: Path = field(default_factory=lambda: asset_path("models/walker.onnx"))
    runs: PositiveInt = 200
    seconds: Annotated[float, Ge(1)] = 20.0
    directions: PositiveInt = 32
    bodies: tuple[BodyName, ...] = ("ours", "mesh")
    ours: bool = True
    baselines: bool = True
    seed: Seed = 20_000
    threads: Annotated[int, Interval(ge=0, le=1024)] = 0
    resume: bool = False


@dataclass(frozen=True)
class _Unfinished:
    """The file of an examination that ended early: its options, and the figures of its cases."""

    config: dict[str, Any]
    over: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """A case of the benchmark: a scenario, and the figures that a trace of it gives."""

    name: str
    scenario: Scenario
    score: Callable[[Trace], dict[str, Any]]


def entrants(config: WalkBenchConfig) -> list[Entrant]:
    """Ours first; UserError for a walker that is missing, and for none at all."""
    if not (config.ours or config.baselines):
        raise UserError("nobody is left to examine: leave out --no-ours or --no-baselines")
    ours = [our_walker(config.walker)] if config.ours else []
    return [*ours, *(baseline_walker(name) for name in BASELINES if config.baselines)]


def bench_walkers(config: WalkBenchConfig, unfinished: Path | None = None) -> dict[str, Any]:
    """All figures, by body, walker and name: `figures["mesh"]["holosoma_ppo"]["falls"]`.

    A walker that takes no posture has None for what is asked of one. The file `unfinished` has what
    was examined when it ends early; to resume, all that decides a figure must be what it was.
    Raises UserError for a walker or a body that is missing.
    """
    check_ranges(config)
    walkers = entrants(config)
    bodies = {name: find_body(name) for name in config.bodies}
    cases = make_cases(config)
    postures = {walker.name: walker.make(1).takes_posture for walker in walkers}
    over = _begin(config, unfinished)
    compiled = cache(body_model)
    with _progress_bar() as bar:
        steps = sum(case.scenario.steps for case in cases)
        task = bar.add_task("examine", total=steps * len(walkers) * len(bodies), note="")
        for body, case, walker in product(bodies, cases, walkers):
            key = f"{body} body, {walker.name}: {case.name}"
            if key in over:
                bar.advance(task, case.scenario.steps)
                continue
            if case.name in POSTURE_FIGURES and not postures[walker.name]:
                over[key] = {POSTURE_FIGURES[case.name]: None}
                bar.advance(task, case.scenario.steps)
            else:
                bar.update(task, note=key)
                ground, payload_kg = case.scenario.ground, case.scenario.hand_payload_kg
                model = compiled(bodies[body], ground, payload_kg)
                over[key] = case.score(
                    run_scenario(
                        case.scenario, model, walker, config.threads, lambda: bar.advance(task)
                    )
                )
            _keep(config, unfinished, over)
    if unfinished is not None:
        unfinished.unlink()
    figures: dict[str, Any] = {body: {walker.name: {} for walker in walkers} for body in bodies}
    for body, case, walker in product(bodies, cases, walkers):
        figures[body][walker.name] |= over[f"{body} body, {walker.name}: {case.name}"]
    return figures


def _begin(config: WalkBenchConfig, unfinished: Path | None) -> dict[str, dict[str, Any]]:
    """The figures of what need not be examined again, by body, walker and case."""
    if unfinished is None or not (config.resume and unfinished.exists()):
        return {}
    kept = read_json(unfinished, "leave out --resume", _Unfinished)
    if kept.config != _deciding(config):
        raise UserError(f"{unfinished} was begun with other options: leave out --resume")
    return kept.over


def _keep(
    config: WalkBenchConfig, unfinished: Path | None, over: dict[str, dict[str, Any]]
) -> None:
    if unfinished is not None:
        write_json(unfinished, vars(_Unfinished(_deciding(config), over)))


def _deciding(config: WalkBenchConfig) -> dict[str, Any]:
    free = ("threads", "resume")
    own = {"walker": sha256_of(config.walker)} if config.ours else {}
    return plain({k: v for k, v in vars(config).items() if k not in free} | own)


def record_runs(config: WalkBenchConfig) -> tuple[mujoco.MjModel, dict[str, np.ndarray]]:
    """One run of every walker under the same commands, on the last body: its model and poses.

    Poses (steps, nq) by the walker's name.
    """
    model = body_model(find_body(config.bodies[-1]))
    scenario = random_scenario(1, config.seconds, config.seed)
    runs = {}
    for walker in entrants(config):
        trace = run_scenario(scenario, model, walker, config.threads, record=True)
        assert trace.qpos is not None
        runs[walker.name] = trace.qpos[:, 0]
    return model, runs


def _progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )


def make_cases(config: WalkBenchConfig) -> list[Case]:
    """The examinations of a configuration, the same for every body and walker."""
    runs, seed = config.runs, config.seed
    few = min(runs, 8)
    commands = random_scenario(runs, config.seconds, seed)
    return [
        Case("random commands", commands, lambda trace: _score_commands(trace, commands)),
        Case(
            "fixed commands",
            fixed_scenario(list(TRACKED.values()), few, min(config.seconds, TRACK_S)),
            _score_tracking,
        ),
        Case(
            "pushes",
            push_scenario(list(PUSHED.values()), PUSH_SPEEDS_M_S, config.directions, seed),
            _score_pushes,
        ),
        Case(
            "stand",
            fixed_scenario([(0, 0, 0)], min(runs, 50), min(config.seconds, STAND_S) + SETTLED_S),
            _score_stand,
        ),
        Case(
            "payload",
            random_scenario(runs, config.seconds, seed + 1, hand_payload_kg=HAND_PAYLOAD_KG),
            lambda trace: _rate("payload_falls", trace),
        ),
        Case(
            "slope",
            random_scenario(runs, config.seconds, seed + 2, "slope"),
            lambda trace: _rate("slope_falls", trace),
        ),
        Case(
            "bumps",
            random_scenario(runs, min(config.seconds, BUMPS_S), seed + 3, "bumps"),
            lambda trace: _rate("bumps_falls", trace),
        ),
        Case(HEIGHTS, height_scenario(few, HEIGHTS_M), _score_heights),
        Case(BOW, bow_scenario(runs, BOW_RAD, BOW_S, seed + 5), _score_bow),
        Case(LOW, low_scenario(runs, LOW_M, GOING_DOWN_S + LOW_S, seed + 4), _score_low),
    ]


def _rate(key: str, trace: Trace) -> dict[str, Any]:
    falls, n = trace.falls(), trace.upright.shape[1]
    return {key: falls / n, f"{key}_interval": list(wilson_interval(falls, n))}


def _mean(values: np.ndarray) -> float | None:
    """None where there is nothing: a walker that fell at once has no step length."""
    return float(values.mean()) if values.size else None


def _score_commands(trace: Trace, scenario: Scenario) -> dict[str, Any]:
    """Errors and qualities over all moments that lie a second after a new command.

    Errors are means of |command - velocity|, each smoothed over 0.4 s.
    """
    wanted = scenario.commands[..., :3]
    changed = np.zeros(wanted.shape[:2], dtype=bool)
    changed[1:] = (wanted[1:] != wanted[:-1]).any(axis=2)
    changed[0] = True
    index = np.arange(scenario.steps)[:, None]
    since = index - np.maximum.accumulate(np.where(changed, index, 0), axis=0)
    settled = trace.upright & (since >= SETTLED_S * CONTROL_HZ)
    error = np.abs(trace.velocity - wanted)[settled]
    planted = trace.contact.copy()
    planted[1:] &= trace.contact[:-1]
    peaks = np.where(trace.upright, trace.joint_acc_rad_s2, 0).max(axis=0)
    return _rate("falls", trace) | {
        "velocity_error": _mean(np.hypot(error[:, 0], error[:, 1])),
        "yaw_error": _mean(error[:, 2]),
        "foot_slip_m_s": _mean(trace.sole_speed_m_s[planted & settled[..., None]]),
        "target_rate_rad_s": _mean(trace.target_rate_rad_s[settled]),
        "peak_joint_acc_rad_s2": _mean(peaks),
    }


def _score_tracking(trace: Trace) -> dict[str, Any]:
    """Mean velocities of each fixed command after a third of the time, and energy per metre."""
    start = trace.upright.shape[0] // 3
    groups = np.array_split(np.arange(trace.upright.shape[1]), len(TRACKED))
    tracking = {}
    for name, worlds in zip(TRACKED, groups, strict=True):
        up = worlds[trace.upright[-1, worlds]]
        mean = trace.velocity[start:, up].mean(axis=(0, 1)) if up.size else None
        tracking[name] = None if mean is None else [round(float(v), 4) for v in mean]
    ahead = groups[list(TRACKED).index("forward 0.5")]
    ahead = ahead[trace.upright[-1, ahead]]
    energy = trace.power_w[start:, ahead].sum(axis=0) / CONTROL_HZ
    metres = np.linalg.norm(trace.base_xy_m[-1] - trace.base_xy_m[start], axis=1)[ahead]
    return {"tracking": tracking, "energy_j_m": _mean(energy / np.maximum(metres, 1e-3))}


def _score_pushes(trace: Trace) -> dict[str, Any]:
    """Survival of every push, standing and walking, over all directions."""
    table = trace.upright[-1].reshape(len(PUSHED), len(PUSH_SPEEDS_M_S), -1)
    figures: dict[str, Any] = {
        "pushes": {
            f"{stance} {speed}": float(table[i, j].mean())
            for i, stance in enumerate(PUSHED)
            for j, speed in enumerate(PUSH_SPEEDS_M_S)
        }
    }
    for key, speed in (("push_survival", 0.8), ("push_survival_12", 1.2)):
        survived = table[:, PUSH_SPEEDS_M_S.index(speed)]
        interval = wilson_interval(int(survived.sum()), survived.size)
        figures |= {key: float(survived.mean()), f"{key}_interval": list(interval)}
    return figures


def _score_stand(trace: Trace) -> dict[str, Any]:
    """Steps and sway of a stand that nothing disturbs, once it has settled."""
    start = round(SETTLED_S * CONTROL_HZ)
    up = trace.upright[-1]
    xy = trace.base_xy_m[start:, up]
    sway = np.sqrt(((xy - xy.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0))
    return {
        "stand_falls": float((~up).mean()),
        "stand_steps": _mean(count_steps(trace.contact[start:, up])),
        "stand_sway_cm": _mean(100 * sway),
    }


def count_steps(contact: np.ndarray) -> np.ndarray:
    """(n,) how often either foot comes down after LEAST_STEP_S or more in the air.

    `contact` (steps, n, 2) bool at CONTROL_HZ.
    """
    least = round(LEAST_STEP_S * CONTROL_HZ)
    airborne, steps = np.zeros(contact.shape[1:], dtype=int), np.zeros(contact.shape[1], dtype=int)
    for now in contact:
        steps += (now & (airborne >= least)).sum(axis=1)
        airborne = np.where(now, 0, airborne + 1)
    return steps


def _score_heights(trace: Trace) -> dict[str, Any]:
    """The lowest height that all robots held within HEIGHT_ERROR_M in its last second."""
    held = None
    for wanted, part in zip(
        HEIGHTS_M, np.array_split(np.arange(len(trace.height_m)), len(HEIGHTS_M)), strict=True
    ):
        last = part[-round(CONTROL_HZ) :]
        near = np.abs(trace.height_m[last].mean(axis=0) - wanted) < HEIGHT_ERROR_M
        if not (trace.upright[part[-1]] & near).all():
            break
        held = wanted
    return {"lowest_height_m": held}


def _score_bow(trace: Trace) -> dict[str, Any]:
    """How far the torso is from BOW_RAD on average, once it is there; and who fell."""
    error = np.abs(trace.torso_pitch_rad[round(GOING_DOWN_S * CONTROL_HZ) :] - BOW_RAD)
    return {"bow_error_rad": _mean(error[:, trace.upright[-1]])} | _rate("bow_falls", trace)


def _score_low(trace: Trace) -> dict[str, Any]:
    """The share that stood upright within HEIGHT_ERROR_M of LOW_M for all of LOW_S."""
    start = round(GOING_DOWN_S * CONTROL_HZ)
    near = (np.abs(trace.height_m[start:] - LOW_M) < HEIGHT_ERROR_M).all(axis=0)
    held = int((near & trace.upright[-1]).sum())
    n = trace.upright.shape[1]
    return {"low_height": held / n, "low_height_interval": list(wilson_interval(held, n))}
