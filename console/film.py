"""Recordings of the console: a video with captions, drawn afterwards, and a file for rerun."""

from __future__ import annotations

import datetime
import importlib.util
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bridge.contract import UserError
from bridge.control.safety import Level
from bridge.operator.messages import Telemetry
from bridge.png import decode_png
from console.scene import Painter, Stage, level_name, status_name
from robots.g1.embodiment import COMMAND_FIELDS, CONTROL_HZ, G1, IMAGE_SIZE
from sim.render.video import EVERY, shot, write_film

STEP_S = EVERY / CONTROL_HZ
MOST_S = 600.0
# A longer silence of the robot is left out.
_GAP_S = 1.0


@dataclass(frozen=True)
class _Moment:
    """What one picture of a film needs; `seen` is a PNG, empty before the camera's first."""

    told: Telemetry
    stage: Stage
    qpos: np.ndarray
    seen: bytes


class Film:
    """Records what the robot does, until told to end; a thread then writes it under `folder`.

    `tell` is called with a line for people, from any thread.
    """

    def __init__(self, folder: Path, painter: Painter, tell: Callable[[str], None]) -> None:
        self._folder, self._painter, self._tell = folder, painter, tell
        self._moments: list[_Moment] | None = None
        self._seen = b""
        self._due_s = 0.0
        self._lock = threading.Lock()
        self._writer: threading.Thread | None = None

    @property
    def recording(self) -> bool:
        return self._moments is not None

    def begin(self) -> None:
        """Starts a recording, unless one goes on; UserError while the last is being written."""
        with self._lock:
            if self._writer is not None and self._writer.is_alive():
                raise UserError("the last recording is still being written: wait for its line")
            if self._moments is None:
                self._moments, self._due_s = [], float("-inf")
        self._tell("recording")

    def add(self, told: Telemetry, stage: Stage) -> None:
        """Keeps a moment, if its turn has come."""
        if told.image is not None:
            self._seen = told.image
        if not np.isfinite(told.time_s):
            return
        with self._lock:
            moments = self._moments
            if moments is None or (qpos := stage.qpos(told)) is None:
                return
            if abs(told.time_s - self._due_s) > _GAP_S:
                self._due_s = told.time_s
            while self._due_s <= told.time_s:
                moments.append(_Moment(told, stage, qpos.copy(), self._seen))
                self._due_s += STEP_S
            full = len(moments) >= MOST_S / STEP_S
        if full:
            self.end()

    def end(self) -> None:
        """Ends the recording, if one goes on, and begins to write it."""
        with self._lock:
            moments, self._moments = self._moments, None
            if moments is None:
                return
            if moments:
                self._writer = threading.Thread(target=self._write, args=(moments,), name="film")
                self._writer.start()
                return
        self._tell("nothing was recorded: the robot was not seen")

    def close(self) -> None:
        """Ends and waits until all is written."""
        self.end()
        if self._writer is not None:
            self._writer.join()

    def _write(self, moments: list[_Moment]) -> None:
        stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        path = self._folder / f"console-{stamp}.mp4"
        self._tell(f"writing {path} ({len(moments) * STEP_S:.0f} s)")
        try:
            write_film(path, self._shots(moments))
            written = [path, *_write_rerun(path.with_suffix(".rrd"), moments)]
        except (UserError, OSError) as error:
            self._tell(f"the recording is lost: {error}")
            return
        self._tell(f"recorded {' and '.join(map(str, written))}")

    def _shots(self, moments: list[_Moment]) -> Iterator[np.ndarray]:
        black = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
        for moment in moments:
            view = self._painter.draw(moment.stage, moment.qpos).result()
            seen = decode_png(moment.seen) if moment.seen else black
            told = moment.told
            yield shot(seen, view, told.instruction, f"{told.time_s:5.1f} s   {_state(told)}")


def _state(told: Telemetry) -> str:
    """Level and status in a few letters."""
    status = status_name(told)
    return status if told.level == Level.RUN else f"{level_name(told)} {status}".strip()


def _write_rerun(path: Path, moments: list[_Moment]) -> list[Path]:
    """Writes a file for the viewer of rerun, where `rerun-sdk` is installed."""
    if importlib.util.find_spec("rerun") is None:
        return []
    import rerun  # pyright: ignore[reportMissingImports]

    path.parent.mkdir(parents=True, exist_ok=True)
    with rerun.RecordingStream("hitogata") as stream:
        stream.save(path)
        instruction = None
        for moment in moments:
            _log(rerun, stream, moment, instruction != moment.told.instruction)
            instruction = moment.told.instruction
        stream.flush()
        stream.disconnect()
    return [path]


def _log(rerun: Any, stream: Any, moment: _Moment, begins: bool) -> None:
    told = moment.told
    stream.set_time("robot", duration=told.time_s)
    if moment.seen:
        stream.log("camera", rerun.EncodedImage(contents=moment.seen, media_type="image/png"))
    stream.log("level", rerun.Scalars(told.level))
    if told.policy_latency_ms is not None:
        stream.log("policy_latency_ms", rerun.Scalars(told.policy_latency_ms))
    command = told.command_vector(G1)
    for name, value in zip(COMMAND_FIELDS, [] if command is None else command, strict=False):
        stream.log(f"command/{name}", rerun.Scalars(float(value)))
    if begins:
        stream.log("instruction", rerun.TextLog(told.instruction or told.cause))
    model, things = moment.stage.model, moment.stage.scene.objects
    bodies = ["pelvis", *(f"object_{i}" for i in range(len(things)))]
    places = [model.jnt_qposadr[model.body(name).jntadr[0]] for name in bodies]
    names = ["robot", *(f"{thing.colour} {thing.shape}" for thing in things)]
    colours = [(0.5, 0.5, 0.5), *(thing.rgb for thing in things)]
    points = [moment.qpos[at : at + 3] for at in places]
    stream.log("scene", rerun.Points3D(points, colors=colours, labels=names, radii=0.12))
