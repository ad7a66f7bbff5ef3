"""What a recording of the black box tells: tables for the terminal, and a plot."""

# matplotlib carries few types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bridge.blackbox.recording import Recording
from bridge.control.safety import Level, tilt
from bridge.embodiment import Embodiment

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

_MOST_ROWS = 60
_COLOURS: dict[int, str] = {
    Level.HOLD: "#f5e6b3",
    Level.SAFE_STAND: "#f5c9a0",
    Level.DAMP: "#eba6a6",
}
# How the name of a field ends, its unit, and the unit of its rate.
_UNITS = (
    ("_rad_s", "rad/s", "rad/s²"),
    ("_m_s", "m/s", "m/s²"),
    ("_rad", "rad", "rad/s"),
    ("_m", "m", "m/s"),
    ("", "", "1/s"),
)


@dataclass(frozen=True)
class Span:
    """A stretch of periods [start, stop) at one level with one cause."""

    start: int
    stop: int
    level: int
    cause: str


def spans(recording: Recording) -> list[Span]:
    """The stretches of a recording, in order."""
    found: list[Span] = []
    start = 0
    states = list(zip(recording.level.tolist(), recording.causes, strict=True))
    for place in range(1, len(states) + 1):
        if place == len(states) or states[place] != states[start]:
            found.append(Span(start, place, *states[start]))
            start = place
    return found


@dataclass(frozen=True)
class Peak:
    """The highest absolute value and rate of what was sent, and when the rate was reached."""

    name: str
    value: float
    unit: str
    rate: float
    rate_unit: str
    rate_at_s: float


def peaks(recording: Recording) -> list[Peak]:
    """Peaks of every kind of command; rates between neighbouring periods."""
    times, sent = recording.time_s, recording.sent.astype(np.float64)
    between_s = np.diff(times)
    onward = between_s > 0  # a clock that was set back gives no rate
    found: list[Peak] = []
    for name, unit, rate_unit, fields in _commanded(recording.embodiment):
        steps = np.abs(np.diff(sent[:, fields], axis=0)).max(axis=1)
        rates = np.divide(steps, between_s, out=np.zeros_like(steps), where=onward)
        rate, at_s = 0.0, float(times[0])
        if len(rates):
            rate, at_s = float(rates.max()), float(times[rates.argmax() + 1])
        value = float(np.abs(sent[:, fields]).max())
        found.append(Peak(name, value, unit, rate, rate_unit, at_s - float(times[0])))
    return found


def _commanded(body: Embodiment) -> Iterator[tuple[str, str, str, list[int]]]:
    """Name, unit, unit of the rate and places of what is commanded; joints are taken together."""
    for place, field in enumerate(body.commands):
        if not field.joint:
            yield *_spelled(field.name), [place]
    if len(body.targets):
        yield "joints", "rad", "rad/s", body.targets.tolist()


def _spelled(name: str) -> tuple[str, str, str]:
    """A field's name without its unit, the unit and that of its rate."""
    end, unit, rate_unit = next(each for each in _UNITS if name.endswith(each[0]))
    return name.removesuffix(end).replace("_", " "), unit, rate_unit


def tables(recording: Recording) -> "Iterator[Table]":
    """What happened, what was counted, and how hard the robot was driven."""
    from rich.markup import escape
    from rich.table import Table

    happened = Table("at s", "for s", "level", "cause", title="what happened")
    rows = _happenings(recording)
    for row in rows[:_MOST_ROWS]:
        happened.add_row(*map(escape, row))
    if len(rows) > _MOST_ROWS:
        happened.add_row("...", "", "", f"and {len(rows) - _MOST_ROWS} more")
    yield happened
    counted = Table("counter", "first", "last", "change", title="counters")
    for name, values in recording.counters.items():
        first, last = int(values[0]), int(values[-1])
        counted.add_row(
            escape(name), str(first), str(last), f"{last - first:+d}" if last != first else ""
        )
    yield counted
    driven = Table("command", "peak", "peak rate", "at s", title="commands sent")
    for peak in peaks(recording):
        value, rate = f"{peak.value:.3f} {peak.unit}", f"{peak.rate:.2f} {peak.rate_unit}"
        driven.add_row(peak.name, value, rate, f"{peak.rate_at_s:.2f}")
    yield driven


