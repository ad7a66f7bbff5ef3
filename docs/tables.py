"""Writes measured figures, and facts of the shipped bundle, into the documents that show them.

They stand between two markers. Figures come from docs/results/*.json, facts from the manifest.

python docs/tables.py            writes
python docs/tables.py --check    fails when a document is out of step
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "model_card.md")
MANIFEST = ROOT / "assets" / "models" / "bundle" / "manifest.json"

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


def bundle_table(manifest: dict[str, Any]) -> str:
    """The Markdown table of what a bundle's manifest says of its training, size and parity."""
    came, parity = manifest["provenance"], manifest["parity"]
    close = parity["against_float32"]
    megabytes = sum(file["size"] for file in manifest["files"].values()) / 1e6
    facts = {
        "model": f"`{manifest['model_id']}`",
        "steps of training": f"{came['step']:,}",
        "samples seen": f"{came['samples']:,}",
        "recorded frames": f"{came['frames']:,}",
        "exported by": f"`{came['command']}`",
        "weights": f"{manifest['quantization']['bits']} bits in blocks of "
        f"{manifest['quantization']['block']}",
        "size of the folder, text encoder included": f"{megabytes:.1f} MB",
        "tokens that differ from float32": _write(close["tokens_that_differ"], RATE),
        "same status as float32": _write(close["status_agreement"], RATE),
        "observations compared": f"{parity['samples']}",
    }
    lines = ["| of the bundle | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in facts.items())])


def in_step(text: str) -> str:
    """A document's text with its figures, and its facts of the bundle if it has any, renewed."""
    text = _between(text, "figures", table(read_figures(ROOT / "docs" / "results")))
    return _between(text, "bundle", bundle_table(json.loads(MANIFEST.read_text())))


def _between(text: str, name: str, content: str) -> str:
    """The text with the content between its markers of that name, if it has such markers."""
    begin, end = f"<!-- {name}: python docs/tables.py -->", f"<!-- end of {name} -->"
    if begin not in text:
        return text
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n{content}\n{end}{rest.split(end, 1)[1]}"


def main() -> None:
    for document in DOCUMENTS:
        old = document.read_text()
        new = in_step(old)
        if "--check" in sys.argv[1:]:
            if new != old:
                name = document.relative_to(ROOT)
                sys.exit(f"{name} is out of step with figures or bundle: run `make tables`")
        elif new != old:
            document.write_text(new)


if __name__ == "__main__":
    main()
