"""Mutated messages: valid ones of each wire, and accidents that befall them."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.doubles import walk_commands
from bridge.contract import ActionChunk, Observation, Status
from bridge.operator import messages as operator_wire
from bridge.wire import messages as wire
from robots.g1.embodiment import G1, IMAGE_SIZE, STATE_DIM

_MOST_MUTATIONS = 4
_SESSION = "s" * 16
# Bytes that begin something in msgpack, or end a range.
_TELLING = (0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xC0, 0xC1, 0xC6, 0xCB, 0xDB, 0xDD, 0xDF, 0xFF)

Frames = list[bytes]


def mutated(frames: Frames, rng: np.random.Generator) -> Frames:
    """A message with a few accidents, some of which keep it valid."""
    frames = list(frames)
    for _ in range(min(int(rng.geometric(0.6)), _MOST_MUTATIONS)):
        place = int(rng.integers(len(frames)))
        if rng.random() < 0.1:
            frames = _rearranged(frames, place, rng)
        else:
            frames[place] = _damaged(frames[place], rng)
    return frames


def _rearranged(frames: Frames, place: int, rng: np.random.Generator) -> Frames:
    choice = int(rng.integers(3))
    if choice == 0 and len(frames) > 1:
        return frames[:place] + frames[place + 1 :]
    if choice == 1 and len(frames) < 8:
        return [*frames, frames[place]]
    return frames[place:] + frames[:place]


def _damaged(frame: bytes, rng: np.random.Generator) -> bytes:
    if not frame:
        return bytes(rng.integers(256, size=8, dtype=np.uint8))
    a, b = sorted(int(at) for at in rng.integers(len(frame) + 1, size=2))
    match int(rng.integers(7)):
        case 0:
            return frame[:a]
        case 1:
            return frame[:a] + bytes(rng.integers(256, size=int(rng.integers(16)), dtype=np.uint8))
        case 2:
            return frame[:a] + frame[min(b, a + 16) :]
        case 3:
            return frame[:b] + frame[a:b][:64] + frame[b:]
        case 4:
            return b"\x91" * int(rng.integers(2000)) + frame
        case _:
            changed = bytearray(frame)
            told = _TELLING[int(rng.integers(len(_TELLING)))]
            changed[min(a, len(frame) - 1)] = told if rng.random() < 0.5 else a % 256
            return bytes(changed)


def requests(session: str, sequence: int) -> list[Frames]:
    """What a client says to a policy server in a session."""
    image = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    seen = Observation(G1, 1.0, np.zeros(STATE_DIM, np.float32), {"head": image})
    hello = wire.Hello(protocol=wire.PROTOCOL, embodiment=G1, model_id="script")
    return [
        wire.pack(hello),
        wire.pack(wire.Reset(session=session, sequence=sequence)),
        wire.pack(wire.Goodbye(session=session)),
        wire.pack_observation(session, sequence, "walk", seen),
    ]


def replies() -> list[Frames]:
    """What a policy server says to a client."""
    chunk = ActionChunk(0.0, walk_commands(), Status.ACTING, 1.0, {"action": "walk"})
    welcome = wire.Welcome(
        session="s", protocol=wire.PROTOCOL, embodiment=G1, model_id="m", normalisation_id="n"
    )
    refused = wire.Refused(term="model", client="a", server="b", remedy="serve a")
    return [
        wire.pack_chunk("s", 1, chunk, G1),
        wire.pack_chunk("s", 2, chunk, G1),
        wire.pack(welcome),
        wire.pack(refused),
        wire.pack(wire.Done(session="s", sequence=1)),
        wire.pack(wire.Fault(session="s", sequence=1, message="no")),
    ]


def wishes(epoch: int, sequence: int) -> tuple[list[Frames], list[Frames]]:
    """What operators say: commands under the lease of an epoch, and halts."""
    terms: dict[str, Any] = {"session": _SESSION, "sequence": sequence, "epoch": epoch}
    asked = (
        claim(sequence),
        operator_wire.Beat(**terms),
        operator_wire.Instruct(text="walk", stops=0, **terms),
        operator_wire.Release(stops=0, **terms),
        operator_wire.NewScene(seed=7, stops=0, **terms),
        operator_wire.Leave(**terms),
    )
    halts = (operator_wire.Stop(sequence=sequence), operator_wire.Cut(sequence=sequence))
    return [[operator_wire.pack(each)] for each in asked], [
        [operator_wire.pack(each)] for each in halts
    ]


def claim(sequence: int) -> operator_wire.Claim:
    """An operator's request for the lease."""
    return operator_wire.Claim(
        session=_SESSION,
        sequence=sequence,
        protocol=operator_wire.PROTOCOL,
        embodiment=G1,
        name="anna",
    )
