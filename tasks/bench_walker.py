"""The examination of walkers as a command: figures, table, picture and video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import arg

from bridge.commandline import told
from bridge.files import write_bytes
from bridge.results import read_figures, write_results
from sim.walk_bench import WalkBenchConfig, bench_walkers, record_runs
from sim.walk_peers import OURS, PEERS
from sim.walk_report import draw_figures, figures_table
from sim.walk_speed import batch_ratio, step_ms
from tasks.video import write_poses_video


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
    figures = bench_walkers(config)
    kept = read_figures(results)
    for body in config.bodies:
        for found in figures[body].values():
            found["command"] = told()
        # Walkers that were examined before stay: one at a time is a shorter wait.
        figures[body] = kept.get(body, {}) | figures[body]
    walkers = [name for name in (OURS, *PEERS) if all(name in figures[b] for b in config.bodies)]
    if config.ours:
        figures |= {"step_ms": step_ms(config.walker), "batch_ratio": batch_ratio(config.walker)}
    write_results(results, figures, told())
    write_bytes(results.with_suffix(".png"), draw_figures(figures, config.bodies, walkers))
    Console().print(figures_table(figures, config.bodies, walkers))
    if config.ours:
        step, ratio = figures["step_ms"], figures["batch_ratio"]
        print(f"one step {step:.3f} ms; worlds at {ratio:.2f} of physics")
    if video:
        write_poses_video(video, *record_runs(config))
