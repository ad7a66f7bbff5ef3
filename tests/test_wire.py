"""Messages and frames: round trips, and everything malformed is refused by name."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.contract import (
    INSTRUCTION_MAX_BYTES,
    ActionChunk,
    InferenceStats,
    Observation,
    Refusal,
    Status,
    UserError,
    check_instruction,
)
from bridge.wire import messages, sockets
from robots.g1.embodiment import G1, IMAGE_SIZE, STAND_COMMAND, STATE_DIM


def make_observation(time_s: float = 1.5) -> Observation:
    rng = np.random.default_rng(0)
    state = rng.normal(size=STATE_DIM).astype(np.float32)
    image = rng.integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    return Observation(G1, time_s, state, {"head": image})


def make_chunk() -> ActionChunk:
    commands = np.tile(STAND_COMMAND, (16, 1)) + np.arange(16, dtype=np.float32)[:, None]
    thinking = InferenceStats(((0.25, 0.75), (1.0, 0.0)), tokens=108, steps=6)
    return ActionChunk(1.5, commands, Status.DONE, 0.75, {"colour": "red"}, thinking)


def act_frames() -> list[bytes]:
    return messages.pack_observation("session", 7, "walk", make_observation())


def test_observation_round_trip():
    request, arrays = messages.unpack_request(act_frames())
    assert isinstance(request, messages.Act)
    assert (request.session, request.sequence, request.instruction) == ("session", 7, "walk")
    found, expected = messages.observation_of(request, arrays, G1), make_observation()
    assert found.time_s == 1.5
    np.testing.assert_array_equal(found.state, expected.state)
    np.testing.assert_array_equal(found.images["head"], expected.images["head"])


def test_chunk_round_trip():
    chunk = make_chunk()
    reply, arrays = messages.unpack_reply(messages.pack_chunk("session", 7, chunk, G1))
    assert isinstance(reply, messages.Chunk) and (reply.session, reply.sequence) == ("session", 7)
    found = messages.chunk_of(reply, arrays, G1)
    np.testing.assert_array_equal(found.commands, chunk.commands)
    assert found.status is Status.DONE and found.status_probability == 0.75
    assert found.observed_at_s == 1.5 and found.understood == {"colour": "red"}
    assert found.stats == chunk.stats


def test_a_refusal_travels_with_its_reason_and_earlier_peers_tell_none():
    refused = dataclasses.replace(make_chunk(), status=Status.REFUSED, reason=Refusal.UNSEEN)

    def reason(frames: list[bytes]) -> str:
        reply, arrays = messages.unpack_reply(frames)
        assert isinstance(reply, messages.Chunk)
        return messages.chunk_of(reply, arrays, G1).reason

    assert reason(messages.pack_chunk("session", 7, refused, G1)) == "unseen"
    plain = messages.pack_chunk("session", 7, make_chunk(), G1)
    assert b"reason" not in plain[0], "what is not told is not sent: earlier peers read it"
    assert reason(plain) == ""


def test_requests_and_replies_do_not_mix():
    with pytest.raises(messages.WireError):
        messages.unpack_reply(act_frames())
    with pytest.raises(messages.WireError):
        messages.unpack_request(messages.pack_chunk("session", 7, make_chunk(), G1))


def altered(**changes: object) -> bytes:
    """The header of an Act with fields replaced, as a foreign client might write it."""
    header = msgspec.msgpack.decode(act_frames()[0])
    return msgspec.msgpack.encode({**header, **changes})


def test_malformed_frames_are_refused():
    header, state, image = act_frames()
    state_spec = {"dtype": "float32", "shape": [STATE_DIM]}
    cases = {
        "no frames": [],
        "empty": [b""],
        "random": [b"\xc1\xff\x00"],
        "deeply nested": [b"\x91" * 100_000],
        "not UTF-8": [b"\x81\xa1\xff\x01"],
        "frame missing": [header, state],
        "frame too many": [header, state, image, image],
        "short image": [header, state, image[:-1]],
        "unknown type": [altered(type="teleport"), state, image],
        "text for a number": [altered(sequence="7"), state, image],
        "bytes for text": [altered(instruction=b"\xff\xfe"), state, image],
        "object dtype": [altered(arrays=[{"dtype": "object", "shape": [1]}]), state],
        "negative size": [altered(arrays=[{"dtype": "uint8", "shape": [-1]}]), b""],
        "huge": [altered(arrays=[{"dtype": "float32", "shape": [1 << 20] * 4}]), b""],
        "rank 5": [altered(arrays=[{"dtype": "uint8", "shape": [1] * 5}]), b"0"],
        "ten arrays": [altered(arrays=[state_spec] * 10), *[state] * 10],
    }
    for name, frames in cases.items():
        with pytest.raises(messages.WireError) as caught:
            messages.unpack_request(frames)
        assert "\n" not in str(caught.value), name


def test_arrays_must_be_those_of_the_contract():
    request, (state, image) = messages.unpack_request(act_frames())
    assert isinstance(request, messages.Act)
    broken = state.copy()
    broken[0] = np.inf
    for arrays in ([state], [state, image, image], [image, state], [state[1:], image]):
        other, received = messages.unpack_request(messages.pack(request, *arrays))
        assert isinstance(other, messages.Act)
        with pytest.raises(messages.WireError, match="contract asks"):
            messages.observation_of(other, received, G1)
    with pytest.raises(messages.WireError, match="not finite"):
        messages.observation_of(request, [broken, image], G1)
    for commands in (np.full((16, 18), np.nan), np.zeros((15, 18))):
        with pytest.raises(messages.WireError):
            messages.pack_chunk("s", 1, ActionChunk(0, commands, Status.ACTING, 1, {}), G1)
    with pytest.raises(messages.WireError, match="float64 arrays do not travel"):
        messages.pack(messages.Goodbye(session="s"), np.zeros(3))


@settings(deadline=None)
@given(st.data())
def test_mutated_frames_never_do_worse_than_a_wire_error(data):
    frames = [bytearray(frame) for frame in act_frames()]
    for _ in range(data.draw(st.integers(1, 8))):
        frame = frames[0]
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(frames[0])))
    try:
        request, arrays = messages.unpack_request([bytes(frames[0][:cut]), *map(bytes, frames[1:])])
        if isinstance(request, messages.Act):
            messages.observation_of(request, arrays, G1)
    except messages.WireError:
        pass


@settings(deadline=None)
@given(st.data())
def test_mutated_replies_are_chunks_or_wire_errors(data):
    header, commands = map(bytearray, messages.pack_chunk("session", 7, make_chunk(), G1))
    frame = data.draw(st.sampled_from([header, commands]))
    for _ in range(data.draw(st.integers(1, 8))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    try:
        reply, arrays = messages.unpack_reply([bytes(header), bytes(commands)])
        chunk = (
            messages.chunk_of(reply, arrays, G1)
            if isinstance(reply, messages.Chunk)
            else make_chunk()
        )
    except messages.WireError:
        return
    assert chunk.commands.shape == (16, 18) and np.isfinite(chunk.commands).all()
    assert 0 <= chunk.status_probability <= 1.001
    assert all(text.isprintable() for pair in chunk.understood.items() for text in pair)


def test_text_of_the_other_end_is_one_line_that_a_terminal_can_show():
    assert messages.one_line(" walk\n\x1b[2J to\tthe ball\u2028") == "walk [2J to the ball"
    assert messages.one_line("geh zum Würfel 🙂") == "geh zum Würfel 🙂"
    assert len(messages.one_line("x" * 1000)) == messages.LINE_CHARACTERS


@pytest.mark.parametrize("probability", [np.nan, np.inf, -0.1, 1.1])
def test_a_status_has_a_probability(probability):
    chunk = dataclasses.replace(make_chunk(), status_probability=probability)
    with pytest.raises(messages.WireError, match="no probability"):
        messages.pack_chunk("s", 1, chunk, G1)


def test_only_addresses_on_this_machine():
    assert sockets.local_address("ipc:///tmp/a.sock") == "ipc:///tmp/a.sock"
    assert sockets.local_address("tcp://localhost:5555") == "tcp://127.0.0.1:5555"
    assert sockets.local_address("tcp://127.1.2.3:*") == "tcp://127.1.2.3:*"
    assert sockets.local_address("tcp://[::1]:5555") == "tcp://[::1]:5555"
    for address in ("tcp://0.0.0.0:5555", "tcp://*:5555", "tcp://10.0.0.1:1", "tcp://robot:1"):
        with pytest.raises(UserError, match=r"--keys FOLDER, or use ipc"):
            sockets.local_address(address)
        assert sockets.local_address(address, encrypted=True) == address
    for address in ("udp://127.0.0.1:1", "tcp://127.0.0.1", "ipc://", "", "nonsense", "tcp://a:b"):
        with pytest.raises(UserError, match="use ipc"):
            sockets.local_address(address, encrypted=True)


def test_instructions_are_one_line_of_text():
    assert check_instruction("  walk to the red ball\n") == "walk to the red ball"
    assert check_instruction("geh zum Würfel 🙂") == "geh zum Würfel 🙂"
    assert check_instruction("a" * INSTRUCTION_MAX_BYTES)
    bad = ("", " \n", "walk\x00", "walk\nturn", "\ud800", "é" * INSTRUCTION_MAX_BYTES, b"walk", 7)
    for instruction in (*bad, None):
        with pytest.raises(UserError) as caught:
            check_instruction(instruction)
        assert "\n" not in str(caught.value)


def test_instructions_are_heard_as_they_are_seen():
    """Marks without width or of direction, full width, and combined letters."""
    assert (
        check_instruction("wa\u200blk to the\u202e red\u2069 ball\ufeff") == "walk to the red ball"
    )
    assert check_instruction("ｗａｌｋ　１ ｍ") == "walk 1 m"
    assert check_instruction("a cafe\u0301") == "a café"
    assert check_instruction("иди к мячу") == "иди к мячу", "a language is no look-alike"
    assert check_instruction("turn by π") == "turn by π"


@pytest.mark.parametrize(
    ("instruction", "complaint"),
    [
        ("walk to the r\u0435d ball", "'r\u0435d' holds a CYRILLIC SMALL LETTER IE among Latin"),
        ("walk to the \u03bfrange ball", "GREEK SMALL LETTER OMICRON.*: type the word again"),
        ("\u200b\u200e", "is empty"),
        ("walk\u2028stop", "as one line of text"),
        ("\ufdfa" * 341, "longer than 1024 bytes"),  # a ligature of 18 letters
    ],
)
def test_what_is_not_heard_as_it_is_seen_is_refused(instruction, complaint):
    with pytest.raises(UserError, match=complaint):
        check_instruction(instruction)


@given(st.text(max_size=200))
def test_an_instruction_that_was_checked_stays_as_it_is(text):
    try:
        heard = check_instruction(text)
    except UserError:
        return
    assert check_instruction(heard) == heard


def test_messages_go_through_sockets_whole():
    with zmq.Context() as context, context.socket(zmq.PAIR) as a, context.socket(zmq.PAIR) as b:
        b.bind("inproc://here")
        a.connect("inproc://here")
        for sent in ([b"one"], [b"", b"two"], [b"head", b"x" * 100_000, b"", b"tail"]):
            sockets.send(a, sent)
            assert sockets.receive(b) == sent


def test_a_full_queue_is_told_and_nothing_of_the_message_stays():
    with zmq.Context() as context, context.socket(zmq.PUSH) as a, context.socket(zmq.PULL) as b:
        a.sndhwm = b.rcvhwm = 1
        a.linger = 0
        b.bind("inproc://here")
        a.connect("inproc://here")
        numbers = iter(range(100))
        with pytest.raises(zmq.Again):
            for number in numbers:
                sockets.send(a, [bytes([number]), b"end"])
        taken = next(numbers) - 1
        assert [sockets.receive(b)[0][0] for _ in range(taken)] == list(range(taken))
        sockets.send(a, [b"again", b"end"])
        assert sockets.receive(b) == [b"again", b"end"], "room is found at once"
