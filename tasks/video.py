"""The video of a run, drawn after it from recorded states, so that it never slows the robot."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    size = HEAD_SIZE + VIEW_SIZE[0], HEAD_SIZE + CAPTION_HEIGHT
    _encode(path, _pictures(world, frames, instruction), size)


def write_poses_video(
    path: Path | str, model: mujoco.MjModel, runs: Mapping[str, np.ndarray]
) -> None:
    """Writes an MP4 of runs side by side: (steps, nq) poses of `model` by what to write under.

    The file appears whole or not at all; raises UserError where it cannot be written.
    """
    views = [
        _titled(_drawn(model, ThirdPerson(model, VIEW_SIZE), poses[::EVERY]), name)
        for name, poses in runs.items()
    ]
    pictures = (np.hstack(pictures) for pictures in zip(*map(list, views), strict=True))
    _encode(path, pictures, (len(runs) * VIEW_SIZE[0], VIEW_SIZE[1] + CAPTION_HEIGHT))


def _titled(pictures: Iterator[np.ndarray], name: str) -> Iterator[np.ndarray]:
    for i, picture in enumerate(pictures):
        time_s = i * EVERY / CONTROL_HZ
        yield np.vstack([picture, caption(name, f"{time_s:5.1f} s", VIEW_SIZE[0])])


def _encode(path: Path | str, pictures: Iterable[np.ndarray], size: tuple[int, int]) -> None:
    """Writes an MP4 of (height, width, 3) uint8 pictures, whole or not at all."""
    rate = Fraction(round(CONTROL_HZ), EVERY)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "23", "preset": "veryfast"}
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    write_bytes(path, buffer.getvalue())


def _pictures(world: World, frames: Sequence[Frame], instruction: str) -> Iterator[np.ndarray]:
    """(HEAD_SIZE + CAPTION_HEIGHT, HEAD_SIZE + view width, 3) uint8, one for every EVERY frames."""
    shown = frames[::EVERY]
    # One camera after the other: they share an OpenGL context and the model's drawing options.
    world.close()
    poses = [frame.qpos for frame in shown]
    eyes = list(_drawn(world.model, HeadCamera(world.model), poses))
    views = _drawn(world.model, ThirdPerson(world.model, VIEW_SIZE), poses)
    for frame, seen, view in zip(shown, eyes, views, strict=True):
        large = Image.fromarray(seen).resize((HEAD_SIZE, HEAD_SIZE), Image.Resampling.NEAREST)
        said = frame.chunk.status.name.lower() if frame.chunk else ""
        status = f"{frame.time_s:5.1f} s   {said}"
        yield np.vstack([np.hstack([np.asarray(large), view]), caption(instruction, status)])


def _drawn(
    model: mujoco.MjModel, camera: HeadCamera | ThirdPerson, poses: Iterable[np.ndarray]
) -> Iterator[np.ndarray]:
    data = mujoco.MjData(model)
    try:
        for qpos in poses:
            data.qpos[:] = qpos
            mujoco.mj_kinematics(model, data)
            mujoco.mj_camlight(model, data)
            yield camera.draw(data)
    finally:
        camera.close()


def caption(left: str, right: str, width: int = HEAD_SIZE + VIEW_SIZE[0]) -> np.ndarray:
    """(CAPTION_HEIGHT, width, 3) uint8: one text to the left, another to the right."""
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
