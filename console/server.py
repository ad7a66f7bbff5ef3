"""The console: a page in the browser from which a person talks to the robot, and sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bridge.compat.adapter import Endpoint, read_token
from bridge.operator.client import Operator
from bridge.process import child_server
from bridge.ranges import Seed, check_ranges
from bridge.wire.client import Connection
from bridge.wire.server import stop_on_signals
from console.film import Film
from console.pages import Pages
from console.robot import RobotSide
from console.scene import Painter, stage
from console.studio import Studio
from console.web import ADDRESS, File, listen, web_server
from sim.render.video import VIEW_SIZE

_STATIC = Path(__file__).parent / "static"
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/console.css": ("console.css", "text/css; charset=utf-8"),
    "/console.js": ("console.js", "text/javascript; charset=utf-8"),
    "/console_frame.js": ("frame.js", "text/javascript; charset=utf-8"),
}


@dataclass(frozen=True)
class ConsoleConfig:
    """Which robot the console shows, and who reaches its page.

    Attributes:
        connect: Where the control loop of a robot listens to operators, such as
            tcp://127.0.0.1:5760; without it a simulation is started for this console.
        keys: Folder of this machine's keys (hitogata keys), for a robot with keys.
        server_key: The public key of that robot, a copy of its NAME.public.
        seed: Which scene the simulation begins with.
        robot: Another MJCF of the 29-joint G1.
        address: Where the page is.
        exposed: Let the page be reached from other machines, without encryption: needs a token.
        token_file: File with the token that a browser must present.
        recordings: Folder of recordings and of the simulation's black box.
    """

    connect: str | None = None
    keys: Path | None = None
    server_key: Path | None = None
    seed: Seed = 0
    robot: Path | None = None
    address: str = ADDRESS
    exposed: bool = False
    token_file: Path | None = None
    recordings: Path = Path("out/console")


def open_console(
    config: ConsoleConfig, simulate: Sequence[str], ready: Callable[[str], object]
) -> None:
    """Serves the page until interrupted; `ready` is called with its address.

    `simulate` is the command line that starts a simulated robot, where no other is named.
    """
    check_ranges(config)
    token = read_token(config.token_file) if config.token_file else None
    endpoint = Endpoint(config.address, config.exposed, token)
    stage(config.seed, config.robot)  # a robot file that is none ends it here
    keys = Connection(config.connect, config.keys, config.server_key).client_keys()
    with ExitStack() as stack:
        # First what most often fails.
        listener, gate = listen(endpoint)
        stack.callback(listener.close)
        stopping = stack.enter_context(stop_on_signals())
        address = stack.enter_context(_robot_address(config, simulate))
        studio = Studio()
        operator = stack.enter_context(Operator(address, "the console", keys=keys))
        pages = stack.enter_context(_at_work(operator, config, studio))
        talks = {
            "/live": pages.converse,
            "/state": studio.stream,
            "/ui": studio.refuse_control,
        }
        ready(stack.enter_context(web_server(listener, gate, partial(page_file, studio), talks)))
        stopping.wait()


def _robot_address(config: ConsoleConfig, simulate: Sequence[str]) -> AbstractContextManager[str]:
    if config.connect is not None:
        return nullcontext(config.connect)

    def command_at(address: str) -> list[str]:
        command = [*simulate, "--address", address, "--seed", str(config.seed)]
        command += ["--recordings", str(config.recordings)]
        return [*command, *(["--robot", str(config.robot)] if config.robot else [])]

    return child_server(command_at, "simulation")


@contextmanager
def _at_work(operator: Operator, config: ConsoleConfig, studio: Studio) -> Iterator[Pages]:
    """The pages of a robot, told and shown what it does."""
    painter = Painter(VIEW_SIZE)
    robot = RobotSide(operator, lambda told: pages.see(told), config.robot)
    pages = Pages(robot, painter, studio)
    pages.film = Film(config.recordings, painter, pages.tell_film)
    robot.start()
    pages.start()
    try:
        yield pages
    finally:
        pages.close()
        robot.close()
        pages.film.close()
        painter.close()


def page_file(studio: Studio, path: str, query: Mapping[str, list[str]]) -> File | None:
    """The page's own files, and those of the scene's client."""
    if path not in _FILES:
        return studio.file(path, query)
    name, media_type = _FILES[path]
    return File((_STATIC / name).read_bytes(), media_type)
