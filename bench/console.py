"""What pages of the console cost the control loop: its rate and overruns with 0, 1 and 4 open."""

from __future__ import annotations

import io
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from websockets.sync.client import connect

from bridge.contract import UserError
from bridge.operator.client import Operator
from bridge.operator.messages import Telemetry
from bridge.process import child_server
from robots.g1.embodiment import CONTROL_HZ

PAGES = (0, 1, 4)
MOST_LOSS_PERCENT = 2.0
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPEN_S = 120.0
INSTRUCTION = "turn around"
_WARM_S = 3.0
_LOOK_S = 0.5


@dataclass(frozen=True)
class LoopRate:
    """A control loop over some seconds: periods per second, and periods that it missed."""

    hz: float
    overruns: int


def console_figures(hitogata: Sequence[str], bundle: Path, seconds: float) -> dict[str, float]:
    """Rate and overruns for each number of pages, and the most that the rate lost, in percent."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise UserError("no browser is installed: apt-get install chromium")

    def command_at(address: str) -> list[str]:
        return [*hitogata, "simulate", "--address", address, "--bundle", str(bundle)]

    with (
        child_server(command_at, "simulation") as robot,
        _console(hitogata, robot) as page,
        Operator(robot, "bench") as watcher,
    ):
        paces = {n: _pace_with(n, browser, page, watcher, seconds) for n in PAGES}
    figures: dict[str, float] = {}
    for n, pace in paces.items():
        figures |= {f"loop_hz_{n}_pages": pace.hz, f"overruns_{n}_pages": pace.overruns}
    return figures | {"loss_percent": max(_lost(figures, n) for n in PAGES)}


def table_of(figures: Mapping[str, float]) -> str:
    """A line for each number of pages, then whether the loop lost more than it may."""
    lines = [f"{'pages':>5} {'loop, Hz':>9} {'lost, %':>8} {'overruns':>9}"]
    lines += [
        f"{n:5} {figures[f'loop_hz_{n}_pages']:9.2f} {_lost(figures, n):8.2f}"
        f" {figures[f'overruns_{n}_pages']:9.0f}"
        for n in PAGES
    ]
    lost = figures["loss_percent"]
    verdict = "within" if lost <= MOST_LOSS_PERCENT else "MORE than"
    return "\n".join([*lines, f"most lost: {lost:.2f} %, {verdict} {MOST_LOSS_PERCENT:g} %"])


def draw_figures(figures: Mapping[str, float]) -> bytes:
    """A PNG of the loop's rate for each number of pages, and of what it may lose."""
    from matplotlib.figure import Figure

    rates = [figures[f"loop_hz_{n}_pages"] for n in PAGES]
    picture = Figure(figsize=(4.6, 3.2), layout="constrained")
    axes = picture.subplots()
    axes.bar(range(len(PAGES)), rates, color="#4477aa", width=0.6)
    least = rates[0] * (1 - MOST_LOSS_PERCENT / 100)
    axes.axhline(least, color="#cc6677", label=f"{MOST_LOSS_PERCENT:g} % lost")
    for place, n in enumerate(PAGES):
        words = f"{rates[place]:.1f} Hz\n{figures[f'overruns_{n}_pages']:.0f} overruns"
        axes.text(place, rates[place] / 2, words, ha="center", color="white")
    axes.set_xticks(range(len(PAGES)), [f"{n} pages" for n in PAGES])
    axes.set_ylabel("control loop, periods a second")
    axes.legend(loc="lower right")
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _lost(figures: Mapping[str, float], n: int) -> float:
    """How much slower the loop is than without a page, in percent."""
    return 100 * (1 - figures[f"loop_hz_{n}_pages"] / figures["loop_hz_0_pages"])


def _pace_with(n: int, browser: str, page: str, watcher: Operator, seconds: float) -> LoopRate:
    with (
        tempfile.TemporaryDirectory(
            prefix="hitogata-browser-", ignore_cleanup_errors=True
        ) as folder,
        _pages(browser, page, n, Path(folder)),
    ):
        _instruct(page, n)
        time.sleep(_WARM_S)
        return _pace(watcher, seconds)


@contextmanager
def _console(hitogata: Sequence[str], robot: str) -> Iterator[str]:
    """The console of a robot as a process of its own; yields the page's address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    command = [*hitogata, "console", "--connect", robot, "--address", address]
    console = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert console.stdout is not None
    try:
        if not console.stdout.readline():
            raise UserError("the console did not start: run `hitogata console` to see why")
        yield address
    finally:
        console.terminate()
        console.wait()


@contextmanager
def _pages(browser: str, page: str, n: int, profiles: Path) -> Iterator[None]:
    """`n` browsers without a window, each with the page open: one takes a single page."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        for i in range(n):
            command = [browser, "--headless=new", "--no-sandbox", "--enable-unsafe-swiftshader"]
            command += ["--remote-debugging-port=0", f"--user-data-dir={profiles / str(i)}", page]
            quiet = subprocess.DEVNULL
            running.append(subprocess.Popen(command, stderr=quiet, stdout=quiet))
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def _instruct(page: str, n: int) -> None:
    """Waits until `n` pages are open, and gives the robot something to do."""
    deadline, stops = time.monotonic() + OPEN_S, 0
    with connect(page.replace("http", "ws", 1) + "/live") as line:
        while time.monotonic() < deadline:
            message = line.recv(_LOOK_S + OPEN_S)
            if not isinstance(message, str):
                continue
            news = json.loads(message)
            stops = news.get("stops", stops)
            if news["kind"] == "role" and news["pages"] == n + 1:
                # Who commands is the browser's first page, or this line.
                if news["commands"]:
                    terms = {"number": 1, "stops": stops, "text": INSTRUCTION}
                    line.send(json.dumps({"do": "instruct", **terms}))
                return
    raise UserError(f"the browser did not open {n} pages in {OPEN_S:g} s: is the machine busy?")


def _pace(watcher: Operator, seconds: float) -> LoopRate:
    """The loop's own count of periods between two moments, by our clock."""
    began, began_s = _fresh(watcher)
    time.sleep(seconds)
    ended, ended_s = _fresh(watcher)
    periods = (ended.time_s - began.time_s) * CONTROL_HZ
    return LoopRate(periods / (ended_s - began_s), ended.loop_overruns - began.loop_overruns)


def _fresh(watcher: Operator) -> tuple[Telemetry, float]:
    """The next moment, and when it came."""
    watcher.telemetry(0)  # what waits is old
    moment = watcher.telemetry(OPEN_S)
    if moment is None:
        raise UserError("the simulation fell silent: run `hitogata simulate` to see why")
    return moment, time.monotonic()
