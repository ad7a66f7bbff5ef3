"""Writes the figures of docs/results/*.json into README.md, between its two markers.

python docs/tables.py            writes
python docs/tables.py --check    fails when README.md is out of step
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BEGIN, END = "<!-- figures: python docs/tables.py -->", "<!-- end of figures -->"

# Figure's key, what it tells, what it shall at least be, how it is written.
RATE, MS, TIMES, SECONDS, GIGABYTES = "{:.1%}", "{:.1f} ms", "{:.2f}x", "{:.0f} s", "{:.2f} GB"
ROWS: tuple[tuple[str, str, str, str], ...] = (
    ("go_to_success", "go to the named object, 4 objects in the scene", "93 %", RATE),
    ("go_to_falls", "falls on the way", "at most 1 %", RATE),
    ("swap_both", "same scene, another object named: both right", "85 %", RATE),
    ("walk_success", "walk by words, distance and angle within 25 %", "92 %", RATE),
    ("gesture_success", "gestures", "95 %", RATE),
    ("heldout_drop", "lost with wordings never trained on", "at most 8 points", RATE),
    ("no_text_success", "go to, without the words (must lose)", "far lower", RATE),
    ("no_image_success", "go to, without the image (must lose)", "far lower", RATE),
    ("int8_drop", "lost by 8 bits against fp32", "at most 3 points", RATE),
    ("int8_size_ratio", "size of the 8-bit weights against fp32", "at most 0.35x", TIMES),
    ("chunk_p50_ms", "observation to chunk, p50, 2 threads", "", MS),
    ("chunk_p95_ms", "observation to chunk, p95, 2 threads", "under 100 ms", MS),
    ("chunk_speedup", "speed against fp32 eager torch", "", TIMES),
    ("demo_s", "`make demo` on a fresh clone, install included", "under 600 s", SECONDS),
    ("demo_peak_gb", "peak memory of the demo", "under 4 GB", GIGABYTES),
)


def read_figures(folder: Path) -> dict[str, tuple[Any, str]]:
    """Figure's key -> (value, the command that measured it), over all files of the folder."""
    found: dict[str, tuple[Any, str]] = {}
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        for key, value in content.get("figures", {}).items():
            source = content.get("sources", {}).get(key, content)
            found[key] = (value, source.get("command", ""))
    return found


def table(figures: dict[str, tuple[Any, str]]) -> str:
    """The Markdown table of all figures that have a row here; unmeasured ones say so."""
    lines = ["| what | at least | measured | command |", "|---|---|---|---|"]
    for key, what, target, form in ROWS:
        value, command = figures.get(key, (None, ""))
        measured = "not yet measured" if value is None else f"**{_write(value, form)}**"
        interval = figures.get(f"{key}_interval", (None, ""))[0]
        if interval is not None:
            measured += f" ({_write(interval[0], form)} to {_write(interval[1], form)})"
        lines.append(f"| {what} | {target} | {measured} | {command and f'`{command}`'} |")
    return "\n".join(lines)


def _write(value: float, form: str) -> str:
    return form.format(value).replace("%", " %")


def in_step(readme: str) -> str:
    """The README's text with its figures renewed."""
    before, rest = readme.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    return f"{before}{BEGIN}\n{table(read_figures(ROOT / 'docs' / 'results'))}\n{END}{after}"


def main() -> None:
    old = README.read_text()
    new = in_step(old)
    if "--check" in sys.argv[1:]:
        if new != old:
            sys.exit("README.md is out of step with docs/results: run `make tables`")
    elif new != old:
        README.write_text(new)


if __name__ == "__main__":
    main()
