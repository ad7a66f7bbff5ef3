"""Numbers that are none, at every door beside the policy's answers and the driver's states."""

from __future__ import annotations

import json
import math
from functools import partial
from itertools import product

import msgspec
import numpy as np
import zmq

from bench.faults.foreign import gr00t_line, gr00t_request, openpi_request, web_line
from bench.faults.programs import console_process, peer, running, walking_robot
from bench.faults.rig import WAIT_S, FaultTrial, refusal
from bench.faults.trace import FaultOutcome, verdict
from bridge.contract import Observation
from bridge.wire.client import RemotePolicy
from robots.g1.embodiment import G1, IMAGE_SIZE, STATE_DIM

NONE = (math.nan, math.inf, -math.inf)
_OPTIONS = ("--speed", "--seconds", "--seed")


def to_server(trial: FaultTrial) -> FaultOutcome:
    """Another client's observation is not finite: it is told, and the robot walks on."""
    with walking_robot(trial) as rig:
        told: list[str] = []
        with RemotePolicy(trial.policy_address, G1, timeout_s=WAIT_S) as policy:
            for value in NONE:
                state = np.full(STATE_DIM, value, np.float32)
                image = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
                seen = Observation(G1, 0.0, state, {"head": image})
                told.append(refusal(lambda seen=seen: policy.act("walk", seen)))
        return rig.undisturbed(told[0], all_refused=all("finite" in line for line in told))


def to_operator_port(trial: FaultTrial) -> FaultOutcome:
    """Orders and stops whose numbers are none: they are counted, and the robot walks on."""
    with walking_robot(trial) as rig:
        port = rig.node.port
        known, sent = port.counters["malformed_messages"], 0
        with zmq.Context() as context:
            for address, kinds in (
                (port.addresses.commands, ("claim", "beat", "instruct", "release", "scene")),
                (port.addresses.stop, ("stop", "cut")),
            ):
                with context.socket(zmq.DEALER) as stranger:
                    stranger.linger = int(1000 * WAIT_S)
                    stranger.connect(address)
                    for kind, value in product(kinds, NONE):
                        numbers = dict.fromkeys(_NUMBERS, value)
                        order = {"type": kind, "session": "e" * 16, "text": "walk", **numbers}
                        stranger.send(msgspec.msgpack.encode(order))
                        sent += 1
        rig.await_true(lambda: port.counters["malformed_messages"] >= known + sent)
        return rig.undisturbed(f"malformed_messages {sent}")


def to_foreign(wire: str, trial: FaultTrial) -> FaultOutcome:
    """A client of another wire sends a state that is not finite: only others are answered."""
    told: list[str] = []
    if wire == "gr00t":
        with peer(wire, "tcp://127.0.0.1:0") as server, gr00t_line(server.said) as line:
            for value in (*NONE, 0.0):
                line.send_multipart([b"", gr00t_request(value)])
                answer = msgspec.msgpack.decode(line.recv_multipart()[-1])
                told.append(answer.get("error", "") if isinstance(answer, dict) else "")
    else:
        with peer(wire, "ws://127.0.0.1:0") as server:
            for value in (*NONE, 0.0):
                with web_line(server.said) as page:
                    page.recv(WAIT_S)  # the metadata
                    page.send(openpi_request(value))
                    answer = page.recv(WAIT_S)
                    told.append(answer if isinstance(answer, str) else "")
    wrong = ["one was not refused"] * (not all("not finite" in line for line in told[:-1]))
    wrong += ["an honest one was not answered"] * bool(told[-1])
    return verdict(wrong, "takes no part", told[0])


def to_console(trial: FaultTrial) -> FaultOutcome:
    """A page's orders hold numbers that are none: not understood, and the robot walks on."""
    orders = [
        json.dumps({"do": do, "number": 1, "stops": 0, "seed": 1, "text": "walk"} | {field: value})
        for do, field in (("scene", "seed"), ("instruct", "stops"), ("release", "number"))
        for value in NONE
    ]
    with (
        walking_robot(trial) as rig,
        console_process(trial, "--connect", trial.robot_address) as (_, page),
        web_line(f"ws://{page}/live") as line,
    ):
        for order in orders:
            line.send(order)
        told = (json.loads(news) for news in line if isinstance(news, str))
        faults = (news["fault"] for news in told if news["kind"] == "answer")
        read = [next(faults) for _ in orders]
        return rig.undisturbed(read[0], all_refused=set(read) == {"not understood"})


def on_command_line(trial: FaultTrial) -> FaultOutcome:
    """Options of the robot are no numbers: nothing begins, and a line tells what fits."""
    told: list[str] = []
    for option in _OPTIONS:
        command = (*trial.hitogata, "simulate", option, "nan")
        with running(command, False) as program:
            _, said = program.communicate(timeout=WAIT_S)
            told.append(f"{program.returncode} {said}")
    wrong = [line for line in told if not line.startswith("2 ") or "Traceback" in line]
    return verdict(wrong, "never moved: nothing was begun", told[0].removeprefix("2 "), "nothing")


FAULTS = {
    "numbers_to_server": to_server,
    "numbers_to_operator_port": to_operator_port,
    **{f"numbers_to_{wire}": partial(to_foreign, wire) for wire in ("gr00t", "openpi")},
    "numbers_to_console": to_console,
    "numbers_on_command_line": on_command_line,
}
_NUMBERS = ("sequence", "epoch", "stops", "seed", "protocol")
