"""The examination of walkers as a command: figures, table, picture and video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

from rich.console import Console
from tyro.conf import arg

from bench.walker.baselines import BASELINES, OURS
from bench.walker.benchmark import WalkBenchConfig, bench_walkers, record_runs
from bench.walker.bodies import BodyName
from bench.walker.report import draw_figures, figures_table
from bench.walker.speed import batch_ratio, step_ms
from bridge.files import write_bytes
from sim.render.video import write_poses_video
from tasks.evaluation.results import check_results, command_line, read_figures, write_results


def bench_walker(
    config: Annotated[WalkBenchConfig, arg(name="")] = WalkBenchConfig(),
    results: Path = Path("docs/results/walker.json"),
    video: Path | None = None,
) -> None:
    """Examines walkers, ours and others', on two bodies, over the same commands and pushes.

    Example: hitogata bench walker --runs 200

    Args:
        results: File of figures to which these are added; a picture of them lies beside it.
        video: Also leave a video of every walker under the same commands.
    """
    check_results(results)
    kept = read_figures(results)
    measured: dict[str, Any] = {}
    for body, found in bench_walkers(config, results.with_suffix(".unfinished.json")).items():
        told_of = {name: own | {"command": command_line()} for name, own in found.items()}
        measured[body] = kept.get(body, {}) | told_of
    if config.ours:
        step, ratio = step_ms(config.walker), batch_ratio(config.walker)
        measured |= {"step_ms": step, "batch_ratio": ratio}
        print(f"one step {step:.3f} ms; worlds at {ratio:.2f} of physics")
    write_results(results, measured, command_line())
    # Who was examined before is shown too: one walker or body at a time is a shorter wait.
    known = kept | measured
    bodies = [body for body in get_args(BodyName) if body in known]
    walkers = [name for name in (OURS, *BASELINES) if any(name in known[body] for body in bodies)]
    write_bytes(results.with_suffix(".png"), draw_figures(known, bodies, walkers))
    Console().print(figures_table(known, bodies, walkers))
    if video:
        write_poses_video(video, *record_runs(config))
