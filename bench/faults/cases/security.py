"""Strangers: without a key, with the wrong one, of another release, or without the lease."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import zmq

from bench.faults.programs import scripted_server
from bench.faults.rig import WAIT_S, FaultTrial, Rig, refusal, robot_at_work
from bench.faults.trace import FaultOutcome
from bridge.contract import Observation
from bridge.embodiment import Embodiment
from bridge.operator import messages
from bridge.operator.client import Operator
from bridge.wire import messages as wire
from bridge.wire.client import RemotePolicy
from bridge.wire.keys import ClientKeys, allow, client_keys, make_pair, secure_client, server_keys
from robots.g1.embodiment import G1, IMAGE_SIZE, STATE_DIM

IGNORED_MS, STRANGER_S = 1500, 1.0
STRANGE_PROTOCOL = 99
STRANGE_SESSION = "e" * 16


@dataclass(frozen=True)
class Lab:
    """A robot that walks by a server with keys, and the folders of a stranger's keys."""

    rig: Rig
    address: str
    folder: Path

    def keys(self, name: str) -> ClientKeys:
        return client_keys(self.folder / name, self.folder / "lab" / "lab.public")


def no_key(trial: FaultTrial) -> FaultOutcome:
    """A client of ours without keys at a server with keys."""
    with _lab(trial) as lab:
        told = refusal(lambda: RemotePolicy(lab.address, G1))
        return lab.rig.undisturbed(told, remedy_told="--keys FOLDER" in told)


def wrong_key(trial: FaultTrial) -> FaultOutcome:
    """A client whose key the server does not allow."""
    with _lab(trial) as lab:
        told = refusal(lambda: RemotePolicy(lab.address, G1, keys=lab.keys("eve")))
        return lab.rig.undisturbed(told, remedy_told="hitogata keys allow" in told)


def plain_client(trial: FaultTrial) -> FaultOutcome:
    """A peer that speaks ZeroMQ without encryption to a server with keys."""
    with _lab(trial) as lab:
        with _raw(lab.address) as socket:
            socket.send_multipart(wire.pack(_hello()))
            answered = bool(socket.poll(IGNORED_MS))
        return lab.rig.undisturbed("nothing: the stranger is not answered", ignored=not answered)


def observer_commands(trial: FaultTrial) -> FaultOutcome:
    """Somebody who only watches commands: by asking, by claiming, by a forged lease."""
    with _lab(trial) as lab:
        port = lab.rig.node.port
        with Operator(port.addresses.commands, "eve", WAIT_S) as eve:
            unclaimed = refusal(lambda: eve.instruct("walk backwards"))
            held = refusal(eve.claim)
        forged = messages.Instruct(
            session=STRANGE_SESSION, epoch=1, sequence=9, stops=0, text="walk backwards"
        )
        reply = _operator_reply(port.addresses.commands, forged)
        same = lab.rig.node.loop.instruction == "walk"
        return lab.rig.undisturbed(
            f"{unclaimed} / {held}",
            told_to_claim="claim it first" in unclaimed,
            holder_told="anna has commanded" in held,
            forgery_refused=isinstance(reply, messages.Busy),
            instruction_kept=same,
        )


def wrong_protocol(trial: FaultTrial) -> FaultOutcome:
    """Clients and operators of another release."""
    with _lab(trial) as lab:
        with _raw(lab.address, lab.keys("g1")) as socket:
            refused = _reply(socket, wire.pack(_hello(protocol=STRANGE_PROTOCOL)))
        claim = messages.Claim(
            session=STRANGE_SESSION,
            sequence=1,
            protocol=STRANGE_PROTOCOL,
            name="eve",
        )
        denied = _operator_reply(lab.rig.node.port.addresses.commands, claim)
        both = isinstance(refused, wire.Refused) and isinstance(denied, messages.Denied)
        told = f"{refused} / {denied.message}" if both else f"{refused} / {denied}"
        values_told = told.count(f"{STRANGE_PROTOCOL} here and {wire.PROTOCOL}") == 2
        return lab.rig.undisturbed(told, refused=both, both_values_told=values_told)


