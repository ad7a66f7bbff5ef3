"""The report of an evaluation: one HTML page of figures, charts and clips that needs no network."""

from __future__ import annotations

import base64
import datetime
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from tasks.evaluation.results import wilson_interval
from tasks.language.intent import COLOURS, SHAPES

NOWHERE = "none"
BLUE, RED = "68, 119, 170", "204, 102, 119"
MOST_FAILURES = 40
BINS = 24

CHART_WIDTH, BAR_HEIGHT, LABEL_WIDTH, NOTE_WIDTH = 760, 26, 170, 230
# Pages that are handed on must not fetch anything, whatever stands in them.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
STYLE = """
body { font: 16px/1.5 sans-serif; max-width: 800px; margin: 2em auto; padding: 0 1em;
       color: #222; background: #fff; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2em; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { padding: .25em .6em; text-align: left; border-bottom: 1px solid #ddd; }
td.number { text-align: right; } table.matrix td { text-align: center; min-width: 2.5em; }
svg { max-width: 100%; height: auto; } svg text { font: 13px sans-serif; fill: #222; }
code { overflow-wrap: anywhere; } .clips { display: flex; flex-wrap: wrap; gap: 1em; }
figure { margin: 0; max-width: 360px; } figure img { max-width: 100%; }
"""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Rate:
    """One success rate, `here` if this evaluation measured it; `low` and `high` are Wilson's."""

    name: str
    split: str
    right: int
    tried: int
    low: float
    high: float
    here: bool


@dataclass(frozen=True)
class Clip:
    """A run to look at: what it is called, its row, and an animated WebP."""

    title: str
    row: Row
    webp: bytes


