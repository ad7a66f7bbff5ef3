"""The link of a control loop to a policy server: real processes that die, hang and come back."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest
import zmq

from bridge.contract import ActionChunk, UserError
from bridge.control.loop import Rejected
from bridge.control.policy_link import PolicyLink
from bridge.wire import messages
from bridge.wire.client import NoAnswer, RemotePolicy
from bridge.wire.keys import allow, client_keys, make_pair
from bridge.wire.messages import ServerInfo
from robots.g1.embodiment import CHUNK_STEPS, G1
from tests.doubles import INFO, EchoPolicy, await_true, observe, running_server, scripted_server

SOON_S = 60.0  # room for a busy machine
FLOOD_S = 6.0
Answer = ActionChunk | Rejected


def answers_of(link: PolicyLink, count: int = 1) -> list[Answer]:
    """The next answers, in their order."""
    found: list[Answer] = []

    def taken() -> bool:
        if (answer := link.take()) is not None:
            found.append(answer)
        return len(found) == count

    await_true(taken)
    return found


def answer_of(link: PolicyLink, instruction: str, time_s: float) -> Answer:
    link.ask(instruction, observe(time_s))
    return answers_of(link)[0]


def chunk_of(link: PolicyLink, time_s: float) -> ActionChunk:
    chunk = answer_of(link, "go", time_s)
    assert isinstance(chunk, ActionChunk) and chunk.observed_at_s == time_s
    return chunk


@pytest.fixture
def place(tmp_path) -> str:
    return f"ipc://{tmp_path}/p.sock"


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    with running_server(f"ipc://{tmp_path_factory.mktemp('link')}/p.sock") as process:
        yield process.address


@pytest.fixture
def link(address) -> Iterator[PolicyLink]:
    with PolicyLink(address, G1, patience_s=SOON_S) as link:
        link.wait_connected(SOON_S)
        yield link


def test_an_answer_is_taken_once(link):
    assert link.take() is None and link.session == 1 and link.trouble == ""
    assert link.state.name == "connected" and "model-1" in link.state.line
    assert chunk_of(link, 3.0).understood["instruction"] == "go"
    assert link.take() is None


def test_asking_and_taking_never_wait_and_the_latest_question_wins(link):
    link.ask("sleep 2", observe(1.0))
    time.sleep(0.5)  # it has begun
    begin = time.monotonic()
    for turn in range(200):
        link.ask("sleep 1", observe(100.0 + turn))  # time to take the answer before
        assert link.take() is None
    assert time.monotonic() - begin < 1.4
    first, second = answers_of(link, 2)
    assert isinstance(first, ActionChunk) and first.observed_at_s == 1.0
    assert isinstance(second, ActionChunk) and second.observed_at_s == 299.0
    time.sleep(0.3)
    assert link.take() is None


def test_what_was_asked_before_a_reset_is_void(link):
    before = int(chunk_of(link, 1.0).understood["resets"])
    link.ask("sleep 1", observe(2.0))
    time.sleep(0.3)
    link.reset()
    chunk = chunk_of(link, 3.0)  # and not the one of 2.0
    assert int(chunk.understood["resets"]) == before + 1
    assert int(chunk_of(link, 4.0).understood["resets"]) == before + 1


def test_faults_are_rejections_of_one_line_and_the_link_stands(link):
    cases = {"fail": "policy failed", "nan": "not finite", " ": "empty"}
    for instruction, reason in cases.items():
        rejected = answer_of(link, instruction, 1.0)
        assert isinstance(rejected, Rejected) and reason in rejected.reason
        assert "\n" not in rejected.reason
    assert chunk_of(link, 2.0) and link.session == 1


def test_replies_outside_the_contract_are_rejections(place):
    def replies(act: messages.Act) -> list[list[bytes]]:
        good = messages.pack_chunk("s", act.sequence, EchoPolicy().act("go", observe(1.0)), G1)
        poisoned = np.full((CHUNK_STEPS, 18), np.nan, np.float32).tobytes()
        short = np.zeros((CHUNK_STEPS - 1, 18), np.float32)
        chunk, _ = messages.unpack_reply(good)
        kinds = {
            "nan": [good[0], poisoned],
            "short": messages.pack(chunk, short),
            "cut": [good[0], good[1][:-4]],
            "garbage": [b"\xff"],
            "empty": [b""],
            "another stamp": messages.pack_chunk(
                "s", act.sequence, EchoPolicy().act("", observe(9.0)), G1
            ),
        }
        return [kinds.get(act.instruction, good)]

    with scripted_server(place, replies), PolicyLink(place, G1) as link:
        link.wait_connected(SOON_S)
        for kind in ("nan", "short", "cut", "garbage", "empty", "another stamp"):
            answer = answer_of(link, kind, 1.0)
            assert isinstance(answer, Rejected) and "contract" in answer.reason, kind
        assert link.session == 1 and chunk_of(link, 1.0)


def test_foreign_replies_that_keep_arriving_put_nothing_off(place):
    foreign = messages.pack_chunk("foreign", 1, EchoPolicy().act("go", observe(3.0)), G1)

    def replies(act: messages.Act) -> Iterator[list[bytes]]:
        until_s = time.monotonic() + FLOOD_S
        while time.monotonic() < until_s:
            yield foreign
            time.sleep(0.001)

    with scripted_server(place, replies), RemotePolicy(place, G1, patience_s=0.3) as policy:
        begin = time.monotonic()
        with pytest.raises(NoAnswer, match=r"within 0\.3 s"):
            policy.act("go", observe(3.0))
        assert time.monotonic() - begin < FLOOD_S / 2 and policy.dropped > 0


def test_dropped_replies_are_counted_over_all_connections(place):
    foreign = messages.pack_chunk("foreign", 1, EchoPolicy().act("go", observe()), G1)

    def replies(act: messages.Act) -> list[list[bytes]]:
        right = EchoPolicy().act("go", observe(act.observed_at_s))
        return [foreign, foreign, messages.pack_chunk("s", act.sequence, right, G1)]

    with PolicyLink(place, G1) as link:
        for session in (1, 2):
            with scripted_server(place, replies):
                await_true(lambda n=session: link.session == n)
                assert chunk_of(link, 1.0)
                await_true(lambda n=session: link.dropped == 2 * n)
            await_true(lambda: link.state.name == "lost")


def test_nobody_there(place):
    with PolicyLink(place, G1) as link:
        link.ask("go", observe())
        with pytest.raises(UserError, match="hitogata serve"):
            link.wait_connected(1.0)
        assert link.state.name == "connecting" and link.trouble == link.state.line
        with running_server(place):  # what was asked of nobody is asked of nobody else
            link.wait_connected(SOON_S)
            assert link.session == 1 and chunk_of(link, 2.0)
    with pytest.raises(UserError, match="keys"):
        PolicyLink("tcp://10.0.0.1:5757", G1)


def test_a_killed_server_is_lost_and_joined_again(place):
    with running_server(place) as process, PolicyLink(place, G1) as link:
        link.wait_connected(SOON_S)
        link.ask("go", observe(1.0))
        time.sleep(1.0)  # its answer waits to be taken
        process.kill()
        await_true(lambda: link.state.name == "lost")
        assert "hitogata serve" in link.trouble and link.take() is None
        link.ask("go", observe(2.0))
        with running_server(place):
            await_true(lambda: link.session == 2)
            time.sleep(0.5)
            assert link.take() is None
            assert link.trouble == "" and chunk_of(link, 3.0)


def test_a_session_pushed_out_by_others_is_begun_anew(place):
    hello = messages.pack(messages.Hello(protocol=messages.PROTOCOL, embodiment=G1))
    with running_server(place), PolicyLink(place, G1) as link, zmq.Context() as context:
        link.wait_connected(SOON_S)
        assert chunk_of(link, 1.0)
        with ExitStack() as others:
            for _ in range(64):
                other = others.enter_context(context.socket(zmq.DEALER))
                other.connect(place)
                other.send_multipart(hello)
                assert isinstance(
                    messages.unpack_reply(other.recv_multipart())[0], messages.Welcome
                )
            told = []
            link.ask("go", observe(2.0))
            await_true(lambda: bool(told.append(link.trouble) or link.session == 2))
            assert any("has ended this session" in line for line in told)
            assert link.take() is None, "what was asked of the old session is void"
            assert link.trouble == "" and chunk_of(link, 3.0)


def test_a_server_killed_while_it_thinks(place):
    with running_server(place) as process, PolicyLink(place, G1) as link:
        link.wait_connected(SOON_S)
        link.ask("sleep 30", observe(1.0))
        time.sleep(0.5)
        process.kill()
        await_true(lambda: link.state.name == "lost")
        assert link.take() is None


def test_another_model_is_refused_until_the_first_one_is_back(place):
    with PolicyLink(place, G1) as link:
        with running_server(place) as process:
            link.wait_connected(SOON_S)
            process.kill()
        with running_server(place, model_id="model-2"):
            await_true(lambda: link.state.name == "refused")
            assert "model-1" in link.trouble and "model-2" in link.trouble
            link.ask("go", observe())
            time.sleep(0.5)
            assert link.take() is None and link.session == 1
            with pytest.raises(UserError, match="model differs"):
                link.wait_connected(SOON_S)
        with running_server(place):
            await_true(lambda: link.session == 2)
            assert chunk_of(link, 1.0)


def test_another_model_than_expected_is_refused(address):
    with PolicyLink(address, G1, ServerInfo("model-9", INFO.normalisation_id)) as link:
        with pytest.raises(UserError, match="model differs, model-9 here"):
            link.wait_connected(SOON_S)
        assert link.session == 0


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
@pytest.mark.parametrize("asked", [True, False], ids=["asked", "idle"])
def test_a_stopped_server_is_lost_and_joined_again(transport, asked, place):
    bound = place if transport == "ipc" else "tcp://127.0.0.1:*"
    with running_server(bound) as process, PolicyLink(process.address, G1) as link:
        link.wait_connected(SOON_S)
        assert chunk_of(link, 1.0)
        process.send_signal(signal.SIGSTOP)
        if asked:
            link.ask("go", observe(2.0))
        await_true(lambda: link.state.name == "lost")
        time.sleep(3.0)  # several attempts meet a server that is there and does not answer
        assert link.state.name == "lost" and link.session == 1
        process.send_signal(signal.SIGCONT)
        await_true(lambda: link.state.name == "connected")
        assert link.session == 2 and link.take() is None
        assert chunk_of(link, 3.0)


def test_a_server_that_thinks_for_too_long_is_lost(place):
    with running_server(place), PolicyLink(place, G1, timeout_s=2.0) as link:
        link.wait_connected(SOON_S)
        assert chunk_of(link, 1.0)
        link.ask("sleep 6", observe(2.0))
        await_true(lambda: link.state.name == "lost")
        assert "within 2 s" in link.trouble
        await_true(lambda: link.state.name == "connected")
        assert link.session == 2 and chunk_of(link, 3.0)


def test_closing_waits_for_nobody(place):
    with running_server(place) as process:
        link = PolicyLink(place, G1)
        link.wait_connected(SOON_S)
        link.ask("sleep 30", observe())
        time.sleep(0.5)
        process.send_signal(signal.SIGSTOP)
        begin = time.monotonic()
        link.close()
        assert time.monotonic() - begin < 5.0
        link.ask("go", observe())
        assert link.take() is None
        link.close()


def test_a_link_with_keys(tmp_path, place):
    lab, robot = tmp_path / "lab", tmp_path / "robot"
    make_pair(lab, "lab")
    allow(lab, make_pair(tmp_path / "other", "other"))
    public = make_pair(robot, "g1")
    keys = client_keys(robot, lab / "lab.public")
    with running_server(place, keys=lab), PolicyLink(place, G1, keys=keys) as link:
        with pytest.raises(UserError, match="does not allow the key of g1"):
            link.wait_connected(SOON_S)
        allow(lab, public)
        await_true(lambda: link.state.name == "connected")
        assert chunk_of(link, 1.0)
