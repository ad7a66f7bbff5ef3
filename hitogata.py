"""The front door: one command, and the only place that puts the rooms together.

A command's options are derived by tyro from a function's signature and the configs it takes. The
functions are made on demand, because some rooms take seconds to import.
"""

import contextlib
import errno
import io
import re
import select
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from assets import asset_path
from bridge.client import RemotePolicy
from bridge.contract import UserError

BUNDLE = asset_path("models/bundle")
SERVER_START_S = 60.0


@dataclass(frozen=True)
class Command:
    """One word after `hitogata`: a line for the list, and the maker of its function."""

    summary: str
    make: Callable[[], Callable[..., None]]


def main() -> None:
    """Runs the command line; a user's fault is one line on stderr and exit status 2."""
    guarded(lambda: dispatch(sys.argv[1:]))


def guarded(call: Callable[[], None]) -> None:
    """Runs `call`; what the user can mend becomes one line, what we must mend keeps its trace."""
    try:
        call()
    except UserError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("hitogata: interrupted", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            _fail("the disk is full: free some space, or write to another folder with --out")
        raise
    except (AttributeError, ImportError, RuntimeError) as error:
        if not _in_opengl(error.__traceback__):
            raise
        _fail(f"no OpenGL ({error}): unset MUJOCO_GL, or see `hitogata doctor`")


def _in_opengl(trace: TracebackType | None) -> bool:
    """Whether an error comes from loading OpenGL, as MuJoCo does when it is imported."""
    files = [frame.filename for frame in traceback.extract_tb(trace)]
    return any(re.search(r"OpenGL|gl_context|mujoco.(egl|osmesa|glfw)", file) for file in files)


def _fail(message: str) -> None:
    print("hitogata: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


def dispatch(arguments: list[str]) -> None:
    """Carries out one command line, without the program's name."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return
    name, *rest = arguments
    if name not in COMMANDS:
        raise UserError(f"no command {name!r}: use one of {', '.join(COMMANDS)}")
    call = _parse(name, COMMANDS[name].make(), rest)
    call()


def _overview() -> str:
    lines = [f"  {name:10} {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            'usage: hitogata COMMAND ...        e.g. hitogata run "walk to the red ball"',
            "",
            *lines,
            "",
            "hitogata COMMAND --help shows a command's options and an example.",
        ]
    )


def _parse(name: str, function: Callable[..., None], arguments: list[str]) -> Callable[[], None]:
    """The function with its arguments filled in; UserError for a wrong option, naming the valid."""
    import functools
    import inspect

    import tyro

    @functools.wraps(function)
    def fill(*args: Any, **kwargs: Any) -> Callable[[], None]:
        return lambda: function(*args, **kwargs)

    fill.__signature__ = inspect.signature(function)  # pyright: ignore[reportFunctionMemberAccess]
    prog, told = f"hitogata {name}", io.StringIO()
    config = (tyro.conf.OmitArgPrefixes,)
    try:
        if {"-h", "--help"} & set(arguments):
            return tyro.cli(fill, prog=prog, args=arguments, config=config)
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
            return tyro.cli(fill, prog=prog, args=arguments, config=config)
    except SystemExit as error:
        if error.code in (0, None):
            raise
        raise UserError(f"{_complaint(told.getvalue())}; {_valid_options(fill, prog)}") from error


def _complaint(told: str) -> str:
    """The first paragraph under the title of tyro's error box, in one line."""
    lines = [line.strip(" \t│╭╮╰╯├┤─-") for line in told.splitlines()]
    paragraphs = " ".join(line or "\n" for line in lines[1:]).split("\n")
    return next(filter(str.strip, paragraphs), "wrong options").strip()


def _valid_options(function: Callable[..., Any], prog: str) -> str:
    import tyro

    shown = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(shown):
        tyro.cli(function, prog=prog, args=["--help"], config=(tyro.conf.OmitArgPrefixes,))
    options = dict.fromkeys(re.findall(r"^\s+(--[a-z][a-z0-9.-]*)", shown.getvalue(), re.MULTILINE))
    return f"{prog} takes {' '.join([*options, '--help'])}"


# ---- what the commands do ----------------------------------------------------------------------


def make_run() -> Callable[..., None]:
    from tyro.conf import Positional

    from bridge.contract import check_instruction
    from tasks.run import RunConfig, carry_out, set_stage

    def run(
        instruction: Positional[str],
        config: RunConfig = RunConfig(),
        bundle: Path = BUNDLE,
        connect: str | None = None,
    ) -> None:
        """Carries out an instruction in simulation and leaves a video.

        Example: hitogata run "walk to the red ball" --seed 7

        Args:
            instruction: What the robot is told, at most 1 KiB.
            bundle: The exported policy to serve, in a process of its own.
            connect: Address of a server already running (hitogata serve), instead of a bundle.
        """
        stage = set_stage(check_instruction(instruction), config)
        with policy_at(connect, bundle) as policy:
            carry_out(stage, policy, config)

    return run


def make_serve() -> Callable[..., None]:
    from tyro.conf import Positional

    from bridge.server import ServerInfo, serve_policy
    from policy.runtime import Blind, OnnxPolicy

    def serve(
        bundle: Positional[Path] = BUNDLE,
        address: str = "tcp://127.0.0.1:5757",
        threads: int = 2,
        tokens_per_step: int | None = None,
        deadline_s: float | None = None,
        blind: Blind | None = None,
        strict_gpu: bool = False,
    ) -> None:
        """Serves a bundle over ZeroMQ until interrupted.

        Example: hitogata serve runs/bundle --address ipc:///tmp/hitogata.sock

        Args:
            bundle: Folder written by `hitogata export`.
            address: ipc:// or loopback tcp:// address to listen at.
            threads: CPU threads of the policy.
            tokens_per_step: Action tokens that one decoding step emits: 18, 36 or 108.
            deadline_s: After this time a chunk is answered as far as it is decoded.
            blind: Withhold the words or the picture from the policy, as a baseline.
            strict_gpu: Refuse to run any part on the CPU.
        """
        policy = OnnxPolicy(bundle, threads, strict_gpu, tokens_per_step, blind, deadline_s)
        info = ServerInfo(policy.manifest.model_id, policy.manifest.normalisation_id)

        def ready(place: str) -> None:
            print(f"serving {bundle} at {place} on {policy.device}", flush=True)

        serve_policy(policy, address, info, ready)

    return serve


@contextlib.contextmanager
def policy_at(address: str | None, bundle: Path) -> Iterator[RemotePolicy]:
    """The policy served at `address`; without one, served from `bundle` by a process of our own."""
    with contextlib.ExitStack() as stack:
        place = address or stack.enter_context(_server(bundle))
        yield stack.enter_context(RemotePolicy(place))


@contextlib.contextmanager
def _server(bundle: Path) -> Iterator[str]:
    """A policy server's process; yields its address once it answers there."""
    with tempfile.TemporaryDirectory(prefix="hitogata-") as folder:
        address, log = f"ipc://{folder}/policy.sock", Path(folder, "log")
        command = [sys.executable, "-m", "hitogata", "serve", str(bundle), "--address", address]
        with log.open("w") as errors:
            server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        assert server.stdout is not None
        try:
            ready, _, _ = select.select([server.stdout], [], [], SERVER_START_S)
            if not (ready and server.stdout.readline()):
                said = log.read_text().strip().splitlines() or ["it does not start"]
                raise UserError(f"policy server: {said[-1].removeprefix('hitogata: ')}")
            yield address
        finally:
            server.terminate()
            server.wait(10)
            server.stdout.close()


def make_walk() -> Callable[..., None]:
    from bridge.results import write_results
    from sim.walk_exam import examine_walker
    from sim.walk_train import WalkTrainConfig, train_walker

    def walk(
        config: WalkTrainConfig = WalkTrainConfig(),
        out: Path = Path("runs/walker"),
        exam: Path | None = None,
        results: Path = Path("docs/results/walker.json"),
    ) -> None:
        """Trains the walker and exports it to ONNX; goes on where it was stopped.

        Example: hitogata walk --out runs/walker --minutes 110

        Args:
            out: Folder of the run; its walker.onnx is the result.
            exam: Examine this walker.onnx instead of training one.
            results: Where an examination writes its figures.
        """
        if exam is None:
            print(train_walker(out, config))
            return
        found = examine_walker(exam)
        print(found)
        write_results(results, found.figures(), f"hitogata walk --exam {exam}")

    return walk


def make_doctor() -> Callable[..., None]:
    from sim.doctor import examine

    def doctor() -> None:
        """Prints what this machine has, what is missing, and how to get it.

        Example: hitogata doctor
        """
        missing = 0
        for name, finding, remedy in examine():
            print(f"{name:10} {finding}" if remedy is None else f"{name:10} MISSING: {finding}")
            if remedy is not None:
                print(f"{'':10} {remedy}")
                missing += 1
        print(f"missing: {missing}" if missing else "all there")
        sys.exit(1 if missing else 0)

    return doctor


COMMANDS = {
    "run": Command("carry out an instruction in simulation, and leave a video", make_run),
    "serve": Command("serve a bundle over ZeroMQ", make_serve),
    "walk": Command("train the walker", make_walk),
    "doctor": Command("show what this machine has and what is missing", make_doctor),
}

if __name__ == "__main__":
    main()
