"""What this machine has, what is missing, and how to get it."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator
from importlib import metadata

from assets import ASSETS, asset_path
from bridge.contract import UserError
from hitogata.commandline import BARE, requirements

OPENGL_REMEDY = "unset MUJOCO_GL; on Linux: apt-get install libegl1 libgl1 libgles2"
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
SHIPPED = ("robots/g1.xml", "models/walker.onnx", "models/text_encoder", "models/bundle")


class Missing(Exception):
    """Something is not there; arguments: what was found, and how to get it."""


def report() -> int:
    """Prints every finding, and the remedy of what is missing; returns how much is."""
    missing = 0
    for name, finding, remedy in examine():
        print(f"{name:10} {finding if remedy is None else f'MISSING: {finding}'}")
        if remedy is not None:
            print(f"{'':10} {remedy}")
            missing += 1
    print(f"missing: {missing}" if missing else "all there")
    return missing


def examine() -> Iterator[tuple[str, str, str | None]]:
    """Name, finding and, for what is missing, the remedy of everything that Hitogata needs."""
    for name, check in CHECKS.items():
        try:
            yield name, check(), None
        except Missing as missing:
            finding, remedy = missing.args
            yield name, finding, remedy


def python() -> str:
    """The interpreter's release."""
    version = f"Python {platform.python_version()}"
    if not (3, 11) <= sys.version_info < (3, 14):
        raise Missing(version, "install Python 3.11, 3.12 or 3.13")
    return version


def machine() -> str:
    """System, cores and memory."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    cores = os.cpu_count()
    return f"{platform.system()} {platform.machine()}, {cores} cores, {memory_gb:.0f} GB of memory"


def packages() -> str:
    """What every tier needs, by release."""
    names = [name for name in requirements()[BARE] if name not in RUNTIMES]
    if absent := _absent(names):
        raise Missing(f"no {', '.join(absent)}", "pip install hitogata")
    return ", ".join(f"{name} {metadata.version(name)}" for name in names)


def extras() -> str:
    """Which extras are there whole; none is missing, since each is for some commands alone."""
    lacking = {extra: _absent(names) for extra, names in requirements().items() if extra != BARE}
    there = ", ".join(extra for extra, absent in lacking.items() if not absent)
    others = ", ".join(extra for extra, absent in lacking.items() if absent)
    return f"{there or 'none'}{others and f'; pip install hitogata[EXTRA] brings {others}'}"


def opengl() -> str:
    """What renders the head camera."""
    if not _installed("mujoco"):
        return "not looked for: nothing is simulated without mujoco"
    try:
        from sim.render.camera import (
            opengl_renderer,  # MuJoCo itself fails without the OpenGL asked for
        )

        return f"{opengl_renderer()} (MUJOCO_GL={os.environ.get('MUJOCO_GL', 'not set')})"
    except UserError as error:
        finding, _, remedy = str(error).partition(";")
        raise Missing(finding, remedy.strip()) from error
    except Exception as error:  # each platform of OpenGL fails in its own way
        raise Missing(f"no OpenGL ({error})", OPENGL_REMEDY) from error


def providers() -> str:
    """Which wheel of ONNX Runtime is there, and on what it runs."""
    wheels = [name for name in RUNTIMES if _installed(name)]
    if len(wheels) != 1:
        found = " and ".join(wheels) or "no onnxruntime"
        raise Missing(found, f"pip uninstall {' '.join(RUNTIMES)}, then pip install hitogata")
    from assets.inference import ort  # missing, it would keep the doctor from telling

    compiled = ort.get_available_providers()
    wanted = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in compiled]
    ort.set_default_logger_severity(4)
    # Only a session tells which of the compiled-in providers this machine can use.
    model = asset_path("models/walker.onnx")
    if not model.exists():
        raise Missing(f"no {model} to try", "install hitogata again")
    used = ort.InferenceSession(str(model), providers=wanted).get_providers()
    return f"{wheels[0]} {ort.__version__} runs on {', '.join(used)}"


def assets() -> str:
    """Where the shipped models and robots are."""
    absent = [name for name in SHIPPED if not asset_path(name).exists()]
    if absent:
        raise Missing(f"no {', '.join(absent)} in {ASSETS}", "install hitogata again")
    return str(ASSETS)


CHECKS: dict[str, Callable[[], str]] = {
    check.__name__: check
    for check in (python, machine, packages, extras, opengl, assets, providers)
}


def _absent(names: list[str]) -> list[str]:
    return [name for name in names if not _installed(name)]


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def doctor() -> None:
    """Prints what this machine has, what is missing, and how to get it.

    Example: hitogata doctor
    """
    sys.exit(1 if report() else 0)
