"""What the compatibility servers share: a `Policy` for clients that know little of our robot.

A client must send an instruction, all joint positions and the cameras' pictures. Of the rest of an
`Observation` it sends what it has; what is missing is that of a robot that stands: velocities 0,
gravity straight down, the command to stand with its joints where they are, odometry 0. Time counts
from the client's last change of instruction. How far the robot went is thus known to the policy
only from clients that send odometry.

Pictures are uint8 RGB with the view of the policy's own camera; those of another size are scaled
with padding (bridge/pictures.py).
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

from bridge.contract import ActionChunk, Observation, Policy, UserError, check_instruction
from bridge.embodiment import Camera, Embodiment
from bridge.pictures import fit_picture
from bridge.wire import messages
from bridge.wire.messages import WireError

MAX_MESSAGE_BYTES = 4 << 20
MAX_IMAGE_SIDE = 1280
# What a client may send beside joint positions and pictures, and the part of a state that it is.
OPTIONAL_PARTS = {
    "joint_vel": "joint_vel_rad_s",
    "base_ang_vel": "base_ang_vel_rad_s",
    "gravity": "gravity",
    "command": "command",
    "elapsed_s": "elapsed_s",
    "odometry": "odometry",
}
_MAX_AXES = 5
LEAST_TOKEN = 16
_DTYPES = ("uint8", "float32", "float64")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Endpoint:
    """Where a compatibility server listens, and to whom it answers.

    `address` is scheme://host:port, with port 0 for any that is free; without one the wire's own
    is taken. `exposed` lets it be reached from other machines, by those who know the token; nothing
    is encrypted then. `token` is what clients must present.
    """

    address: str | None = None
    exposed: bool = False
    token: str | None = None

    def host_port(self, default: str) -> tuple[str, int]:
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

    def authorizes(self, token: str | None) -> bool:
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
    """One client of a policy for `body`; remembers since when it has asked for the same."""

    def __init__(self, policy: Policy, body: Embodiment) -> None:
        self._policy, self._body = policy, body
        self._instruction = ""
        self._began_s = 0.0

    def observe(
        self,
        instruction: str,
        joint_pos: np.ndarray,
        parts: Mapping[str, np.ndarray],
        images: Mapping[str, np.ndarray],
    ) -> Observation:
        """What the client knows (any of OPTIONAL_PARTS, pictures by camera), completed."""
        now = time.monotonic()
        if instruction != self._instruction:
            self._instruction, self._began_s = instruction, now
        body = self._body
        command = body.stand.copy()
        command[body.targets] = joint_pos[body.target_joints]
        assumed = {
            "joint_vel": np.zeros(len(body.joints)),
            "base_ang_vel": np.zeros(3),
            "gravity": np.array([0, 0, -1]),
            "command": command,
            "elapsed_s": np.array([now - self._began_s]),
            "odometry": np.zeros(3),
        }
        rest = {part: parts.get(name, assumed[name]) for name, part in OPTIONAL_PARTS.items()}
        return Observation(body, now, body.state(joint_pos_rad=joint_pos, **rest), images)

    def ask(self, instruction: str, observation: Observation) -> ActionChunk:
        """The policy's answer; WireError when it breaks the contract."""
        chunk = self._policy.act(check_instruction(instruction), observation)
        messages.pack_chunk("", 0, chunk, self._body)  # checks it as our own wire does
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


def picture(name: str, array: np.ndarray, camera: Camera) -> np.ndarray:
    """A picture in the size of the camera; axes of length one before it are dropped."""
    height, width, colours = array.shape[-3:] if array.ndim >= 3 else (0, 0, 0)
    fits = min(height, width) > 0 and max(height, width) <= MAX_IMAGE_SIDE and colours == 3
    if not fits or array.dtype != np.uint8 or array.size != 3 * height * width:
        raise WireError(
            f"{name} is {array.dtype} {array.shape}: send one uint8 picture of"
            f" ({camera.height}, {camera.width}, 3), or another with sides up to {MAX_IMAGE_SIDE}"
        )
    return fit_picture(array.reshape(height, width, 3), camera)


def fault_line(error: Exception) -> str:
    """One line for the client; of a fault of ours its kind alone, the trace goes to the log."""
    if isinstance(error, (UserError, WireError)):
        return messages.one_line(str(error))
    _log.error("the policy failed", exc_info=error)
    return f"the policy failed ({type(error).__name__}): read the server's log"
