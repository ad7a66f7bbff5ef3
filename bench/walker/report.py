"""What an examination of walkers found, as a table and as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from bench.walker.benchmark import PUSH_SPEEDS_M_S, PUSHED

# Figure's key, heading, and how it is written.
COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("falls", "falls, random commands", "{:.0%}"),
    ("velocity_error", "velocity error m/s", "{:.3f}"),
    ("yaw_error", "yaw error rad/s", "{:.3f}"),
    ("push_survival", "push 0.8 m/s survived", "{:.0%}"),
    ("push_survival_12", "push 1.2 m/s survived", "{:.0%}"),
    ("payload_falls", "falls, 1 kg in each hand", "{:.0%}"),
    ("slope_falls", "falls on a slope", "{:.0%}"),
    ("bumps_falls", "falls on bumps", "{:.0%}"),
    ("stand_steps", "steps in a 20 s stand", "{:.1f}"),
    ("stand_sway_cm", "sway cm", "{:.2f}"),
    ("foot_slip_m_s", "foot slip m/s", "{:.3f}"),
    ("energy_j_m", "energy J/m", "{:.0f}"),
    ("target_rate_rad_s", "target rate rad/s", "{:.2f}"),
    ("peak_joint_acc_rad_s2", "peak joint acc. rad/s²", "{:.0f}"),
    ("low_height", "0.55 m held for 10 s", "{:.0%}"),
    ("lowest_height_m", "lowest height m", "{:.2f}"),
    ("bow_falls", "falls, bowed 0.4 rad", "{:.0%}"),
    ("bow_error_rad", "bow error rad", "{:.3f}"),
)
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44")


def figures_table(
    figures: Mapping[str, Any], bodies: Sequence[str], walkers: Sequence[str]
) -> Table:
    """A line for every figure, a column for every walker on every body; a dash for what is not."""
    table = Table(title="walkers")
    table.add_column("")
    for body in bodies:
        for walker in walkers:
            table.add_column(f"{walker}\non {body}", justify="right")
    for key, heading, form in COLUMNS:
        values = [figures[b].get(w, {}).get(key) for b in bodies for w in walkers]
        table.add_row(heading, *("-" if v is None else form.format(v) for v in values))
    return table


def draw_figures(
    figures: Mapping[str, Any], bodies: Sequence[str], walkers: Sequence[str]
) -> bytes:
    """A PNG: for every body its falls, its errors, and survival over the speed of a push."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(12, 3.4 * len(bodies)), layout="constrained")
    for row, body in zip(picture.subplots(len(bodies), 3, squeeze=False), bodies, strict=True):
        kinds = ("falls", "payload_falls", "slope_falls", "bumps_falls")
        _bars(row[0], figures, body, walkers, kinds, "falls")
        _bars(row[1], figures, body, walkers, ("velocity_error", "yaw_error"), "m/s, rad/s")
        _survival(row[2], figures, body, walkers)
        row[0].set_title(f"{body} body", loc="left")
        row[0].legend(fontsize=8)
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _bars(
    axes: Any,
    figures: Mapping[str, Any],
    body: str,
    walkers: Sequence[str],
    keys: Sequence[str],
    label: str,
) -> None:
    width = 0.8 / len(walkers)
    for i, walker in enumerate(walkers):
        values = [figures[body].get(walker, {}).get(key) for key in keys]
        heights = [np.nan if value is None else value for value in values]
        places = np.arange(len(keys)) + (i - (len(walkers) - 1) / 2) * width
        axes.bar(places, heights, 0.9 * width, color=COLOURS[i], label=walker)
    axes.set_xticks(range(len(keys)), [key.replace("_", " ") for key in keys], fontsize=8)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(label)


def _survival(axes: Any, figures: Mapping[str, Any], body: str, walkers: Sequence[str]) -> None:
    for i, walker in enumerate(walkers):
        pushes = figures[body].get(walker, {}).get("pushes", {})
        for stance, line in zip(PUSHED, ("-", "--"), strict=True):
            rates = [pushes.get(f"{stance} {speed}", np.nan) for speed in PUSH_SPEEDS_M_S]
            axes.plot(PUSH_SPEEDS_M_S, rates, line, marker="o", color=COLOURS[i])
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("push m/s (line: standing, dashes: walking)")
    axes.set_ylabel("survived")
