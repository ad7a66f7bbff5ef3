"""The client of a policy server, against servers that do not do as ours does."""

from __future__ import annotations

import socket as plain
import time
from dataclasses import replace

import numpy as np
import pytest

from bridge.contract import UserError
from bridge.embodiment import CommandField
from bridge.wire import messages
from bridge.wire.client import MalformedReply, PolicyUnavailable, RemotePolicy
from bridge.wire.messages import ServerInfo
from robots.g1.embodiment import CHUNK_STEPS, G1
from tests.doubles import EchoPolicy, observe, scripted_server

PITCH = CommandField("torso_pitch_rad", 0.0, -0.2, 0.5, 0.5, 25.0)
BOWING = replace(G1, commands=(*G1.commands, PITCH))


def test_foreign_repeated_and_reordered_replies_are_dropped(tmp_path):
    place = f"ipc://{tmp_path}/p.sock"
    policy_chunk = EchoPolicy().act("go", observe(3.0))

    def replies(act: messages.Act) -> list[list[bytes]]:
        terms = (("foreign", act.sequence), ("s", act.sequence - 1), ("s", act.sequence + 1))
        wrong = [messages.pack_chunk(*term, policy_chunk, G1) for term in terms]
        right = messages.pack_chunk("s", act.sequence, policy_chunk, G1)
        return [
            *wrong,
            messages.pack(messages.Done(session="s", sequence=act.sequence)),
            right,
            right,
        ]

    with scripted_server(place, replies), RemotePolicy(place, G1) as policy:
        policy.act("go", observe(3.0))
        assert policy.dropped == 4
        policy.act("go", observe(3.0))
        assert policy.dropped == 9  # the repeated answer of the first request among them


@pytest.mark.parametrize(
    ("terms", "named"),
    [
        ({"protocol": 3}, "protocol version differs, 2 here and 3 at the server"),
        (
            {"embodiment": BOWING},
            "field 19 differs, nothing here and torso_pitch_rad at .*: use a",
        ),
        ({"model_id": "other"}, "model differs, m here and other"),
        ({"normalisation_id": "other"}, "normalisation differs, n here and other"),
    ],
)
def test_a_server_that_greets_whomever_is_found_out(terms, named, tmp_path):
    place = f"ipc://{tmp_path}/p.sock"
    script = scripted_server(place, lambda _: [], **terms)
    with script, pytest.raises(UserError, match=named):
        RemotePolicy(place, G1, expected=ServerInfo("m", "n"))


def test_a_server_that_floods_and_vanishes_does_no_harm():
    """libzmq's heartbeat would abort this very process if the queue were full."""
    with plain.create_server(("127.0.0.1", 0)) as free:
        place = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    right = messages.pack_chunk("s", 1, EchoPolicy().act("go", observe()), G1)
    with scripted_server(place, lambda _: [right] * 500):
        policy = RemotePolicy(place, G1)
        policy.act("go", observe())
    with policy:
        time.sleep(0.7)
        with pytest.raises(PolicyUnavailable, match="is gone"):
            policy.check()


def test_what_nobody_asked_for_is_dropped_but_not_for_ever(tmp_path):
    place = f"ipc://{tmp_path}/p.sock"
    right = messages.pack_chunk("s", 1, EchoPolicy().act("go", observe()), G1)
    for unasked in (3, 3000):
        script = scripted_server(place, lambda _, n=unasked: [right] * (1 + n))
        with script, RemotePolicy(place, G1) as policy:
            policy.act("go", observe())
            time.sleep(0.5)
            if unasked == 3:
                policy.check()
                assert policy.dropped == 3
            else:
                with pytest.raises(MalformedReply, match="without being asked"):
                    policy.check()


def test_a_reply_outside_the_contract_is_refused(tmp_path):
    place = f"ipc://{tmp_path}/p.sock"
    good = messages.pack_chunk("s", 1, EchoPolicy().act("go", observe()), G1)
    poisoned = np.full((CHUNK_STEPS, 18), np.nan, np.float32).tobytes()
    for frames in ([good[0], poisoned], [good[0], good[1][:-4]], [b"\xff"]):
        script = scripted_server(place, lambda _, frames=frames: [frames])
        refused = pytest.raises(PolicyUnavailable, match="contract")
        with script, RemotePolicy(place, G1) as policy, refused:
            policy.act("go", observe())
