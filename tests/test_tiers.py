"""Each tier of the package, installed alone in a fresh environment, does its job there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from hitogata import __version__
from tests.test_house import ARROWS
from tests.test_train import record_squares

ROOT = Path(__file__).parents[1]
WAIT_S = 300.0
ASK = """
import sys
from bench.doubles import Puppet
from bridge.wire.client import RemotePolicy
from robots.g1.embodiment import G1
with RemotePolicy(sys.argv[1], G1) as policy:
    chunk = policy.act("wave with the left hand", Puppet().observe())
print(*chunk.commands.shape, chunk.understood["action"], *{"torch", "mujoco"} & set(sys.modules))
"""
LACKS = """
import sys
from importlib.util import find_spec
print(*(name for name in sys.argv[1:] if find_spec(name)))
"""

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Tier:
    """An environment of its own with a tier in it; programs run in its folder."""

    folder: Path

    def run(self, *command: str, status: int = 0) -> str:
        """What a program of the environment says, on both streams; it ends with `status`."""
        process = self._started(command)
        said, _ = process.communicate(timeout=WAIT_S)
        assert process.returncode == status, said
        return said

    @contextmanager
    def running(self, *command: str) -> Iterator[str]:
        """The first line that a program says; it ends well when told to."""
        process = self._started(command)
        assert process.stdout is not None
        try:
            yield process.stdout.readline()
            process.terminate()
            rest, _ = process.communicate(timeout=WAIT_S)
            assert process.returncode == 0, rest
        finally:
            process.kill()
            process.communicate()

    def _started(self, command: Sequence[str]) -> subprocess.Popen[str]:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)
        program, *arguments = command
        return subprocess.Popen(
            [str(self.folder / "venv" / "bin" / program), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
            env=environment,
        )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is installed from a copy, so that no earlier build is in it."""
    copy = tmp_path_factory.mktemp("source")
    for room in ARROWS:
        shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    _pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", str(copy / "dist"), str(copy))
    [built] = (copy / "dist").glob("*.whl")
    return built


@pytest.fixture
def install(wheel: Path, tmp_path: Path) -> Callable[[str], Tier]:
    """Makes the environment of a tier: "" is the bare one, else an extra."""

    def make(extra: str) -> Tier:
        venv = tmp_path / "venv"
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        wanted = f"{wheel}[{extra}]" if extra else str(wheel)
        _pip(str(venv / "bin" / "python"), "install", "--no-compile", wanted)
        tier = Tier(tmp_path)
        assert tier.run("hitogata", "--version") == f"hitogata {__version__}\n"
        # Among others it tells whether exactly one of the two wheels of ONNX Runtime is there.
        assert "all there" in tier.run("hitogata", "doctor")
        return tier

    return make


def _pip(python: str, *arguments: str) -> None:
    command = [python, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        pytest.fail((done.stderr.strip().splitlines() or ["pip failed"])[-1])


def test_the_bare_package_serves_a_bundle_and_asks_it(install) -> None:
    tier = install("")
    absent = ("torch", "mujoco", "gymnasium", "pyarrow", "matplotlib")
    assert tier.run("python", "-c", LACKS, *absent) == "\n"
    for command, extra in (("collect", "sim"), ("train", "train"), ("console", "console")):
        told = tier.run("hitogata", command, status=2)
        assert told.startswith(f"hitogata: {command} needs ")
        assert told.endswith(f': pip install "hitogata[{extra}]"\n')
    address = f"ipc://{tier.folder}/policy.sock"
    with tier.running("hitogata", "serve", "--address", address) as said:
        assert said.startswith("serving ")
        assert tier.run("python", "-c", ASK, address) == "16 18 wave\n"


def test_with_sim_the_robot_does_what_it_is_told(install) -> None:
    tier = install("sim")
    assert tier.run("python", "-c", LACKS, "torch") == "\n"
    told = tier.run("hitogata", "run", "wave", "--time-limit-s", "6", "--out", "run.mp4")
    assert "understood  action=wave" in told and "falls       0" in told
    assert (tier.folder / "run.mp4").stat().st_size > 10_000


def test_with_console_the_page_answers(install) -> None:
    tier = install("console")
    assert tier.run("python", "-c", LACKS, "torch", "gymnasium", "pyarrow") == "\n"
    with tier.running("hitogata", "console", "--address", "http://127.0.0.1:0") as said:
        page = said.removeprefix("console at ").strip()
        for path, text in (
            ("", b"<title>"),
            ("console.js", b"WebSocket"),
            ("studio/", b"web_client.js"),
        ):
            with urllib.request.urlopen(page + path, timeout=WAIT_S) as answer:
                assert text in answer.read()


def test_with_train_a_policy_is_trained_and_exported(install) -> None:
    tier = install("train")
    assert tier.run("python", "-c", LACKS, "mujoco", "gymnasium") == "\n"
    record_squares(tier.folder / "squares", episodes=4)
    small = ("--model.layers", "1", "--model.experts", "4", "--threads", "1")
    steps = ("--steps", "2", "--batch-size", "4", "--out", "run")
    tier.run("hitogata", "train", "squares", *steps, *small)
    assert (tier.folder / "run" / "checkpoint.safetensors").is_file()
    tier.run("hitogata", "export", "run", "--samples", "3", "--out", "bundle")
    assert (tier.folder / "bundle" / "manifest.json").is_file()
