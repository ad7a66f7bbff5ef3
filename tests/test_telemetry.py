"""Telemetry from robot to viewers over real sockets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zmq

from bridge.contract import UserError
from bridge.operator import messages as wire
from bridge.operator.port import (
    OperatorPort,
)
from bridge.wire.messages import WireError
from robots.g1.embodiment import COMMAND_DIM, G1, STAND_COMMAND, STATE_DIM
from tests.doubles import await_true
from tests.test_operator import WAIT_S, await_telemetry, moment, patient_operator, raw_peer

pytestmark = pytest.mark.usefixtures("patient")


def test_telemetry_arrives_as_it_was(address):
    state = np.linspace(-1, 1, STATE_DIM, dtype=np.float32)
    whole = moment(
        time_s=12.5,
        level=2,
        cause="the operator stopped it",
        instruction="wave",
        commander="anna",
        status=1,
        status_probability=0.75,
        understood={"verb": "wave"},
        state=wire.floats(state),
        command=wire.floats(STAND_COMMAND),
        base_pose=[0.0, 1.0, 0.76, 1.0, 0.0, 0.0, 0.0],
        qpos=np.arange(36.0).tobytes(),
        policy_latency_ms=31.5,
        chunk_rate_hz=3.3,
        loop_overruns=2,
        counters={"rejected": 1},
        expert_use=[[0.25, 0.75]],
        tokens=108,
        steps=6,
        image=b"picture",
    )
    with OperatorPort(address, G1) as port, patient_operator(address) as viewer:
        port.publish(whole)
        seen = await_telemetry(port, viewer, whole)
        assert seen == whole
        np.testing.assert_array_equal(seen.state_vector(G1), state)
        np.testing.assert_array_equal(seen.command_vector(G1), STAND_COMMAND)
        plain = moment()
        assert plain.state_vector(G1) is None
        with pytest.raises(WireError, match=f"instead of {COMMAND_DIM} floats"):
            moment(command=b"1234").command_vector(G1)


def test_a_viewer_sees_the_newest_moment_and_picture(address):
    with OperatorPort(address, G1) as port, patient_operator(address) as viewer:
        await_telemetry(port, viewer, moment(image=b"first"))
        time.sleep(0.3)
        viewer.telemetry(0.0)
        for index in range(20):
            picture = f"picture {index}".encode() if index % 5 == 0 else None
            port.publish(moment(time_s=float(index), image=picture))
            time.sleep(0.01)
        time.sleep(0.3)
        seen = viewer.telemetry(WAIT_S)
        assert seen is not None and (seen.time_s, seen.image) == (19.0, b"picture 15")
        assert viewer.telemetry(0.05) is None
        port.publish(moment(time_s=20.0))
        seen = viewer.telemetry(WAIT_S)
        assert seen is not None and seen.image is None  # it was shown already


def test_foreign_telemetry_is_told(address):
    places = wire.addresses_of(address)
    with raw_peer("ipc://unused", zmq.PUB) as publisher, patient_operator(address) as viewer:
        publisher.bind(places.telemetry)

        def told() -> bool:
            publisher.send(b"something else")
            try:
                viewer.telemetry(0.05)
            except UserError as error:
                return "same release" in str(error)
            return False

        await_true(told)


def test_stalled_viewers_slow_nothing(address):
    image = os.urandom(100_000)
    with OperatorPort(address, G1) as port:
        place = port.addresses.telemetry
        with raw_peer(place, zmq.SUB) as deaf, running_viewer(address) as frozen:
            deaf.rcvhwm = 1
            deaf.subscribe(b"")
            await_true(lambda: (port.publish(moment()), deaf.poll(10) > 0)[1])
            frozen.send_signal(signal.SIGSTOP)
            before, longest_s = resident_bytes(), 0.0
            for index in range(1000):
                begin = time.monotonic()
                port.publish(moment(time_s=float(index), image=image))
                longest_s = max(longest_s, time.monotonic() - begin)
            assert longest_s < 2.0
            assert resident_bytes() - before < 30e6
            with patient_operator(address) as viewer:
                assert await_telemetry(port, viewer, moment(cause="seen")).cause == "seen"


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf(
        "SC_PAGE_SIZE"
    )


@contextmanager
def running_viewer(address: str) -> Iterator[subprocess.Popen]:
    """A process that has subscribed to telemetry."""
    script = (
        "import sys, zmq\n"
        "socket = zmq.Context().socket(zmq.SUB)\n"
        "socket.connect(sys.argv[1])\n"
        "socket.subscribe(b'')\n"
        "print('ready', flush=True)\n"
        "while True: socket.recv()\n"
    )
    place = wire.addresses_of(address).telemetry
    viewer = subprocess.Popen([sys.executable, "-c", script, place], stdout=subprocess.PIPE)
    try:
        assert viewer.stdout is not None and viewer.stdout.readline()
        yield viewer
    finally:
        viewer.kill()
        viewer.communicate()
