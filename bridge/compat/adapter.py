"""What the compatibility servers share: a `Policy` for clients that know little of our robot.

A client must send an instruction, the 29 joint positions and a picture. Of the rest of an
`Observation` it sends what it has; what is missing is that of a robot that stands: velocities 0,
gravity straight down, the command to stand with the arms where they are, odometry 0. Time counts
from the client's last change of instruction. How far the robot went is thus known to the policy
only from clients that send odometry.

Pictures are square uint8 RGB with our head camera's view, 80 degrees across; larger ones are
averaged down to our size. One that is not square is refused: only the client knows how to crop it.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np

from bridge.contract import (
    ARMS,
    COMMAND_DIM,
    IMAGE_SIZE,
    N_ARM_JOINTS,
    N_JOINTS,
    STAND_COMMAND,
    ActionChunk,
    Observation,
    Policy,
    UserError,
    check_instruction,
)
from bridge.wire import messages
from bridge.wire.messages import WireError

MAX_MESSAGE_BYTES = 4 << 20
MAX_IMAGE_SIZE = 1024
# What an observation holds beside joint positions and picture, with its width, in our order.
OPTIONAL_PARTS = {
    "joint_vel": N_JOINTS,
    "base_ang_vel": 3,
    "gravity": 3,
    "command": COMMAND_DIM,
    "elapsed_s": 1,
    "odometry": 3,
}
_MAX_AXES = 5
LEAST_TOKEN = 16
_DTYPES = ("uint8", "float32", "float64")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Door:
    """Where a compatibility server listens, and to whom it answers.

    `address` is scheme://host:port, with port 0 for any that is free; without one the wire's own
    is taken. `exposed` lets it be reached from other machines, by those who know the token; nothing
    is encrypted then. `token` is what clients must present.
    """

    address: str | None = None
    exposed: bool = False
    token: str | None = None

    def place(self, default: str) -> tuple[str, int]:
        """Host and port; UserError unless the address is like `default` and may be listened at."""
        address = default if self.address is None else self.address
        try:
            parts = urlsplit(address)
            host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname or ""
            port, local = parts.port, ipaddress.ip_address(host).is_loopback
        except ValueError:
            raise UserError(f"{address} is no address: use {default}") from None
        if parts.scheme != urlsplit(default).scheme or port is None or parts.path:
            raise UserError(f"{address} is no address: use {default}")
        if not (local or self.exposed):
            raise UserError(
                f"{address} can be reached from other machines, and nothing on this wire is"
                f" encrypted: use {default}, or add --exposed and --token-file FILE"
            )
        if not local and len(self.token or "") < LEAST_TOKEN:
            raise UserError(
                f"whoever reaches {address} would be answered: with --exposed also give"
                f" --token-file FILE with a token of at least {LEAST_TOKEN} characters, such as"
                f" {secrets.token_urlsafe(LEAST_TOKEN)}"
            )
        return host, port

    def admits(self, token: str | None) -> bool:
        """Whether a client that presents `token` is answered."""
        return self.token is None or secrets.compare_digest(
            (token or "").encode(), self.token.encode()
        )


def read_token(path: Path) -> str:
    """The token in a file, a single line of it; UserError when there is none."""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the token in {path} ({error}): write it there") from error
    if not token.isprintable() or not token:
        raise UserError(f"{path} holds no token: write one line of text there")
    return token


class ForeignClient:
    """One client of a policy; remembers since when the client has asked for the same."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._instruction = ""
        self._began_s = 0.0

    def observe(
        self, instruction: str, parts: Mapping[str, np.ndarray], image: np.ndarray
    ) -> Observation:
        """What the client knows (`joint_pos`, any of OPTIONAL_PARTS, a picture), completed."""
        now = time.monotonic()
        if instruction != self._instruction:
            self._instruction, self._began_s = instruction, now
        joint_pos = parts["joint_pos"]
        command = np.concatenate([STAND_COMMAND[: ARMS.start], joint_pos[-N_ARM_JOINTS:]])
        assumed = {name: np.zeros(width) for name, width in OPTIONAL_PARTS.items()} | {
            "gravity": np.array([0, 0, -1]),
            "command": command,
            "elapsed_s": np.array([now - self._began_s]),
        }
        rest = (parts.get(name, assumed[name]) for name in OPTIONAL_PARTS)
        state = np.concatenate([joint_pos, *rest]).astype(np.float32)
        return Observation.from_state(now, state, image)

    def ask(self, instruction: str, observation: Observation) -> ActionChunk:
        """The policy's answer; WireError when it breaks the contract."""
        chunk = self._policy.act(check_instruction(instruction), observation)
        messages.pack_chunk("", 0, chunk)  # checks it as our own wire does
        return chunk

    def reset(self) -> None:
        """The policy forgets what came before, and time begins anew."""
        self._instruction = ""
        self._policy.reset()


