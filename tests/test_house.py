"""The house rules: imports flow one way, files stay small, and the map shows every file."""

import ast
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A room may import itself and the rooms named here.
ARROWS = {
    "assets": set(),
    "bridge": set(),
    "robots": {"bridge", "assets"},
    "sim": {"robots", "bridge", "assets"},
    "tasks": {"sim", "robots", "bridge", "assets"},
    "policy": {"bridge", "assets"},
    "console": {"tasks", "sim", "bridge"},
    "bench": {"console", "tasks", "sim", "robots", "policy", "bridge", "assets"},
    "hitogata": {"bench", "console", "tasks", "sim", "robots", "policy", "bridge", "assets"},
}
FORBIDDEN_NAMES = {"utils", "common", "helpers", "core", "misc", "util", "helper"}
MOST_LINES = 420
# Folders whose files the map need not name one by one.
MAPPED_WHOLE = ("assets/models/", "docs/decisions/", "docs/images/", "docs/results/")


def _tracked() -> list[str]:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listing.stdout.splitlines() if (ROOT / name).exists()]


def _sources() -> list[Path]:
    return [path for room in ARROWS for path in (ROOT / room).rglob("*.py")]


def _imports(path: Path) -> set[str]:
    """Top-level names of all modules that a file imports, at its top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}


def _room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_arrows(path: Path) -> None:
    room = _room(path)
    assert _imports(path) & set(ARROWS) <= ARROWS[room] | {room}


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_room_starts_one_above_it(path: Path) -> None:
    """What follows "-m" in a command line is a module, as an import would name it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        words = [getattr(each, "value", None) for each in ast.iter_child_nodes(node)]
        for flag, module in pairwise(words):
            if flag == "-m":
                assert str(module).partition(".")[0] in ARROWS[_room(path)] | {_room(path)}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "bridge").rglob("*.py")), ids=lambda path: path.name
)
def test_bridge_needs_neither_torch_nor_mujoco(path: Path) -> None:
    assert not _imports(path) & {"torch", "mujoco", "gymnasium", "onnxruntime"}


def test_no_circles_between_modules() -> None:
    graph = {_module(path): _module_imports(path) for path in _sources()}
    finished: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in finished:
            for imported in graph.get(module, set()):
                visit(imported, (*trail, module))
            finished.add(module)

    for module in graph:
        visit(module, ())


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def _module_imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names - {_module(path)}


def test_files_stay_small() -> None:
    sources = [ROOT / name for name in _tracked() if name.endswith(".py")]
    long = {
        str(path): n
        for path in sources
        if (n := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert all(lines <= MOST_LINES for lines in long.values()), long


def test_text_files_name_their_encoding() -> None:
    """Without one Python takes the locale's: what is written here is not read there."""
    sources = [ROOT / name for name in _tracked() if name.endswith(".py")]
    found = [f"{path}:{line}" for path in sources for line in _left_to_the_locale(path)]
    assert not found


def _left_to_the_locale(path: Path) -> list[int]:
    lines = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            given = [ast.unparse(argument) for argument in node.args]
            as_text = {"read_text": not given, "write_text": len(given) == 1}
            as_text["open"] = not given or bool(re.fullmatch(r"'[rwax]\+?'", given[0]))
            named = any(keyword.arg == "encoding" for keyword in node.keywords)
            if as_text.get(node.func.attr) and not named:
                lines.append(node.lineno)
    return lines


def test_no_room_for_leftovers() -> None:
    for name in _tracked():
        parts = {Path(part).stem for part in Path(name).parts}
        assert not parts & FORBIDDEN_NAMES, name


def _mapped() -> set[str]:
    """The paths in the first column of ARCHITECTURE.md's tables."""
    return set(
        re.findall(
            r"^\| `([^`]+)` \|",
            (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    )


def test_architecture_maps_every_file() -> None:
    mapped = _mapped()
    missing = [
        name
        for name in _tracked()
        if name not in mapped
        and not (name.startswith(MAPPED_WHOLE) and _folder(name) in mapped)
        and not name.endswith("/py.typed")
    ]
    assert not missing, f"ARCHITECTURE.md does not show {missing}"


def _folder(name: str) -> str:
    return "/".join(name.split("/")[:2]) + "/"


def test_architecture_maps_nothing_else() -> None:
    assert not [name for name in _mapped() if not (ROOT / name).exists()]


def test_links_of_the_documents_lead_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document}: {target}"


@pytest.mark.parametrize("script", ["tables.py", "map.py"])
def test_documents_are_in_step(script: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / script, "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
