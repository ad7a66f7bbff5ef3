"""Writes measured figures, and facts of the shipped bundle, into the documents that show them.

They stand between two markers. Figures come from docs/results/*.json, facts from the manifest.

python docs/tables.py            writes
python docs/tables.py --check    fails when a document is out of step
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "model_card.md", ROOT / "docs" / "measured.md")
MANIFEST = ROOT / "assets" / "models" / "bundle" / "manifest.json"

# Figure's key, what it tells, what it shall at least be, how it is written.
RATE, MS, TIMES, SECONDS, GIGABYTES = "{:.1%}", "{:.1f} ms", "{:.2f}x", "{:.0f} s", "{:.2f} GB"
ROWS: tuple[tuple[str, str, str, str], ...] = (
    ("go_to_success", "go to the named object, 4 objects in the scene", "93 %", RATE),
    ("go_to_falls", "falls on the way", "at most 1 %", RATE),
    ("swap_both", "same scene, another object named: both right", "85 %", RATE),
    ("walk_success", "walk by words, within 25 % or, where more, 0.15 m or 12°", "92 %", RATE),
    ("gesture_success", "gestures", "95 %", RATE),
    ("heldout_drop", "lost with wordings never trained on", "at most 8 points", RATE),
    ("no_text_go_to_success", "go to, without the words (must lose)", "far lower", RATE),
    ("no_image_go_to_success", "go to, without the image (must lose)", "far lower", RATE),
    ("int8_size_ratio", "size of the 8-bit weights against fp32", "at most 0.35x", TIMES),
    ("chunk_p50_ms", "observation to chunk, p50, 2 threads", "", MS),
    ("chunk_p95_ms", "observation to chunk, p95, 2 threads", "under 100 ms", MS),
    ("chunk_speedup", "speed against fp32 eager torch", "", TIMES),
    ("demo_s", "`make demo` on a fresh clone, install included", "under 600 s", SECONDS),
    ("demo_peak_gb", "peak memory of the demo", "under 4 GB", GIGABYTES),
)

# The walker's rows have one value for every walker on every body: key, what, form, target.
WALKER_ROWS: tuple[tuple[str, str, str, str], ...] = (
    ("falls", "falls under random commands, arms moving", RATE, "0.5 %; 2 %"),
    ("velocity_error", "velocity error, m/s", "{:.3f}", "0.12; 0.18"),
    ("yaw_error", "yaw rate error, rad/s", "{:.3f}", "0.15; 0.2"),
    ("push_survival", "pushes of 0.8 m/s survived", RATE, "99 %; 98 %"),
    ("push_survival_12", "pushes of 1.2 m/s survived", RATE, "96 %; 95 %"),
    ("low_height", "0.55 m held for 10 s, arms moving", RATE, "98 %; 95 %"),
    ("payload_falls", "falls with 1 kg in each hand", RATE, "1 %; 3 %"),
    ("slope_falls", "falls on a slope of 3 degrees", RATE, ""),
    ("bumps_falls", "falls on bumps of 1 cm", RATE, ""),
    ("stand_steps", "steps in a stand of 20 s", "{:.1f}", "0; 0"),
    ("stand_sway_cm", "sway of that stand, cm", "{:.2f}", "3"),
    ("lowest_height_m", "lowest height held by all of 8, m", "{:.2f}", ""),
    ("bow_error_rad", "error of a bow of 0.4 rad, rad", "{:.3f}", ""),
    ("foot_slip_m_s", "slip of a standing foot, m/s", "{:.3f}", ""),
    ("target_rate_rad_s", "mean rate of the joint targets, rad/s", "{:.2f}", ""),
    ("peak_joint_acc_rad_s2", "peak joint acceleration, rad/s²", "{:.0f}", ""),
    ("energy_j_m", "energy per metre, J", "{:.0f}", ""),
)
BRIDGE_ROWS: tuple[tuple[str, str, str, str], ...] = (
    ("rtt_added_p50_ms", "added to raw ZeroMQ's round trip, p50", "at most 0.15 ms", "{:.3f} ms"),
    ("rtt_added_p99_ms", "the same, p99", "at most 0.5 ms", "{:.3f} ms"),
    ("rtt_share_of_chunk", "that p50 as a share of a chunk's time", "at most 3 %", RATE),
    ("openpi_rtt_ratio", "round trip against our openpi WebSocket server", "", TIMES),
    ("stop_p99_ms", "stop to first safe command, p99", "at most 20 ms", MS),
    ("stop_curve_p99_ms", "the same over CURVE", "at most 100 ms", MS),
    (
        "stops_failed",
        "stops without a safe stand, the robot a walking one on rails",
        "none",
        "{:.0f}",
    ),
    ("stops_left_out", "stops left out: the robot no longer walked", "", "{:.0f}"),
)
# Families, and what stands before the names of their figures.
FLOOR_FAMILIES = ("go_to", "walk", "gesture")
FLOOR_COLUMNS = (
    ("the policy", ""),
    ("without words", "no_text_"),
    ("without image", "no_image_"),
    ("stands still", "zero_"),
    ("moves at random", "random_"),
)
MB = "{:.1f} MB"
FUZZED = {
    "server": "the policy server",
    "client": "a robot's client, from its server",
    "operator_port": "the robot's operator port",
    "telemetry": "an operator's console, as telemetry",
    "gr00t": "the server on GR00T's wire",
    "openpi": "the server on openpi's wire",
    "console": "the page's server",
}
ENDURANCE_ROWS: tuple[tuple[str, str, str, str], ...] = (
    ("soak.robot", "a robot among random faults", "upright", "{}"),
    ("soak.minutes", "for so long", "30 min", "{:.0f} min"),
    ("soak.growth_mb", "growth of its memory", "under 20 MB", MB),
    ("load.answered_hz", "one server and 16 robots, chunks a second", "80", "{:.1f}"),
    ("load.least_answered_hz", "those of the robot that got fewest", "5", "{:.2f}"),
    ("load.p50_ms", "how long they waited, p50", "", MS),
    ("load.p99_ms", "the same, p99", "", MS),
    *(
        row
        for end, what in FUZZED.items()
        for row in (
            (f"fuzz.{end}.messages", f"mutated messages to {what}", "100,000", "{:,}"),
            (f"fuzz.{end}.growth_mb", "growth of its memory", "under 20 MB", MB),
        )
    ),
)


def read_figures(folder: Path) -> dict[str, tuple[Any, str]]:
    """Figure's key -> (value, the command that measured it), over all files of the folder.

    What stands in a figure that is a table itself has its place there as key: "soak.minutes".
    """
    found: dict[str, tuple[Any, str]] = {}
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        for key, value in content.get("figures", {}).items():
            source = content.get("sources", {}).get(key, content)
            command = source.get("command", "")
            found |= {name: (inner, command) for name, inner in _flat(key, value)}
    return found


def _flat(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    yield key, value
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(f"{key}.{name}", inner)


def table(
    figures: dict[str, tuple[Any, str]], rows: tuple[tuple[str, str, str, str], ...] = ROWS
) -> str:
    """The Markdown table of the figures of `rows`; unmeasured ones say so."""
    lines = ["| what | aim | measured | command |", "|---|---|---|---|"]
    for key, what, target, form in rows:
        value, command = figures.get(key, (None, ""))
        measured = "not yet measured" if value is None else f"**{_write(value, form)}**"
        interval = figures.get(f"{key}_interval", (None, ""))[0]
        if interval is not None:
            measured += f" ({_write(interval[0], form)} to {_write(interval[1], form)})"
        lines.append(f"| {what} | {target} | {measured} | {command and f'`{command}`'} |")
    return "\n".join(lines)


def _write(value: float, form: str) -> str:
    return form.format(value).replace("%", " %")


def bundle_table(manifest: dict[str, Any]) -> str:
    """The Markdown table of what a bundle's manifest says of its training, size and parity."""
    came, parity = manifest["provenance"], manifest["parity"]
    close = parity["against_float32"]
    megabytes = sum(file["size"] for file in manifest["files"].values()) / 1e6
    facts = {
        "model": f"`{manifest['model_id']}`",
        "steps of the last stage of training": f"{came['step']:,}",
        "samples of the last stage": f"{came['samples']:,}",
        "recorded frames": f"{came['frames']:,}",
        "exported by": f"`{came['command']}`",
        "weights": f"{manifest['quantization']['bits']} bits in blocks of "
        f"{manifest['quantization']['block']}",
        "size, text encoder included": f"{megabytes:.1f} MB",
        "tokens that differ from float32": _write(close["tokens_that_differ"], RATE),
        "same status as float32": _write(close["status_agreement"], RATE),
        "observations compared": f"{parity['samples']}",
    }
    lines = ["| of the bundle | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in facts.items())])


def walker_table(figures: dict[str, tuple[Any, str]]) -> str:
    """The Markdown table of an examination: a column for every walker on every body."""
    bodies = {body: figures[body][0] for body in ("ours", "mesh") if body in figures}
    columns = [(body, walker) for body, walkers in bodies.items() for walker in walkers]
    heads = "".join(f" {walker} on {body} |" for body, walker in columns)
    lines = [f"| what | asked: our body; mesh |{heads}", f"|---|---|{'---|' * len(columns)}"]
    for key, what, form, target in WALKER_ROWS:
        values = [bodies[body][walker].get(key) for body, walker in columns]
        cells = "".join(f" {'-' if v is None else _write(v, form)} |" for v in values)
        lines.append(f"| {what} | {target} |{cells}")
    return "\n".join(lines)


def floor_table(figures: dict[str, tuple[Any, str]]) -> str:
    """The Markdown table of success by family: the policy beside those that know less."""
    heads = "".join(f" {head} |" for head, _ in FLOOR_COLUMNS)
    lines = [f"| family |{heads}", f"|---|{'---|' * len(FLOOR_COLUMNS)}"]
    for family in FLOOR_FAMILIES:
        cells = []
        for _, prefix in FLOOR_COLUMNS:
            key = f"{prefix}{family}_success"
            value, interval = (figures.get(k, (None, ""))[0] for k in (key, f"{key}_interval"))
            low, high = (_write(end, RATE) for end in interval or (0.0, 1.0))
            cells.append("-" if value is None else f"{_write(value, RATE)} ({low} to {high})")
        lines.append(f"| {family} | {' | '.join(cells)} |")
    return "\n".join(lines)


def fault_table(figures: dict[str, tuple[Any, str]]) -> str:
    """The Markdown table of all faults: what they did to robot, operator and data, and the tries.

    Each row is of the first try at its commit; tries are those at that commit.
    """
    heads = ("fault", "passed", "the robot", "the operator read", "lost", "tries", "commit", "date")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, row in figures.get("faults", ({}, ""))[0].items():
        told = [str(row[part]).replace("|", "/") for part in ("robot", "operator", "lost")]
        firsts: dict[str, str] = {}
        for each in row["tries"]:
            firsts.setdefault(each["commit"], each["date"])
        commit, date = [*firsts.items()][-1]  # the last to be tried for the first time
        same = [each for each in row["tries"] if each["commit"] == commit]
        passed = "yes" if row["passed"] else "**no**"
        count = f"{sum(each['passed'] for each in same)} of {len(same)}"
        lines.append(f"| {' | '.join((name, passed, *told, count, commit, date[:10]))} |")
    return "\n".join(lines)


def in_step(text: str) -> str:
    """A document's text with all that stands between markers renewed."""
    figures = read_figures(ROOT / "docs" / "results")
    text = _between(text, "figures", table(figures))
    text = _between(text, "walkers", walker_table(figures))
    text = _between(text, "floors", floor_table(figures))
    text = _between(text, "promises", table(figures, BRIDGE_ROWS))
    text = _between(text, "endurance", table(figures, ENDURANCE_ROWS))
    text = _between(text, "faults", fault_table(figures))
    return _between(text, "bundle", bundle_table(json.loads(MANIFEST.read_text(encoding="utf-8"))))


def _between(text: str, name: str, content: str) -> str:
    """The text with the content between its markers of that name, if it has such markers."""
    begin, end = f"<!-- {name}: python docs/tables.py -->", f"<!-- end of {name} -->"
    if begin not in text:
        return text
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n{content}\n{end}{rest.split(end, 1)[1]}"


def main() -> None:
    """Writes the tables, or checks them."""
    for document in DOCUMENTS:
        old = document.read_text(encoding="utf-8")
        new = in_step(old)
        if "--check" in sys.argv[1:]:
            if new != old:
                name = document.relative_to(ROOT)
                sys.exit(f"{name} is out of step with figures or bundle: run `make tables`")
        elif new != old:
            document.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
