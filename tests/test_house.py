"""The house rules: imports flow one way, files and folders stay small, the map shows every file."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A room may import itself and the rooms named here; also when a program is started with `-m`.
ARROWS = {
    "assets": set(),
    "bridge": set(),
    "robots": {"bridge", "assets"},
    "sim": {"robots", "bridge", "assets"},
    "tasks": {"sim", "robots", "bridge", "assets"},
    "policy": {"bridge", "assets"},
    "console": {"tasks", "sim", "robots", "bridge"},
    "bench": {"console", "tasks", "sim", "robots", "policy", "bridge", "assets"},
    "hitogata": {"bench", "console", "tasks", "sim", "robots", "policy", "bridge", "assets"},
}
# A sub-room may import files that lie in its room's own folder, and the sub-rooms named here.
SUBROOM_ARROWS = {
    "bench": {"endurance": {"faults"}, "faults": set(), "walker": set()},
    "hitogata": {"bench": set()},
    "bridge": {
        "blackbox": {"control"},
        "compat": {"wire"},
        "control": {"wire"},
        "data": set(),
        "operator": {"wire"},
        "wire": set(),
    },
    "policy": {
        "export": {"model", "runtime"},
        "model": {"runtime"},
        "runtime": set(),
        "training": {"export", "model", "runtime"},
    },
    "robots": {"g1": set()},
    "sim": {"locomotion": set(), "render": set()},
    "tasks": {
        "demonstrations": {"language"},
        "evaluation": {"language"},
        "families": {"language"},
        "language": set(),
    },
}
# What may not be loaded where, however indirectly.
HEAVY = {"mujoco", "torch", "gymnasium"}
FREE_OF = {
    "bridge": HEAVY | {"onnxruntime"},
    "robots": HEAVY,
    "policy.runtime": HEAVY,
}
FORBIDDEN_NAMES = {"utils", "common", "helpers", "core", "misc", "util", "helper"}
MOST_LINES = 400
MOST_FILES = 17
# Folders whose files the map need not name one by one.
MAPPED_WHOLE = (
    "assets/exams/",
    "assets/models/",
    "docs/decisions/",
    "docs/examples/",
    "docs/images/",
    "docs/results/",
    "tasks/families/en/",
    "tasks/language/en/",
    "tasks/language/ja/",
)


@lru_cache
def _tracked() -> list[str]:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listing.stdout.splitlines() if (ROOT / name).exists()]


def _sources(room: str = "") -> list[Path]:
    rooms = [room] if room else ARROWS
    return [path for name in rooms for path in sorted((ROOT / name).rglob("*.py"))]


@lru_cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@lru_cache
def _modules() -> set[str]:
    return {_module(path) for path in _sources()}


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@lru_cache
def _imports(path: Path) -> set[str]:
    """All modules that a file imports, at its top or inside functions; ours down to the file."""
    names = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & _modules()
            names |= inside or {node.module or ""}
    return names - {_module(path)}


def _started(path: Path) -> Iterator[str]:
    """The modules that a file starts as programs: what follows "-m" in a list of words."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.List | ast.Tuple):
            for option, module in pairwise(node.elts):
                if isinstance(option, ast.Constant) and option.value == "-m":
                    yield str(module.value) if isinstance(module, ast.Constant) else ""


