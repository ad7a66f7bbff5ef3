"""The command line: options from a function's signature, one line for every fault of the user."""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import io
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from importlib import import_module, metadata
from types import FrameType, TracebackType
from typing import Any, NoReturn, get_type_hints

from bridge.contract import UserError
from bridge.ranges import out_of_range
from hitogata import __version__

BARE = ""
# As `av>=14; extra == "sim"`; what every tier has names no extra.
_REQUIREMENT = re.compile(r"([\w.-]+)(?:[^;]*;.*\bextra == [\"']([\w-]+)[\"'])?")


@dataclass(frozen=True)
class Command:
    """One word after `hitogata`, or two: a line for the list, and where its function is.

    `place` is "module:function" of this folder; some take seconds to import.
    """

    summary: str
    place: str

    def function(self) -> Callable[..., None]:
        """The function whose signature gives the options."""
        module, name = self.place.split(":")
        return getattr(import_module(f"hitogata.{module}"), name)


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP came. Like Ctrl-C it lets every `finally` run: nothing is left behind."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def raise_on_signals() -> None:
    """Lets SIGTERM and SIGHUP raise Terminated, unless they are ignored, as by nohup."""

    def terminate(number: int, _frame: FrameType | None) -> NoReturn:
        raise Terminated(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, terminate)


def guarded(call: Callable[[], None]) -> None:
    """Runs `call`; what the user can mend becomes one line, what we must mend keeps its trace."""
    try:
        call()
        sys.stdout.flush()
    except UserError as error:
        _fail(str(error))
    except Terminated as error:
        with contextlib.suppress(OSError):  # of a terminal that is gone
            print(f"hitogata: ended by {error}", file=sys.stderr)
        sys.exit(128 + error.number)
    except KeyboardInterrupt:
        print("hitogata: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # whoever read what is printed, as `| head` does, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            place = f" ({error.filename})" if error.filename else ""
            _fail(
                f"the disk is full, or /dev/shm, or one has no inodes left{place}: look with"
                " `df -h` and `df -i`, free some, or write to another folder with --out"
            )
        raise
    except (AttributeError, ImportError, RuntimeError) as error:
        if not _in_opengl(error.__traceback__):
            raise
        _fail(f"no OpenGL ({error}): unset MUJOCO_GL, or see `hitogata doctor`")


def _in_opengl(trace: TracebackType | None) -> bool:
    """Whether an error comes from loading OpenGL, as MuJoCo does when it is imported."""
    files = [frame.filename for frame in traceback.extract_tb(trace)]
    return any(re.search(r"OpenGL|gl_context|mujoco.(egl|osmesa|glfw)", file) for file in files)


def _fail(message: str) -> NoReturn:
    print("hitogata: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


def dispatch(commands: Mapping[str, Command], arguments: list[str]) -> None:
    """Carries out one command line, without the program's name."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview(commands))
        return
    if arguments[0] == "--version":
        print(f"hitogata {__version__}")
        return
    # A command is one word or two: "bench", "bench walker".
    words = 2 if " ".join(arguments[:2]) in commands else 1
    name, rest = " ".join(arguments[:words]), arguments[words:]
    if name not in commands:
        raise UserError(f"no command {name!r}: use one of {', '.join(commands)}")
    try:
        _parse(name, commands[name].function(), rest)()
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if extra := extra_with(missing, preferred=name):
            raise UserError(f'{name} needs {missing}: pip install "hitogata[{extra}]"') from error
        raise


def _overview(commands: Mapping[str, Command]) -> str:
    lines = [f"  {name:12} {command.summary}" for name, command in commands.items()]
    return "\n".join(
        [
            'usage: hitogata COMMAND ...        e.g. hitogata run "walk to the red ball"',
            "",
            *lines,
            "",
            "hitogata COMMAND --help shows a command's options and an example; hitogata --version.",
        ]
    )


def _parse(name: str, function: Callable[..., None], arguments: list[str]) -> Callable[[], None]:
    """The function with its arguments filled in; UserError for a wrong option, naming the valid."""
    import tyro

    @functools.wraps(function)
    def fill(*args: Any, **kwargs: Any) -> Callable[[], None]:
        _check_ranges(function, inspect.signature(function).bind(*args, **kwargs).arguments)
        return lambda: function(*args, **kwargs)

    fill.__signature__ = inspect.signature(function)  # pyright: ignore[reportAttributeAccessIssue]
    prog, said = f"hitogata {name}", io.StringIO()
    try:
        if {"-h", "--help"} & set(arguments):
            return tyro.cli(fill, prog=prog, args=arguments)
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return tyro.cli(fill, prog=prog, args=arguments)
    except SystemExit as error:
        if error.code in (0, None):
            raise
        raise UserError(f"{_complaint(said.getvalue())}; {_valid_options(fill, prog)}") from error


def _check_ranges(function: Callable[..., None], arguments: Mapping[str, Any]) -> None:
    """UserError for the first option out of its range; a config's options have no prefix."""
    hints = get_type_hints(function, include_extras=True)
    for name, value in arguments.items():
        prefix = "" if is_dataclass(value) else name
        for path, fault in out_of_range(value, hints[name], prefix):
            raise UserError(f"--{path.replace('_', '-')} {fault}")


def _complaint(said: str) -> str:
    """The first paragraph under the title of tyro's error box, in one line."""
    lines = [line.strip(" \t│╭╮╰╯├┤─-") for line in said.splitlines()]
    paragraphs = " ".join(line or "\n" for line in lines[1:]).split("\n")
    return next(filter(str.strip, paragraphs), "wrong options").strip()


def _valid_options(function: Callable[..., Any], prog: str) -> str:
    import tyro

    shown = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(shown):
        tyro.cli(function, prog=prog, args=["--help"])
    lines = re.findall(r"^[\s│]+(--[a-z][a-z0-9.-]*)", shown.getvalue(), re.MULTILINE)
    return f"{prog} takes {' '.join([*dict.fromkeys(lines), '--help'])}"


def requirements() -> dict[str, list[str]]:
    """Extra -> names of its distributions, in the order of pyproject.toml; BARE for all tiers."""
    found: dict[str, list[str]] = {BARE: []}
    for line in metadata.requires("hitogata") or ():
        match = _REQUIREMENT.match(line)
        if match and match[1] != "hitogata":  # as `all` does, by the names of other extras
            found.setdefault(match[2] or BARE, []).append(match[1])
    return found


def extra_with(module: str, preferred: str) -> str | None:
    """An extra that brings a module: the preferred one if it does, else the first; None for none.

    A distribution is taken for its module's when it begins with its name: rsl-rl-lib has rsl_rl.
    """
    top = module.split(".")[0].lower() + "_"
    known = [
        extra
        for extra, names in requirements().items()
        if extra and any(f"{re.sub('[-.]', '_', name.lower())}_".startswith(top) for name in names)
    ]
    return preferred if preferred in known else next(iter(known), None)
