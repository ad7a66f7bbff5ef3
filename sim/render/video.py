"""The video of a run, drawn after it from recorded states, so that it never slows the robot."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

import av
import mujoco
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bridge.contract import ActionChunk, UserError
from bridge.files import write_bytes
from robots.g1.embodiment import CONTROL_HZ
from sim.render.camera import VIEW_SIZE, HeadCamera, ThirdPerson

HEAD_SIZE = 480
CAPTION_HEIGHT = 48
FONT_SIZE = 20
_ROOM_STEP = 16
# Where letters are that Pillow's own font lacks; Japanese ones come with matplotlib-fontja.
_PACKAGED = {
    "matplotlib": "mpl-data/fonts/ttf/DejaVuSans.ttf",
    "matplotlib_fontja": "fonts/ipaexg.ttf",
}
_FONTS = ("DejaVuSans.ttf", "ipaexg.ttf", "NotoSansCJK-Regular.ttc")
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
        _titled(_drawn(model, ThirdPerson(model), poses[::EVERY]), name)
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
    views = _drawn(model, ThirdPerson(model), poses)
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
    margin, middle = CAPTION_HEIGHT // 3, CAPTION_HEIGHT // 2
    told, font = _drawable(right)
    # In steps, so that a clock that runs does not make the left anew.
    taken = -(-int(font.getlength(told)) // _ROOM_STEP) * _ROOM_STEP
    image = _left(" ".join(left.split()), width, width - 3 * margin - taken).copy()
    draw = ImageDraw.Draw(image)
    draw.text((width - margin, middle), told, (150, 200, 255), font, anchor="rm")
    return np.asarray(image)


@lru_cache(maxsize=8)
def _left(text: str, width: int, room: int) -> Image.Image:
    """A caption with its left text alone, shortened to `room`: it stays for a whole video."""
    image = Image.new("RGB", (width, CAPTION_HEIGHT), (24, 24, 28))
    text, font = _drawable(text)
    if font.getlength(text) > room:
        fits = bisect_right(
            range(len(text)), room, key=lambda n: font.getlength(text[: n + 1] + "...")
        )
        text = text[:fits] + "..."
    place = (CAPTION_HEIGHT // 3, CAPTION_HEIGHT // 2)
    ImageDraw.Draw(image).text(place, text, (240, 240, 240), font, anchor="lm")
    return image


@lru_cache(maxsize=256)
def _drawable(text: str) -> tuple[str, ImageFont.FreeTypeFont]:
    """A text with a font that has its characters; with "?" for those that none of ours has."""
    lacking = [(sum(_lacks(font, c) for c in set(text)), i) for i, font in enumerate(_fonts())]
    font = _fonts()[min(lacking)[1]]
    return "".join("?" if _lacks(font, c) else c for c in text), font


@lru_cache(maxsize=4096)
def _lacks(font: ImageFont.FreeTypeFont, character: str) -> bool:
    # What a font draws for U+FFFF, which is no character, it draws for all that it lacks.
    box, mask = (np.asarray(_drawn_alone(font, c)) for c in ("\uffff", character))
    return not character.isspace() and np.array_equal(box, mask)


def _drawn_alone(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    image = Image.new("L", (2 * FONT_SIZE, 2 * FONT_SIZE))
    ImageDraw.Draw(image).text((0, 0), character, 255, font)
    return image


@cache
def _fonts() -> tuple[ImageFont.FreeTypeFont, ...]:
    """Pillow's own font, then those of packages and of this machine that have more letters."""
    names: list[str] = [*_FONTS]
    for package, place in _PACKAGED.items():
        if (spec := find_spec(package)) and spec.origin:
            names.insert(0, str(Path(spec.origin).parent / place))
    found = [ImageFont.load_default(FONT_SIZE)]
    for name in names:
        with suppress(OSError):
            found.append(ImageFont.truetype(name, FONT_SIZE))
    return tuple(font for font in found if isinstance(font, ImageFont.FreeTypeFont))


@dataclass(frozen=True)
class Frame:
    """One control period, for a recorder: the simulation's (nq,) state and the chunk in force.

    `chunk` is None before the first that could be played.
    """

    time_s: float
    qpos: np.ndarray
    chunk: ActionChunk | None
