"""The front door in processes of its own: help, and one line for every fault of the user."""

import json
import os
import re
import resource
import shlex
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path

import pytest

from assets import asset_path
from bridge.contract import UserError
from hitogata import commandline
from hitogata.__main__ import COMMANDS
from hitogata.commandline import Command
from hitogata.policies import BUNDLE, serving

ROOT = Path(__file__).parents[1]


def _hitogata(
    *arguments: str | Path, folder: Path = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hitogata", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80"} | variables
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=environment, timeout=300
    )


def _fault(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refused call."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("hitogata: ")
    return lines[0]


def test_help_lists_every_command_at_once() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = _hitogata("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Processor time: other processes do not count.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    assert done.returncode == 0
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_has_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        commandline.dispatch(COMMANDS, [name, "--help"])
    assert stopped.value.code == 0
    assert f"Example: hitogata {name}" in capsys.readouterr().out


def test_version() -> None:
    assert _hitogata("--version").stdout == f"hitogata {metadata.version('hitogata')}\n"


def test_what_is_missing_is_told_with_the_extra_that_brings_it(monkeypatch) -> None:
    for module in ("mujoco", "rsl_rl", "rerun", "torch.nn"):
        monkeypatch.setitem(sys.modules, module, None)
    told = {
        "collect": ("mujoco", "sim"),
        "console": ("mujoco", "console"),
        "walk": ("rsl_rl", "train"),
        "rerun": ("rerun", "rerun"),
    }

    for name, (module, extra) in told.items():
        monkeypatch.setattr(Command, "function", lambda _, module=module: import_module(module))
        with pytest.raises(UserError) as caught:
            commandline.dispatch({name: Command("", "")}, [name])
        assert str(caught.value) == f'{name} needs {module}: pip install "hitogata[{extra}]"'


def test_a_module_that_no_extra_brings_is_our_own_fault(monkeypatch) -> None:
    def broken(_: Command) -> None:
        import_module("bridge.none_such")

    monkeypatch.setattr(Command, "function", broken)
    with pytest.raises(ModuleNotFoundError):
        commandline.dispatch({"serve": Command("", "")}, ["serve"])


def test_a_user_s_own_files_are_not_taken_for_ours(tmp_path, monkeypatch) -> None:
    """A folder may hold files of the names that we and our libraries have."""
    for name in ("assets", "bridge", "policy", "numpy", "select"):
        text = f"raise SystemExit('{name}.py of the user')"
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with serving(BUNDLE) as address:
        assert address.startswith("ipc://")


def test_onnx_runtime_reports_to_nobody(tmp_path: Path) -> None:
    """With telemetry it opens a database in the home folder, and then a socket."""
    script = """
import contextlib, time
from pathlib import Path
from robots.g1.walker import Walker
Walker()
time.sleep(1)
for file in Path("/proc/self/fd").iterdir():
    with contextlib.suppress(OSError):
        print(file.readlink())
"""
    environment = os.environ | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "socket:" not in done.stdout and "onnxruntime" not in done.stdout
    assert not list(tmp_path.iterdir())


def test_unknown_command_is_answered_with_the_valid_ones() -> None:
    line = _fault(_hitogata("dance"))
    assert all(name in line for name in COMMANDS)


def test_unknown_option_is_answered_with_the_valid_ones() -> None:
    line = _fault(_hitogata("serve", "--adress", "ipc:///tmp/x"))
    assert "--adress" in line and "--address" in line and "--threads" in line


def test_wrong_value_of_an_option() -> None:
    assert "--threads" in _fault(_hitogata("serve", "--threads", "two"))


@pytest.mark.parametrize(
    ("instruction", "complaint"),
    [("", "empty"), ("   ", "empty"), ("go " * 400, "1024"), ("stop\x1b[2J", "control")],
    ids=["empty", "blank", "long", "control"],
)
def test_bad_instructions(instruction: str, complaint: str) -> None:
    assert complaint in _fault(_hitogata("run", instruction))


def test_missing_bundle(tmp_path: Path) -> None:
    line = _fault(_hitogata("run", "stop", "--bundle", tmp_path / "none"))
    assert "does not exist" in line and "hitogata export" in line


def test_foreign_bundle(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(
        json.dumps({"name": "something else"}), encoding="utf-8"
    )
    assert "manifest" in _fault(_hitogata("serve", tmp_path))


def test_server_that_is_not_there(tmp_path: Path) -> None:
    line = _fault(_hitogata("run", "stop", "--connect", f"ipc://{tmp_path}/none.sock"))
    assert "hitogata serve" in line


def test_robot_file_without_the_joints(tmp_path: Path) -> None:
    robot = tmp_path / "box.xml"
    robot.write_text(
        "<mujoco><worldbody><body><geom size='1'/></body></worldbody></mujoco>", encoding="utf-8"
    )
    assert "29 joints" in _fault(_hitogata("run", "stop", "--robot", robot))


def test_missing_scene_file(tmp_path: Path) -> None:
    assert "none.json" in _fault(_hitogata("run", "stop", "--scene", tmp_path / "none.json"))


def test_doctor_names_what_is_there(tmp_path: Path) -> None:
    done = _hitogata("doctor", folder=tmp_path)
    for what in ("python", "packages", "opengl", "assets", "providers"):
        assert re.search(rf"^{what} ", done.stdout, re.MULTILINE), done.stdout
    assert done.returncode == (1 if "MISSING" in done.stdout else 0)


def test_no_opengl() -> None:
    assert "no OpenGL" in _fault(_hitogata("run", "stop", MUJOCO_GL="none-such"))


def test_doctor_without_opengl() -> None:
    done = _hitogata("doctor", MUJOCO_GL="none-such")
    assert done.returncode == 1
    assert re.search(r"^opengl +MISSING: .*\n +unset MUJOCO_GL", done.stdout, re.MULTILINE)


def test_full_disk_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(SystemExit) as stopped:
        commandline.guarded(full)
    assert stopped.value.code == 2
    assert "disk is full" in capsys.readouterr().err


def test_a_reader_who_has_seen_enough_gets_no_traceback() -> None:
    line = f"{shlex.quote(sys.executable)} -m hitogata --help | true"
    done = subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""


def test_interrupt_has_the_shell_s_exit_status() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stopped:
        commandline.guarded(interrupted)
    assert stopped.value.code == 130


def test_assets_are_found() -> None:
    assert asset_path("robots/g1.xml").is_file()