def page(
    rows: Sequence[Row],
    figures: Mapping[str, Any],
    known: Mapping[str, Any],
    command: str,
    clips: Sequence[Clip] = (),
) -> str:
    """The page of an evaluation, as HTML; `known` are figures of earlier ones."""
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    parts = [
        f"<h1>Evaluation</h1><p><code>{escape(command)}</code></p>",
        f"<p>Episodes: {len(rows)}, in scenes that no collection uses. {date}.</p>",
        _section("Success", _success(rates(figures, known))),
        _section("Families", _families(rows)),
        _section("Clips", _clips(clips)),
        _section("Which object was reached", _confusions(rows)),
        _section("Which experts were chosen", _experts(rows)),
        _section("Observation to chunk", _latencies(rows)),
        _section("What failed", _failures(rows)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Evaluation</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(filter(None, parts))
        + "\n</body></html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<h2>{title}</h2>\n{content}" if content else ""


# --- success ----------------------------------------------------------------------------------


def rates(figures: Mapping[str, Any], known: Mapping[str, Any]) -> list[Rate]:
    """The success rates of an evaluation, then those that are known from earlier ones."""
    found = []
    for key in {**figures, **known}:
        source = figures if key in figures else known
        name = re.fullmatch(r"(heldout_)?(\w+)_(?:success|both)", key)
        if name and f"{key}_episodes" in source:
            tried = source[f"{key}_episodes"]
            right = round(source[key] * tried)
            split = "heldout" if name[1] else "train"
            interval = wilson_interval(right, tried)
            found.append(Rate(name[2], split, right, tried, *interval, key in figures))
    return found


def _success(found: Sequence[Rate]) -> str:
    """A bar for every rate, with its interval."""
    if not found:
        return ""
    room = CHART_WIDTH - LABEL_WIDTH - NOTE_WIDTH
    marks = [_grid(room, len(found) * BAR_HEIGHT)]
    for place, rate in enumerate(found):
        y = place * BAR_HEIGHT
        middle, low, high = y + BAR_HEIGHT / 2, *(_x(v, room) for v in (rate.low, rate.high))
        width, shade = _x(rate.right / rate.tried, room) - LABEL_WIDTH, 1.0 if rate.here else 0.4
        note = f"{rate.right} of {rate.tried}: {rate.low:.0%} to {rate.high:.0%}"
        marks += [
            _text(0, middle, f"{rate.name.replace('_', ' ')}, {rate.split}"),
            f'<rect x="{LABEL_WIDTH}" y="{y + 5}" width="{width:.1f}" height="{BAR_HEIGHT - 10}"'
            f' fill="#4477aa" opacity="{shade}"/>',
            f'<path d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 4}v8'
            f'M{high:.1f} {middle - 4}v8" stroke="#222" fill="none"/>',
            _text(LABEL_WIDTH + room + 12, middle, note),
        ]
    chart = _svg(len(found) * BAR_HEIGHT + 20, "success rates with 95 % Wilson intervals", marks)
    later = "" if all(rate.here for rate in found) else " Pale bars were measured earlier."
    return f"{chart}<p>Bars: success. Lines: 95 % Wilson intervals.{later}</p>"


def _x(rate: float, room: float) -> float:
    return LABEL_WIDTH + rate * room


def _grid(room: float, height: float) -> str:
    lines = [
        f'<path d="M{_x(share, room)} 0V{height}" stroke="#ddd"/>'
        + _text(_x(share, room), height + 10, f"{share:.0%}", "middle")
        for share in (0.0, 0.5, 1.0)
    ]
    return "".join(lines)


def _families(rows: Sequence[Row]) -> str:
    head = ("family", "wordings", "episodes", "right", "fell", "said done", "mean time")
    body = []
    for name, split in dict.fromkeys((row["family"], row["split"]) for row in rows):
        own = [row for row in rows if (row["family"], row["split"]) == (name, split)]
        counts = [sum(row[key] for row in own) for key in ("success", "fell", "done_said")]
        time_s = np.mean([row["time_s"] for row in own])
        body.append((name, split, len(own), *counts, f"{time_s:.1f} s"))
    return _table(head, body)


# --- objects ----------------------------------------------------------------------------------


def confusion(rows: Iterable[Row], trait: str, values: Sequence[str]) -> np.ndarray:
    """(asked, reached) counts over the episodes that are about an object to reach.

    `trait` is "colour" or "shape". The last column is no object.
    """
    counts = np.zeros((len(values), len(values) + 1), dtype=int)
    for row in rows:
        if row.get("asked"):
            reached = row["reached"]
            column = values.index(reached[trait]) if reached else len(values)
            counts[values.index(row["asked"][trait]), column] += 1
    return counts


def _confusions(rows: Sequence[Row]) -> str:
    if not any(row.get("asked") for row in rows):
        return ""
    parts = ["<p>Rows: asked for. Columns: reached at the end.</p>"]
    for trait, values in (("colour", COLOURS), ("shape", SHAPES)):
        cells = [
            [_shaded(n, row.sum(), BLUE if i == j else RED) for j, n in enumerate(row)]
            for i, row in enumerate(confusion(rows, trait, values))
        ]
        parts.append(_matrix((trait, *values, NOWHERE), values, cells))
    return "\n".join(parts)


def _matrix(head: Sequence[str], names: Sequence[Any], cells: Sequence[Sequence[str]]) -> str:
    """A table of cells in HTML, a name before each of its lines."""
    lines = [f"<th>{name}</th>{''.join(row)}" for name, row in zip(names, cells, strict=True)]
    return _rows([_head(head), *lines], ' class="matrix"')


def _shaded(count: int, total: int, rgb: str) -> str:
    depth = 0.7 * count / total if total else 0.0
    return f'<td style="background: rgba({rgb}, {depth:.2f})">{count or ""}</td>'


# --- experts ----------------------------------------------------------------------------------


def expert_use(rows: Iterable[Row]) -> dict[str, np.ndarray]:
    """The mean (layers, experts) share of the choices in each family, every episode alike.

    Families whose policy has no experts are left out.
    """
    shares: dict[str, list[Any]] = {}
    for row in rows:
        if row.get("expert_use"):
            shares.setdefault(row["family"], []).append(row["expert_use"])
    return {family: np.mean(found, axis=0) for family, found in shares.items()}


def _experts(rows: Sequence[Row]) -> str:
    """A table for every family: a line for each layer, a column for each expert."""
    used = expert_use(rows)
    if not used:
        return ""
    parts = ["<p>Rows: layers. Columns: experts. Shares of the choices, in percent.</p>"]
    for family, shares in used.items():
        layers, experts = (range(1, n + 1) for n in shares.shape)
        head = (family.replace("_", " "), *map(str, experts))
        cells = [[_shaded(round(100 * x), 100, BLUE) for x in layer] for layer in shares]
        parts.append(_matrix(head, layers, cells))
    return "\n".join(parts)


# --- time -------------------------------------------------------------------------------------


def _latencies(rows: Sequence[Row]) -> str:
    """A histogram up to the 99th percentile: the first answer of a server is slow."""
    found = np.array([ms for row in rows for ms in row.get("latencies_ms", ())])
    if not len(found):
        return ""
    p50, p95, p99 = np.percentile(found, (50, 95, 99))
    counts, edges = np.histogram(found, BINS, (0.0, max(p99, 1e-3)))
    width, height = CHART_WIDTH / BINS, 140
    tops = counts / counts.max() * height
    marks = [
        f'<rect x="{i * width:.1f}" y="{height - top:.1f}" width="{width - 2:.1f}"'
        f' height="{top:.1f}" fill="#4477aa"><title>{edges[i]:.1f} to {edges[i + 1]:.1f} ms:'
        f" {counts[i]}</title></rect>"
        for i, top in enumerate(tops)
    ]
    marks += [
        _text(0, height + 12, "0 ms"),
        _text(CHART_WIDTH, height + 12, f"{edges[-1]:.0f} ms", "end"),
    ]
    chart = _svg(height + 24, "histogram of latencies", marks)
    words = f"p50 {p50:.1f} ms, p95 {p95:.1f} ms, slowest {found.max():.1f} ms"
    return f"{chart}<p>{words}, {len(found)} answers.</p>"


# --- runs -------------------------------------------------------------------------------------


def rank(row: Row) -> tuple[bool, bool, bool, float]:
    """Orders runs: success before failure, standing before fallen, said done, then quick."""
    return row["success"], not row["fell"], row["done_said"], -row["time_s"]


def _clips(clips: Sequence[Clip]) -> str:
    figures = []
    for clip in clips:
        picture = base64.b64encode(clip.webp).decode()
        words = f"{clip.title}: “{clip.row['wording']}”, {_told(clip.row)}"
        figures.append(
            f'<figure><img src="data:image/webp;base64,{picture}" alt="{escape(clip.title)}">'
            f"<figcaption>{escape(words)}</figcaption></figure>"
        )
    return f'<div class="clips">{"".join(figures)}</div>' if figures else ""


def _told(row: Row) -> str:
    came = "fell" if row["fell"] else "right" if row["success"] else "wrong"
    return f"{came} after {row['time_s']:.1f} s, said {row['said']}"


def _failures(rows: Sequence[Row]) -> str:
    failed = [row for row in rows if not row["success"]]
    if not failed:
        return "<p>Nothing.</p>"
    kinds = Counter(_told_shortly(row) for row in failed)
    words = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    body = [
        (f"{row['family']} {row['index']}", row["wording"], row["said"], _ended(row))
        for row in failed[:MOST_FAILURES]
    ]
    more = f" The first {MOST_FAILURES}:" if len(failed) > MOST_FAILURES else ""
    head = ("episode", "told", "it said", "it ended")
    return f"<p>{escape(words)}.{more}</p>{_table(head, body)}"


def _told_shortly(row: Row) -> str:
    return "fell" if row["fell"] else f"said {row['said']}"


def _ended(row: Row) -> str:
    if row["fell"]:
        return "on the floor"
    if row.get("nearest"):
        thing = row["nearest"]
        return f"{row['nearest_m']:.1f} m from the {thing['colour']} {thing['shape']}"
    return f"after {row['time_s']:.1f} s"


# --- marks ------------------------------------------------------------------------------------


def _table(head: Sequence[str], body: Iterable[Sequence[Any]]) -> str:
    def cell(value: Any) -> str:
        kind = ' class="number"' if isinstance(value, int | float) else ""
        return f"<td{kind}>{escape(str(value))}</td>"

    return _rows([_head(head), *("".join(map(cell, row)) for row in body)])


def _head(names: Iterable[str]) -> str:
    return "".join(f"<th>{escape(name)}</th>" for name in names)


def _rows(rows: Iterable[str], kind: str = "") -> str:
    return f"<table{kind}>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _svg(height: float, label: str, marks: Sequence[str]) -> str:
    return (
        f'<svg role="img" aria-label="{escape(label)}" width="{CHART_WIDTH}" height="{height}"'
        f' viewBox="0 0 {CHART_WIDTH} {height}">{"".join(marks)}</svg>'
    )


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" dominant-baseline="middle">'
        f"{escape(words)}</text>"
    )