def _happenings(recording: Recording) -> list[tuple[str, str, str, str]]:
    """Rows of time, duration, level and cause; a recording's own events among them."""
    times = recording.time_s - recording.time_s[0]
    rows = [(float(times[span.start]), 1, span) for span in spans(recording)]
    events = [(at_s - float(recording.time_s[0]), 0, why) for at_s, why in recording.events]
    shown: list[tuple[str, str, str, str]] = []
    for at_s, _, what in sorted([*rows, *events], key=lambda row: row[:2]):
        if isinstance(what, str):
            shown.append((f"{at_s:.2f}", "", "recorded", what))
            continue
        until_s = float(times[min(what.stop, len(times) - 1)])
        shown.append((f"{at_s:.2f}", f"{until_s - at_s:.2f}", _name(what.level), what.cause))
    return shown


def _name(level: int) -> str:
    return Level(level).name if level in list(Level) else f"level {level}"


def draw(recording: Recording) -> bytes:
    """A PNG of level, commanded velocities, arm tracking and tilt over time."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(11, 9), layout="constrained")
    panels: list[Axes] = list(picture.subplots(4, sharex=True))
    times = recording.time_s - recording.time_s[0]
    _draw_level(panels[0], times, recording)
    _draw_velocities(panels[1], times, recording)
    _draw_tracking(panels[2], times, recording)
    _draw_tilt(panels[3], times, recording)
    for axes in panels:
        for span in spans(recording):
            if (colour := _COLOURS.get(span.level)) is not None:
                ends = times[span.start], times[min(span.stop, len(times) - 1)]
                axes.axvspan(*ends, color=colour, alpha=0.5, linewidth=0)
        for at_s, _ in recording.events:
            axes.axvline(at_s - recording.time_s[0], color="black", linewidth=0.8)
    panels[-1].set_xlabel("time since the recording's start (s)")
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _draw_level(axes: "Axes", times: np.ndarray, recording: Recording) -> None:
    axes.step(times, recording.level, where="post", color="black")
    axes.set_yticks(list(Level), [level.name for level in Level])
    axes.set_ylim(-0.3, max(Level) + 0.3)
    axes.set_title("level (shaded) and requests to record (lines)")


def _draw_velocities(axes: "Axes", times: np.ndarray, recording: Recording) -> None:
    asked = np.where(recording.has_asked[:, None], recording.asked, np.nan)
    body = recording.embodiment
    for place in body.velocities:
        name, unit, _ = _spelled(body.command_names[place])
        (line,) = axes.plot(times, recording.sent[:, place], label=f"{name} {unit}")
        axes.plot(times, asked[:, place], ":", color=line.get_color())
    axes.set_title("base velocity: sent, and dotted what the policy asked")
    axes.legend(loc="upper left")


def _draw_tracking(axes: "Axes", times: np.ndarray, recording: Recording) -> None:
    body = recording.embodiment
    joints = recording.state[:, body.state_parts["joint_pos_rad"]][:, body.target_joints]
    errors = np.abs(recording.sent[:, body.targets] - joints)
    errors = np.where(recording.has_state[:, None], errors, np.nan)
    axes.plot(times, errors.max(axis=1), label="worst joint")
    axes.plot(times, errors.mean(axis=1), label="mean")
    axes.set_ylabel("rad")
    axes.set_title("joints: distance from the target sent")
    axes.legend(loc="upper left")


def _draw_tilt(axes: "Axes", times: np.ndarray, recording: Recording) -> None:
    gravities = recording.state[:, recording.embodiment.state_parts["gravity"]]
    angles = np.array([tilt(gravity) for gravity in gravities])
    angles = np.where(recording.has_state[:, None], angles, np.nan)
    axes.plot(times, angles[:, 0], label="roll")
    axes.plot(times, angles[:, 1], label="pitch")
    axes.set_ylabel("rad")
    axes.set_title("tilt of the pelvis")
    axes.legend(loc="upper left")