def unpacked(content: bytes | msgspec.Raw, kind: Any) -> Any:
    """A message of msgpack as the type `kind`, or WireError."""
    try:
        return msgspec.msgpack.decode(content, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise WireError(f"unreadable message: {error}") from error


def array_of(name: str, content: bytes, dtype: np.dtype, shape: Sequence[int]) -> np.ndarray:
    """A read-only array over `content`, or WireError when the three do not fit together."""
    if dtype.name not in _DTYPES:
        raise WireError(f"{name}: {dtype.name} arrays do not travel, send {' or '.join(_DTYPES)}")
    fits = len(shape) <= _MAX_AXES and min(shape, default=1) > 0
    if not fits or math.prod(shape) * dtype.itemsize != len(content):
        raise WireError(f"{name}: {dtype.name} {tuple(shape)} declared, {len(content)} bytes sent")
    return np.frombuffer(content, dtype).reshape(shape)


def numbers(name: str, array: np.ndarray, *widths: int) -> np.ndarray:
    """A vector of one of the widths as float32; axes of length one before it are dropped."""
    width = array.shape[-1] if array.ndim else 0
    if array.dtype.kind != "f" or width not in widths or array.size != width:
        wanted = " or ".join(f"({width},)" for width in widths)
        raise WireError(f"{name} is {array.dtype} {array.shape}: send float32 {wanted}")
    with np.errstate(over="ignore"):
        vector = array.reshape(width).astype(np.float32)
    if not np.isfinite(vector).all():
        raise WireError(f"{name} holds values that are not finite: check the robot's sensors")
    return vector


def picture(name: str, array: np.ndarray) -> np.ndarray:
    """A square picture in our size; axes of length one before it are dropped."""
    size = array.shape[-2] if array.ndim >= 3 else 0
    fits = IMAGE_SIZE <= size <= MAX_IMAGE_SIZE and array.shape[-3:] == (size, size, 3)
    if not fits or array.dtype != np.uint8 or array.size != 3 * size**2:
        raise WireError(
            f"{name} is {array.dtype} {array.shape}: send one uint8 picture of"
            f" ({IMAGE_SIZE}, {IMAGE_SIZE}, 3), or a larger square up to {MAX_IMAGE_SIZE}"
        )
    image = array.reshape(size, size, 3)
    if size == IMAGE_SIZE:
        return image
    # How much of each of their pixels, across one axis, lies in each of ours.
    edges = np.arange(size + 1) * IMAGE_SIZE / size
    ours = np.arange(IMAGE_SIZE)[:, None]
    overlap = np.minimum(edges[1:], ours + 1) - np.maximum(edges[:-1], ours)
    shares = overlap.clip(min=0).astype(np.float32)
    return np.rint(np.einsum("is,stc,jt->ijc", shares, image, shares, optimize=True)).astype(
        np.uint8
    )


def fault_line(error: Exception) -> str:
    """One line for the client; of a fault of ours its kind alone, the trace goes to the log."""
    if isinstance(error, (UserError, WireError)):
        return messages.one_line(str(error))
    _log.error("the policy failed", exc_info=error)
    return f"the policy failed ({type(error).__name__}): read the server's log"
