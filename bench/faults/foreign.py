"""Clients of other wires, GR00T's and openpi's: what they ask of a policy server, and how."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
import numpy as np
import zmq
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from bridge.compat import gr00t, openpi
from robots.g1.embodiment import G1, IMAGE_SIZE, STATE_DIM

WAIT_S = 30.0
_encode = msgspec.msgpack.encode


def gr00t_request(value: float = 0.0, words: str = "walk") -> bytes:
    """A question of GR00T's client whose joints are all at a value, in rad."""
    zeros = np.zeros((1, 1, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    state = {limb.name: np.full((1, 1, len(limb.joints)), value, np.float32) for limb in G1.limbs}
    seen = {
        "video": {gr00t.video_keys(G1)[0]: gr00t.npy_item(zeros)},
        "state": {name: gr00t.npy_item(array) for name, array in state.items()},
        "language": {gr00t.LANGUAGE_KEY: [[words]]},
    }
    return _encode({"endpoint": "get_action", "data": {"observation": seen}})


@contextmanager
def gr00t_line(address: str) -> Iterator[zmq.Socket[bytes]]:
    """A connection as of GR00T's client, an empty frame before each message."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as line:
        line.linger, line.rcvtimeo = 0, int(1000 * WAIT_S)
        line.connect(address)
        yield line


def openpi_request(value: float = 0.0, words: str = "walk", width: int = STATE_DIM) -> bytes:
    """A question of openpi's client whose state, whole or joints alone, is all of one value."""
    image = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    state = np.full(width, value, np.float32)
    seen = {openpi.image_names(G1)[0]: image, "observation/state": state}
    return _encode(
        {**{name: openpi.packed(array) for name, array in seen.items()}, "prompt": words}
    )


def web_line(address: str) -> ClientConnection:
    """A WebSocket, as of openpi's client, which gets the server's metadata first, or of a page."""
    return connect(address, open_timeout=WAIT_S, compression=None)


def page_told(page: ClientConnection, do: str, **terms: Any) -> str:
    """Gives an order as a page of the console does; what is wrong with it, or nothing."""
    page.send(json.dumps({"do": do, "number": 7, **terms}))
    told = (json.loads(news) for news in page if isinstance(news, str))
    return next(each["fault"] for each in told if each.get("number") == 7)


def fill_in_pieces(address: str) -> None:
    """A WebSocket message in more and more pieces, until the server ends the connection."""

    def pieces() -> Iterator[str]:
        yield "a"
        while True:
            yield ""

    with suppress(WebSocketException, OSError), web_line(address) as line:
        line.send(pieces())
