"""Writes the map of files into ARCHITECTURE.md, from the first lines of their docstrings.

python docs/map.py            writes
python docs/map.py --check    fails when ARCHITECTURE.md is out of step
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ARCHITECTURE = ROOT / "ARCHITECTURE.md"
BEGIN, END = "<!-- map: python docs/map.py -->", "<!-- end of map -->"
ROOMS = (
    "hitogata",
    "console",
    "bench",
    "tasks",
    "sim",
    "robots",
    "policy",
    "bridge",
    "assets",
    "docs",
    "tests",
)


def table() -> str:
    """Markdown: a heading and a table for each folder."""
    parts = []
    for folder in _folders():
        if rows := [_row(path) for path in _files(folder)]:
            parts += [f"### {folder}/", "", "| file | what it is for |", "|---|---|", *rows, ""]
    return "\n".join(parts)


def _folders() -> list[str]:
    """Every folder with sources: the rooms, top down, each before its sub-rooms."""
    folders = {
        path.parent.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
    }
    return sorted(folders, key=lambda folder: (ROOMS.index(folder.split("/")[0]), folder))


def _files(folder: str) -> list[Path]:
    found = (ROOT / folder).glob("*.py")
    return sorted(found, key=lambda path: (path.name != "__init__.py", path))


def _row(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = " ".join(text.split("\n\n", 1)[0].split())
    if not first and path.name == "__init__.py":
        first = "Makes the folder a package."
    return f"| `{path.relative_to(ROOT).as_posix()}` | {first.replace('|', '/')} |"


def in_step(text: str) -> str:
    """The document's text with its map renewed."""
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END, 1)[1]}"


def main() -> None:
    """Writes the map, or checks it."""
    old = ARCHITECTURE.read_text(encoding="utf-8")
    new = in_step(old)
    if "--check" in sys.argv[1:]:
        if new != old:
            sys.exit("ARCHITECTURE.md is out of step with the files: run `make tables`")
    elif new != old:
        ARCHITECTURE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
