"""The scene drawn by the browser: MuJoCo's own web client, fed with a robot's telemetry.

The client is the one inside the mujoco package, as a page at /studio/. It gets the model from
/model and states from /state, and may turn its camera. Its other connections, by which a page could
control the viewer or load another model, lead nowhere here.
"""

from __future__ import annotations

import gzip
import re
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import mujoco
import numpy as np
from mujoco.studio.web import state_payload
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection

from bridge.operator.messages import Telemetry
from console.scene import Stage
from console.web import POLICY, File

STATE_S = 1 / 30
_NUMBER = re.compile("[0-9]{1,12}")
_STUDIO = Path(mujoco.__file__).parent / "studio"
_CLIENT, _ASSETS = _STUDIO / "web" / "dist", _STUDIO / "assets"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".wasm": "application/wasm",
}
# For links slower than this machine; higher levels take four times as long, for a tenth.
_GZIP_LEVEL = 1
_CONTROLLER_TAKEN = 4001
_ROSTER = "viewers=1;role=spectator;queue_pos=0;queue_len=0;max_spectators=32"
_ACKNOWLEDGED = "state_ack"
_MOST_IN_FLIGHT = 4
_STATES = int(mujoco.mjtState.mjSTATE_INTEGRATION)
_LOOK_M, _AZIMUTH_DEG, _ELEVATION_DEG = 3.5, 150.0, -22.0
# The client's page has its script inside, writes more of it as it runs, and starts workers.
_POLICY = POLICY.replace(
    "default-src 'self';",
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:;"
    " style-src 'self' 'unsafe-inline'; worker-src 'self' blob:;",
)
_KEYS = b'<script src="/console_frame.js"></script></head>'
_MODEL_WAIT_S = 5.0


@dataclass(frozen=True)
class _Shown:
    """A stage as browsers get it: the model's bytes and their checksum, its name."""

    stage: Stage
    model: bytes
    crc32: int


class Studio:
    """Feeds every browser that draws the scene; one that is slow gets fewer states."""

    def __init__(self) -> None:
        self._shown: _Shown | None = None
        self._payload = b""
        self._count = 0
        self._viewers = 0
        self._due_s = 0.0
        self._news = threading.Condition()
        self._reading = threading.Lock()
        self._camera, self._option = mujoco.MjvCamera(), mujoco.MjvOption()
        self._camera.distance = _LOOK_M
        self._camera.azimuth, self._camera.elevation = _AZIMUTH_DEG, _ELEVATION_DEG

    @property
    def watched(self) -> bool:
        return self._viewers > 0

    def see(self, told: Telemetry, stage: Stage) -> None:
        """A new moment; for one thread. Does nothing while no browser draws."""
        now_s = time.monotonic()
        if now_s < self._due_s or (qpos := stage.qpos(told)) is None:
            return
        self._due_s = now_s + STATE_S
        if self._shown is None or self._shown.stage is not stage:
            model = state_payload.serialize_model_bundle(stage.model)
            self._shown = _Shown(stage, model, zlib.crc32(model))
        payload = self._packed(self._shown, qpos)
        with self._news:
            self._payload, self._count = payload, self._count + 1
            self._news.notify_all()

    def _packed(self, shown: _Shown, qpos: np.ndarray) -> bytes:
        model, data = shown.stage.model, shown.stage.data
        data.qpos[:] = qpos
        state = np.empty(mujoco.mj_stateSize(model, _STATES), np.float64)
        mujoco.mj_getState(model, data, state, _STATES)
        self._camera.lookat[:] = [*qpos[:2], 0.6]
        flags = [0] * int(mujoco.mjtRndFlag.mjNRNDFLAG)
        flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 1
        return state_payload.serialize_state_payload(
            shown.crc32,
            _STATES,
            state.tobytes(),
            self._camera,
            mujoco.MjvPerturb(),
            self._option,
            model,
            flags,
            [],
            state_payload.ViewerInputState(mouse_focus=True, keyboard_focus=True),
        )

    # --- what browsers ask ---

    def file(self, path: str, query: Mapping[str, list[str]]) -> File | None:
        """The client's files, and the model."""
        if path == "/model":
            return self._model(query)
        name = path.removeprefix("/studio/") or "index.html"
        if not path.startswith("/studio/"):
            return None
        folder, name = (_ASSETS, name[7:]) if name.startswith("assets/") else (_CLIENT, name)
        file = folder / name
        if file.parent != folder or not file.is_file():
            return None
        with self._reading:  # or two browsers would have the same compressed at once
            return _client_file(file)

    def _model(self, query: Mapping[str, list[str]]) -> File | None:
        """The model's bytes, a part of them, or how many there are."""
        # The client asks for the model before it watches, and only a few times.
        with self._watching(), self._news:
            self._news.wait_for(lambda: self._shown is not None, _MODEL_WAIT_S)
            shown = self._shown
        if shown is None or query.get("crc32", [str(shown.crc32)])[0] != str(shown.crc32):
            return None
        if "total_bytes" in query:
            return File(b'{"total_bytes": %d}' % len(shown.model), "application/json")
        start, size = (
            int(text) if _NUMBER.fullmatch(text := query.get(name, [""])[0]) else other
            for name, other in (("offset_bytes", 0), ("size_bytes", len(shown.model)))
        )
        return File(shown.model[start : start + size], "application/octet-stream")

    def refuse_control(self, connection: ServerConnection) -> None:
        """The client's wish to control the viewer: it becomes a spectator."""
        connection.close(_CONTROLLER_TAKEN, "the console has its own controls")

    def stream(self, connection: ServerConnection) -> None:
        """States for one browser, the newest whenever it has taken enough of the last."""
        flight = _Flight()
        sender = threading.Thread(target=self._send, args=(connection, flight), daemon=True)
        with self._watching():
            sender.start()
            try:
                for message in connection:
                    if message == _ACKNOWLEDGED:
                        with self._news:
                            flight.states = max(flight.states - 1, 0)
                            self._news.notify_all()
            finally:
                with self._news:
                    flight.over = True
                    self._news.notify_all()

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Meanwhile states are made."""
        with self._news:
            self._viewers += 1
        try:
            yield
        finally:
            with self._news:
                self._viewers -= 1

    def _send(self, connection: ServerConnection, flight: _Flight) -> None:
        sent = 0
        try:
            connection.send(_ROSTER)
            while True:
                with self._news:
                    self._news.wait_for(lambda last=sent: flight.over or self._ready(flight, last))
                    if flight.over:
                        return
                    payload, sent = self._payload, self._count
                    flight.states += 1
                connection.send(payload)
        except (ConnectionClosed, OSError):
            return

    def _ready(self, flight: _Flight, sent: int) -> bool:
        return self._count > sent and flight.states < _MOST_IN_FLIGHT


@lru_cache(maxsize=64)
def _client_file(file: Path) -> File:
    """A file of the client, read and compressed once."""
    content = file.read_bytes()
    if file.name == "index.html":
        content = content.replace(b"</head>", _KEYS, 1)
    media_type = _TYPES.get(file.suffix, "application/octet-stream")
    return File(content, media_type, _POLICY, gzip.compress(content, _GZIP_LEVEL))


@dataclass
class _Flight:
    """States on their way to one browser."""

    states: int = 0
    over: bool = False
