"""The video of a run, drawn after it from recorded states, so that it never slows the robot."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import mujoco
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bridge.contract import ActionChunk, UserError
from bridge.files import write_bytes
from robots.g1.embodiment import CONTROL_HZ
from sim.render.camera import HeadCamera, ThirdPerson

VIEW_SIZE = (640, 480)
HEAD_SIZE = 480
CAPTION_HEIGHT = 48
FONT_SIZE = 20
# Every fourth control period: smooth enough, and software OpenGL draws few pictures a second.
EVERY = 4
# A clip is small enough to be handed around inside a page.
CLIP_SIZE = (320, 240)
CLIP_PICTURES = 60
QUALITIES = (75, 60, 45, 30, 15)


def write_video(
    path: Path | str, model: mujoco.MjModel, frames: Sequence[Frame], instruction: str
) -> None:
    """Writes an MP4: the robot's view beside a third-person view, over instruction and status.

    `model` is that of the world whose states the frames have. The file appears whole or not at all;
    raises UserError where it cannot be written.
    """
    write_film(path, _pictures(model, frames, instruction))


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


def write_animation(
    path: Path | str,
    model: mujoco.MjModel,
    frames: Sequence[Frame],
    instruction: str,
    most_bytes: int,
) -> None:
    """Writes what `write_video` shows as an animated WebP of half the size, for a web page.

    The best quality is taken that fits into `most_bytes`; raises UserError if none does.
    """
    width, height = (HEAD_SIZE + VIEW_SIZE[0]) // 2, (HEAD_SIZE + CAPTION_HEIGHT) // 2
    pictures = [
        np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))
        for picture in _pictures(model, frames, instruction)
    ]
    for quality in QUALITIES:
        content = _webp(pictures, EVERY / CONTROL_HZ, quality)
        if len(content) <= most_bytes:
            write_bytes(path, content)
            return
    raise UserError(f"{path} would be larger than {most_bytes} bytes: shorten the run")


def clip_frames(frames: Sequence[Frame]) -> list[Frame]:
    """The few frames of a run that a clip shows, evenly spread from its first to its last."""
    count = min(len(frames), CLIP_PICTURES)
    return [frames[i] for i in np.linspace(0, len(frames) - 1, count).round().astype(int)]


def draw_clip(model: mujoco.MjModel, frames: Sequence[Frame]) -> bytes:
    """An animated WebP of `clip_frames`, from outside, with time and status under it."""
    views = _drawn(model, ThirdPerson(model, CLIP_SIZE), [frame.qpos for frame in frames])
    pictures = [
        np.vstack([view, caption(_said(frame), f"{frame.time_s:.1f} s", CLIP_SIZE[0])])
        for frame, view in zip(frames, views, strict=True)
    ]
    length_s = frames[-1].time_s - frames[0].time_s
    return _webp(pictures, length_s / max(len(frames) - 1, 1), QUALITIES[1])


def _webp(pictures: Sequence[np.ndarray], seconds_each: float, quality: int) -> bytes:
    first, *rest = (Image.fromarray(picture) for picture in pictures)
    buffer = io.BytesIO()
    duration_ms = max(round(1000 * seconds_each), 1)
    options = {"save_all": True, "duration": duration_ms, "loop": 0, "quality": quality}
    first.save(buffer, "WEBP", append_images=rest, **options)
    return buffer.getvalue()


def _said(frame: Frame) -> str:
    return frame.chunk.status.name.lower() if frame.chunk else ""


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


def _pictures(
    model: mujoco.MjModel, frames: Sequence[Frame], instruction: str
) -> Iterator[np.ndarray]:
    """(HEAD_SIZE + CAPTION_HEIGHT, HEAD_SIZE + view width, 3) uint8, one for every EVERY frames."""
    shown = frames[::EVERY]
    # One camera after the other: they share an OpenGL context and the model's drawing options.
    poses = [frame.qpos for frame in shown]
    eyes = list(_drawn(model, HeadCamera(model), poses))
    views = _drawn(model, ThirdPerson(model, VIEW_SIZE), poses)
    for frame, seen, view in zip(shown, eyes, views, strict=True):
        yield shot(seen, view, instruction, f"{frame.time_s:5.1f} s   {_said(frame)}")


def write_film(path: Path | str, shots: Iterable[np.ndarray]) -> None:
    """Writes an MP4 of pictures made by `shot`, one for every EVERY control periods.

    The file appears whole or not at all; raises UserError where it cannot be written.
    """
    _encode(path, shots, (HEAD_SIZE + VIEW_SIZE[0], HEAD_SIZE + CAPTION_HEIGHT))


def shot(seen: np.ndarray, view: np.ndarray, told: str, status: str) -> np.ndarray:
    """The robot's own picture beside one of VIEW_SIZE from outside, over two texts."""
    large = Image.fromarray(seen).resize((HEAD_SIZE, HEAD_SIZE), Image.Resampling.NEAREST)
    return np.vstack([np.hstack([np.asarray(large), view]), caption(told, status)])


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


@dataclass(frozen=True)
class Frame:
    """One control period, for a recorder: the simulation's (nq,) state and the chunk in force,
    None before the first that could be played."""

    time_s: float
    qpos: np.ndarray
    chunk: ActionChunk | None