def _ids(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", _sources(), ids=_ids)
def test_imports_follow_the_arrows(path: Path) -> None:
    room = _module(path).split(".")[0]
    reached = {name.split(".")[0] for name in [*_imports(path), *_started(path)]} & set(ARROWS)
    assert reached <= ARROWS[room] | {room}


def _subroom(module: str) -> str:
    """The sub-room of a module, empty for files that lie in the room's own folder."""
    parts = module.split(".")
    return parts[1] if (ROOT / "/".join(parts[:2])).is_dir() and len(parts) > 1 else ""


@pytest.mark.parametrize("room", SUBROOM_ARROWS)
def test_sub_rooms_follow_their_arrows(room: str) -> None:
    arrows = SUBROOM_ARROWS[room]
    for path in _sources(room):
        if subroom := _subroom(_module(path)):
            ours = {name for name in _imports(path) if name.split(".")[0] == room}
            reached = {_subroom(name) for name in ours} - {"", subroom}
            assert reached <= arrows[subroom], f"{_ids(path)} imports {reached}"


def test_every_sub_room_has_its_arrows() -> None:
    found = {(path.parts[0], path.parts[1]) for path in _nested() if path.parts[0] != "assets"}
    assert found == {(room, name) for room, names in SUBROOM_ARROWS.items() for name in names}


def _nested() -> list[Path]:
    return [short for path in _sources() if len((short := path.relative_to(ROOT)).parts) > 2]


@pytest.mark.parametrize("depth", [1, 2, 9], ids=["rooms", "sub-rooms", "files"])
def test_no_circles(depth: int) -> None:
    """At each level a node is a folder of that depth, or a file that lies above it."""
    graph: dict[str, set[str]] = {}
    for path in _sources():
        node = ".".join(_module(path).split(".")[:depth])
        ours = _imports(path) & _modules()
        reached = {".".join(name.split(".")[:depth]) for name in ours}
        graph[node] = graph.get(node, set()) | (reached - {node})
    _check_no_circle(graph)


def _check_no_circle(graph: Mapping[str, set[str]]) -> None:
    finished: set[str] = set()

    def visit(node: str, trail: tuple[str, ...]) -> None:
        assert node not in trail, " -> ".join((*trail, node))
        if node not in finished:
            for imported in graph.get(node, set()):
                visit(imported, (*trail, node))
            finished.add(node)

    for node in graph:
        visit(node, ())


@pytest.mark.parametrize("room", FREE_OF)
def test_light_rooms_load_nothing_heavy(room: str) -> None:
    """In a fresh interpreter, with every module of the room imported."""
    modules = [name for name in sorted(_modules()) if (name + ".").startswith(room + ".")]
    lines = [f"import {name}" for name in modules]
    lines += ["import sys", f"print(sorted({FREE_OF[room]!r} & set(sys.modules)))"]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_every_module_can_be_imported() -> None:
    """Of a name that a module has lost pyright says nothing: MuJoCo's are made as it runs."""
    for path in _sources():
        import_module(_module(path))


def test_only_the_front_door_knows_the_command_line() -> None:
    for path in _sources():
        if "tyro" in {name.split(".")[0] for name in _imports(path)}:
            assert _module(path).startswith("hitogata."), _ids(path)


def test_files_and_folders_stay_small() -> None:
    sources = [ROOT / name for name in _tracked() if name.endswith(".py")]
    lines = {_ids(path): len(path.read_text(encoding="utf-8").splitlines()) for path in sources}
    assert not {name: n for name, n in lines.items() if n > MOST_LINES}
    folders: dict[str, int] = {}
    for path in _sources():
        if path.name != "__init__.py":
            folder = _ids(path.parent)
            folders[folder] = folders.get(folder, 0) + 1
    assert not {name: n for name, n in folders.items() if n > MOST_FILES}


def test_text_files_name_their_encoding() -> None:
    """Without one Python takes the locale's: what is written here is not read there."""
    sources = [ROOT / name for name in _tracked() if name.endswith(".py")]
    assert not [f"{_ids(path)}:{line}" for path in sources for line in _left_to_the_locale(path)]


def _left_to_the_locale(path: Path) -> Iterator[int]:
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            given = [ast.unparse(argument) for argument in node.args]
            as_text = {"read_text": not given, "write_text": len(given) == 1}
            as_text["open"] = not given or bool(re.fullmatch(r"'[rwax]\+?'", given[0]))
            named = any(keyword.arg == "encoding" for keyword in node.keywords)
            if as_text.get(node.func.attr) and not named:
                yield node.lineno


def test_no_public_class_has_two_homes() -> None:
    homes: dict[str, list[str]] = {}
    for path in _sources():
        for node in _tree(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(_ids(path))
    assert not {name: paths for name, paths in homes.items() if len(paths) > 1}


def test_no_room_for_leftovers() -> None:
    for name in _tracked():
        parts = {Path(part).stem for part in Path(name).parts}
        assert not parts & FORBIDDEN_NAMES, name


def _mapped() -> set[str]:
    """The paths in the first column of ARCHITECTURE.md's tables."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))


def test_architecture_maps_every_file() -> None:
    mapped = _mapped()
    whole = tuple(mapped & set(MAPPED_WHOLE))
    missing = [
        name
        for name in _tracked()
        if name not in mapped and not name.startswith(whole) and not name.endswith("/py.typed")
    ]
    assert not missing, f"ARCHITECTURE.md does not show {missing}"


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
