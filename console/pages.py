"""The pages of the console: one commands, the others watch, and none can hold anything up.

Messages to a page are JSON texts with a `kind`; pictures are binary, with their kind in the first
byte. What a slow page has not taken is replaced by what is newer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import msgspec
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection

from bridge.contract import UserError
from bridge.operator.messages import Telemetry
from bridge.wire.messages import WireError
from console.film import Film
from console.robot import RobotSide
from console.scene import Painter, Stage, jpeg
from console.studio import Studio

NEWS_S = 0.1
VIEW_S = 0.08
_EYE, _VIEW = b"\x01", b"\x02"
_MOST_ORDERS = 8
_MOST_ANSWERS = 32


# As exact as JavaScript counts.
_Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]


def _tag(name: str) -> str:
    return name.removeprefix("Page").lower()


class PageOrder(msgspec.Struct, frozen=True, tag_field="do", tag=_tag):
    """What a page asks, with a number that its answer repeats."""

    number: _Number


class PageStop(PageOrder, frozen=True):
    """A safe stand, at once; for every page."""


class PageLook(PageOrder, frozen=True):
    """Whether the page wants pictures of the scene, or draws it itself."""

    picture: bool


class PageTake(PageOrder, frozen=True):
    """The page wants to command, or not any more."""

    command: bool


class PageMoving(PageOrder, frozen=True):
    """What may let the robot move; `stops` is the number of the last stop that the page has shown.

    So what was asked before a stop does not undo it, however long it was on its way.
    """

    stops: _Number


class PageInstruct(PageMoving, frozen=True):
    """Begins another instruction."""

    text: str


class PageRelease(PageMoving, frozen=True):
    """Ends a safe stand."""


class PagePause(PageOrder, frozen=True):
    """Lets the robot hold where it is."""


class PageResume(PageMoving, frozen=True):
    """Goes on after a pause of the same page."""


class PageScene(PageMoving, frozen=True):
    """Puts a simulated robot into the scene of a seed."""

    seed: int


class PageRecord(PageOrder, frozen=True):
    """Begins a recording, or ends it."""

    on: bool


AnyPageOrder = (
    PageStop
    | PageLook
    | PageTake
    | PageInstruct
    | PageRelease
    | PagePause
    | PageResume
    | PageScene
    | PageRecord
)
_log = logging.getLogger(__name__)
_ORDERS = msgspec.json.Decoder(AnyPageOrder)
_encode = msgspec.json.Encoder().encode


class _Page:
    """One connection to a browser, and what it has yet to get."""

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection
        self.wants_view = False
        self.orders = threading.BoundedSemaphore(_MOST_ORDERS)
        self._slots: dict[str, str | bytes] = {}
        self._answers: list[str] = []
        self._news = threading.Condition()
        self._gone = False

    def put(self, kind: str, content: str | bytes) -> None:
        """Replaces what the page has not got yet of a kind."""
        with self._news:
            self._slots[kind] = content
            self._news.notify()

    def answer(self, number: int, fault: str) -> None:
        """Tells what came of an order; `fault` is a line for its user, or nothing."""
        with self._news:
            self._answers.append(_json("answer", number=number, fault=fault))
            del self._answers[:-_MOST_ANSWERS]
            self._news.notify()

    def leave(self) -> None:
        with self._news:
            self._gone = True
            self._news.notify()

    def send_all(self) -> None:
        """Sends until the page is gone."""
        try:
            while not self._gone:
                with self._news:
                    self._news.wait_for(lambda: self._slots or self._answers or self._gone)
                    batch = [*self._answers, *self._slots.values()]
                    self._answers, self._slots = [], {}
                for content in batch:
                    self.connection.send(content)
        except (ConnectionClosed, OSError):
            return


class Pages:
    """All pages, and what they are told and shown."""

    def __init__(self, robot: RobotSide, painter: Painter, studio: Studio) -> None:
        self.film: Film | None = None
        self._robot, self._painter, self._studio = robot, painter, studio
        self._pages: list[_Page] = []
        self._commander: _Page | None = None
        self._pauser: _Page | None = None
        self._lock = threading.Lock()
        self._film_line = ""
        self._stage: Stage | None = None
        self._scene = ""
        self._eye = b""
        self._ended = threading.Event()
        self._worker = ThreadPoolExecutor(1, "orders")
        self._stops = 0
        self._threads = [
            threading.Thread(target=self._repeat, args=(act, every_s), name=name, daemon=True)
            for act, every_s, name in (
                (self._tell_moment, NEWS_S, "news"),
                (self._show_view, VIEW_S, "view"),
            )
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Ends all threads; pages are closed by the server."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._worker.shutdown(cancel_futures=True)
        for page in self._all():
            page.leave()

    def see(self, told: Telemetry) -> None:
        """A new moment of the robot."""
        if told.image is not None:
            self._eye = _EYE + told.image
            self._put_all("eye", self._eye)
        if self.film is not None and self.film.recording:
            self.film.add(told, self._robot.stage)
        if self._studio.watched:
            self._studio.see(told, self._robot.stage)

    def tell_film(self, line: str) -> None:
        """Something about a recording."""
        self._film_line = line
        self._put_all("film", self._film_news())

    # --- one page ---

    def converse(self, connection: ServerConnection) -> None:
        """A page, from its first message to its last."""
        page = _Page(connection)
        sender = threading.Thread(target=page.send_all, name="page", daemon=True)
        with self._lock:
            self._pages.append(page)
            self._commander = self._commander or page
        self._tell_roles()
        for kind, content in (("scene", self._scene), ("eye", self._eye)):
            if content:
                page.put(kind, content)
        page.put("film", self._film_news())
        sender.start()
        try:
            for message in connection:
                self._obey(page, message)
        finally:
            with self._lock:
                self._pages.remove(page)
                self._commander = None if self._commander is page else self._commander
            page.leave()
            self._tell_roles()

    def _obey(self, page: _Page, message: str | bytes) -> None:
        try:
            order = _ORDERS.decode(message)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            page.answer(-1, "not understood")
            return
        if isinstance(order, PageStop):
            self._stops += 1
            page.answer(order.number, self._robot.stop())
        elif isinstance(order, PageLook):
            page.wants_view = order.picture
            page.answer(order.number, "")
        elif isinstance(order, PageTake):
            page.answer(order.number, self._take(page, order.command))
        elif page is not self._commander:
            page.answer(order.number, "this page watches: another one commands")
        elif not page.orders.acquire(blocking=False):
            page.answer(order.number, "too many orders at once: wait for the first")
        else:
            self._worker.submit(self._carry_out, page, order, self._stops)

    def _carry_out(self, page: _Page, order: AnyPageOrder, stops: int) -> None:
        """Carries an order out, unless it moves the robot and waited while `stops` went up."""
        try:
            if stops != self._stops and not isinstance(order, PageRecord):
                fault = "the robot has been stopped since: look, then ask again"
            else:
                fault = self._fault_of(page, order)
        except UserError as error:
            fault = str(error)
        except Exception:
            _log.exception("an order failed")
            fault = "the console failed: what it printed tells why"
        finally:
            page.orders.release()
        page.answer(order.number, fault)

    def _fault_of(self, page: _Page, order: AnyPageOrder) -> str:
        """Carries an order out; returns why it could not be, or nothing."""
        command = self._robot.command
        match order:
            case PageInstruct(text=text, stops=stops):
                return command(lambda operator: operator.instruct(text, stops))
            case PageRelease(stops=stops):
                return command(lambda operator: operator.release(stops))
            case PagePause():
                self._pauser = page
                return command(lambda operator: operator.pause())
            case PageResume() if page is not self._pauser:
                return "another page paused the robot: tell it what to do"
            case PageResume(stops=stops):
                return command(lambda operator: operator.resume(stops))
            case PageScene(seed=seed, stops=stops):
                return command(lambda operator: operator.new_scene(seed, stops))
            case PageRecord(on=on):
                assert self.film is not None
                (self.film.begin if on else self.film.end)()
        return ""

    def _take(self, page: _Page, command: bool) -> str:
        with self._lock:
            if command and self._commander not in (None, page):
                return "another page commands: close it, or let it give command away"
            if command:
                self._commander = page
            elif self._commander is page:
                self._commander = None
        self._tell_roles()
        return ""

    # --- all pages ---

    def _all(self) -> list[_Page]:
        with self._lock:
            return list(self._pages)

    def _put_all(self, kind: str, content: str | bytes) -> None:
        for page in self._all():
            page.put(kind, content)

    def _tell_roles(self) -> None:
        with self._lock:  # or an older role could replace a newer one
            commander, pages = self._commander, self._pages
            others = f"; {len(pages) - 1} more open" if len(pages) > 1 else ""
            for page in pages:
                if page is commander:
                    line = f"this page commands{others}"
                elif commander is None:
                    line = "nobody commands: take command to do so"
                else:
                    line = "this page watches: another one commands"
                role = {"commands": page is commander, "may_take": commander is None, "line": line}
                page.put("role", _json("role", pages=len(pages), **role))

    def _tell_moment(self) -> None:
        if self._robot.newest is not None and self._robot.stage is not self._stage:
            self._stage = self._robot.stage
            self._scene = _scene_news(self._stage)
            self._put_all("scene", self._scene)
        self._put_all("moment", _json("moment", **self._robot.moment()))

    def _show_view(self) -> None:
        told, pages = self._robot.newest, [page for page in self._all() if page.wants_view]
        if not pages or told is None or self._stage is None:
            return
        qpos = self._stage.qpos(told)
        if qpos is not None:
            content = _VIEW + jpeg(self._painter.draw(self._stage, qpos).result())
            for page in pages:
                page.put("view", content)

    def _film_news(self) -> str:
        recording = self.film is not None and self.film.recording
        return _json("film", line=self._film_line, recording=recording)

    def _repeat(self, act: Callable[[], None], every_s: float) -> None:
        while not self._ended.is_set():
            began_s = time.monotonic()
            try:
                act()
            except (UserError, WireError) as error:  # no OpenGL: all the rest goes on
                self._film_line = str(error)
                self._put_all("film", self._film_news())
                self._ended.wait(1.0)
            except Exception:
                _log.exception("the pages could not be told")
                self._ended.wait(1.0)
            self._ended.wait(max(every_s - (time.monotonic() - began_s), every_s / 4))


def _scene_news(stage: Stage) -> str:
    objects = [f"{thing.colour} {thing.shape}" for thing in stage.scene.objects]
    return _json("scene", seed=stage.seed, objects=objects, suggestions=stage.suggestions())


def _json(kind: str, **content: Any) -> str:
    return _encode({"kind": kind, **content}).decode()
