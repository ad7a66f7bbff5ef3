"""The video of a run, drawn after it from recorded states, so that it never slows the robot."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import mujoco
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bridge.contract import CONTROL_HZ
from bridge.files import write_bytes
from sim.camera import HeadCamera, ThirdPerson
from sim.world import World
from tasks.episode import Frame

VIEW_SIZE = (640, 480)
HEAD_SIZE = 480
CAPTION_HEIGHT = 48
FONT_SIZE = 20
# Every fourth control period: smooth enough, and software OpenGL draws few pictures a second.
EVERY = 4


def write_video(path: Path | str, world: World, frames: Sequence[Frame], instruction: str) -> None:
    """Writes an MP4: the robot's view beside a third-person view, over instruction and status.

    The file appears whole or not at all; raises UserError where it cannot be written.
    """
    rate = Fraction(round(CONTROL_HZ), EVERY)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height = HEAD_SIZE + VIEW_SIZE[0], HEAD_SIZE + CAPTION_HEIGHT
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "23", "preset": "veryfast"}
        for picture in _pictures(world, frames, instruction):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    write_bytes(path, buffer.getvalue())


def _pictures(world: World, frames: Sequence[Frame], instruction: str) -> Iterator[np.ndarray]:
    """(HEAD_SIZE + CAPTION_HEIGHT, HEAD_SIZE + view width, 3) uint8, one for every EVERY frames."""
    shown = frames[::EVERY]
    # One camera after the other: they share an OpenGL context and the model's drawing options.
    world.close()
    eyes = list(_drawn(world.model, HeadCamera(world.model), shown))
    views = _drawn(world.model, ThirdPerson(world.model, VIEW_SIZE), shown)
    for frame, seen, view in zip(shown, eyes, views, strict=True):
        large = Image.fromarray(seen).resize((HEAD_SIZE, HEAD_SIZE), Image.Resampling.NEAREST)
        status = f"{frame.time_s:5.1f} s   {frame.chunk.status.name.lower()}"
        yield np.vstack([np.hstack([np.asarray(large), view]), caption(instruction, status)])


def _drawn(
    model: mujoco.MjModel, camera: HeadCamera | ThirdPerson, frames: Sequence[Frame]
) -> Iterator[np.ndarray]:
    data = mujoco.MjData(model)
    try:
        for frame in frames:
            data.qpos[:] = frame.qpos
            mujoco.mj_kinematics(model, data)
            mujoco.mj_camlight(model, data)
            yield camera.draw(data)
    finally:
        camera.close()


def caption(left: str, right: str) -> np.ndarray:
    """(CAPTION_HEIGHT, whole width, 3) uint8: one text to the left, another to the right."""
    width = HEAD_SIZE + VIEW_SIZE[0]
    image = Image.new("RGB", (width, CAPTION_HEIGHT), (24, 24, 28))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(FONT_SIZE)
    margin, middle = CAPTION_HEIGHT // 3, CAPTION_HEIGHT // 2
    room = width - 3 * margin - draw.textlength(right, font=font)
    text = " ".join(left.split())
    if draw.textlength(text, font=font) > room:
        while text and draw.textlength(text + "...", font=font) > room:
            text = text[:-1]
        text += "..."
    draw.text((margin, middle), text, (240, 240, 240), font, anchor="lm")
    draw.text((width - margin, middle), right, (150, 200, 255), font, anchor="rm")
    return np.asarray(image)