def wrong_image(trial: FaultTrial) -> FaultOutcome:
    """A client whose picture is of another size than it says, and one without a camera."""
    with _lab(trial) as lab:
        with _raw(lab.address, lab.keys("g1")) as socket:
            refused = _reply(socket, wire.pack(_hello(body=replace(G1, cameras=()))))
            welcome = _reply(socket, wire.pack(_hello()))
            assert isinstance(welcome, wire.Welcome)
            image = np.zeros((IMAGE_SIZE // 2, IMAGE_SIZE, 3), np.uint8)
            seen = Observation(G1, 0.0, np.zeros(STATE_DIM, np.float32), {"head": image})
            fault = _reply(socket, wire.pack_observation(welcome.session, 1, "walk", seen))
        both = isinstance(refused, wire.Refused) and isinstance(fault, wire.Fault)
        told = f"{refused} / {fault.message}" if both else f"{refused} / {fault}"
        return lab.rig.undisturbed(told, refused=both, size_told=f"{IMAGE_SIZE // 2}" in told)


def strange_operator(trial: FaultTrial) -> FaultOutcome:
    """Operators without a key, or with one that is not allowed, at a robot with keys."""
    keys = {name: trial.folder / name for name in ("g1", "anna", "eve")}
    for name, place in keys.items():
        make_pair(place, name)
    allow(keys["g1"], keys["anna"] / "anna.public")
    anna, eve = (client_keys(keys[name], keys["g1"] / "g1.public") for name in ("anna", "eve"))
    policy, told, shown = trial.policy_address, [], []
    with (
        scripted_server(policy),
        robot_at_work(trial, policy, operators=(server_keys(keys["g1"]), anna)) as rig,
    ):
        rig.walk()
        for own in (None, eve):
            with Operator(trial.robot_address, "eve", STRANGER_S, own) as stranger:
                told += [refusal(stranger.claim), refusal(stranger.cut)]
                shown.append(stranger.telemetry(STRANGER_S))
        return rig.undisturbed(
            f"{told[0]} / {told[2]}",
            nobody_let_in=all("no robot answers" in line for line in told),
            never_cut=all("NOT stopped" in line for line in told[1::2]),
            nothing_seen=shown == [None, None],
        )


FAULTS = {
    "security_strange_operator": strange_operator,
    "security_no_key": no_key,
    "security_wrong_key": wrong_key,
    "security_plain_client": plain_client,
    "security_observer_commands": observer_commands,
    "security_wrong_protocol": wrong_protocol,
    "security_wrong_image": wrong_image,
}


@contextmanager
def _lab(trial: FaultTrial) -> Iterator[Lab]:
    keys = {name: trial.folder / name for name in ("lab", "g1", "eve")}
    for name, place in keys.items():
        make_pair(place, name)
    allow(keys["lab"], keys["g1"] / "g1.public")
    own = client_keys(keys["g1"], keys["lab"] / "lab.public")
    with (
        scripted_server("tcp://127.0.0.1:*", "--keys", str(keys["lab"])) as server,
        robot_at_work(trial, server.said, keys=own) as rig,
    ):
        rig.walk()
        yield Lab(rig, server.said, trial.folder)


def _hello(protocol: int = wire.PROTOCOL, body: Embodiment = G1) -> wire.Hello:
    return wire.Hello(protocol=protocol, embodiment=body)


@contextmanager
def _raw(address: str, keys: ClientKeys | None = None) -> Iterator[zmq.Socket[bytes]]:
    """A socket that sends whatever one likes."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.rcvtimeo = int(1000 * WAIT_S)
        if keys is not None:
            secure_client(socket, keys)
        socket.connect(address)
        yield socket


def _reply(socket: zmq.Socket[bytes], frames: list[bytes]) -> wire.Reply:
    socket.send_multipart(frames)
    return wire.unpack_reply(socket.recv_multipart())[0]


def _operator_reply(address: str, request: messages.Request) -> messages.AnyReply:
    with _raw(address) as socket:
        socket.send(messages.pack(request))
        return messages.unpack(messages.REPLIES, socket.recv())
