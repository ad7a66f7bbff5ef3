"""The bad network: what it does to messages, one by one, and that it keeps clients apart."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import zmq

from bench.faults.proxy import Impairment, ImpairmentProxy
from bridge.contract import ActionChunk, UserError
from bridge.control.policy_link import PolicyLink
from bridge.wire.client import PolicyUnavailable, RemotePolicy
from robots.g1.embodiment import G1
from tests.doubles import INFO, await_true, observe, running_server
from tests.test_link import SOON_S

WAIT_MS = 20_000  # room for a busy machine
SILENCE_MS = 300


class Network:
    """A server's ROUTER behind a proxy, and the DEALERs of its clients."""

    def __init__(self, folder, **settings) -> None:
        back = f"ipc://{folder}/back.sock"
        self._context = zmq.Context()
        self.server = self._socket(zmq.ROUTER)
        self.server.bind(back)
        self.proxy = ImpairmentProxy(f"ipc://{folder}/front.sock", back, **settings)

    def client(self) -> zmq.Socket:
        client = self._socket(zmq.DEALER)
        client.connect(self.proxy.address)
        return client

    def close(self) -> None:
        self.proxy.close()
        self._context.destroy()

    def _socket(self, kind: int) -> zmq.Socket:
        socket = self._context.socket(kind)
        socket.linger, socket.rcvtimeo = 0, WAIT_MS
        return socket


@contextmanager
def network(folder, **settings) -> Iterator[tuple[Network, zmq.Socket]]:
    """A network, and one client of it."""
    made = Network(folder, **settings)
    try:
        yield made, made.client()
    finally:
        made.close()


def numbered(client: zmq.Socket, count: int) -> None:
    for number in range(count):
        client.send_multipart([b"head", bytes([number]) * 8])


def arrived(server: zmq.Socket, count: int) -> list[list[bytes]]:
    """The next messages of the clients, and that no other follows."""
    found = [server.recv_multipart()[1:] for _ in range(count)]
    assert not server.poll(SILENCE_MS)
    return found


def numbers(messages: list[list[bytes]]) -> list[int]:
    return [body[0] for _, body in messages]


def test_without_chaos_nothing_changes(tmp_path):
    with network(tmp_path) as (net, client):
        numbered(client, 50)
        assert numbers(arrived(net.server, 50)) == list(range(50))
        assert net.proxy.counters == {"delivered": 50, "duplicated": 0}


def test_nothing_arrives_when_all_is_lost(tmp_path):
    with network(tmp_path, requests=Impairment(loss=1.0)) as (net, client):
        numbered(client, 5)
        assert arrived(net.server, 0) == [] and net.proxy.counters["lost"] == 5
        net.proxy.requests = Impairment()
        numbered(client, 1)
        assert numbers(arrived(net.server, 1)) == [0]


def test_a_link_that_is_open_in_one_direction(tmp_path):
    with network(tmp_path, replies=Impairment(loss=1.0)) as (net, client):
        numbered(client, 1)
        name, *_ = net.server.recv_multipart()
        net.server.send_multipart([name, b"answer"])
        assert not client.poll(SILENCE_MS)
        net.proxy.disturb(Impairment())
        net.server.send_multipart([name, b"answer"])
        assert client.recv_multipart() == [b"answer"]


def test_each_arrives_twice(tmp_path):
    with network(tmp_path, requests=Impairment(duplication=1.0)) as (net, client):
        numbered(client, 3)
        assert numbers(arrived(net.server, 6)) == [0, 0, 1, 1, 2, 2]


def test_pairs_change_places(tmp_path):
    with network(tmp_path, requests=Impairment(reordering=1.0)) as (net, client):
        numbered(client, 5)  # the last one has nobody to wait for
        assert numbers(arrived(net.server, 5)) == [1, 0, 3, 2, 4]
        assert net.proxy.counters["reordered"] == 2


def test_one_frame_of_each_is_shorter(tmp_path):
    with network(tmp_path, requests=Impairment(truncation=1.0)) as (net, client):
        numbered(client, 40)
        for number, (head, body) in enumerate(arrived(net.server, 40)):
            assert b"head".startswith(head) and (bytes([number]) * 8).startswith(body)
            assert (len(head) < 4) != (len(body) < 8)


def test_one_byte_of_each_is_another(tmp_path):
    with network(tmp_path, requests=Impairment(corruption=1.0)) as (net, client):
        numbered(client, 40)
        for number, (head, body) in enumerate(arrived(net.server, 40)):
            sent = b"head" + bytes([number]) * 8
            changed = [a != b for a, b in zip(sent, head + body, strict=True)]
            assert sum(changed) == 1


def test_messages_are_late_and_in_order(tmp_path):
    with network(tmp_path, requests=Impairment(delay_s=0.5, jitter_s=0.2)) as (net, client):
        begin = time.monotonic()
        numbered(client, 20)
        assert numbers(arrived(net.server, 20)) == list(range(20))
        assert 0.5 < time.monotonic() - begin < 10.0


def test_what_was_stalled_arrives_afterwards(tmp_path):
    with network(tmp_path, requests=Impairment(stalled=True)) as (net, client):
        numbered(client, 3)
        assert arrived(net.server, 0) == []
        net.proxy.requests = Impairment()
        assert numbers(arrived(net.server, 3)) == [0, 1, 2]


def test_the_same_seed_gives_the_same_accidents(tmp_path):
    chaos = Impairment(loss=0.3, duplication=0.3, reordering=0.3, truncation=0.3, corruption=0.3)

    def outcome(seed: int) -> list[list[bytes]]:
        folder = tmp_path / str(time.monotonic_ns())
        folder.mkdir()
        with network(folder, requests=chaos, seed=seed) as (net, client):
            numbered(client, 100)
            found: list[list[bytes]] = []
            while net.server.poll(1500):
                found.append(net.server.recv_multipart()[1:])
            assert 60 <= net.proxy.counters["delivered"] == len(found) <= 120
            return found

    first = outcome(1)
    assert outcome(1) == first and outcome(2) != first


def test_one_chance_does_not_change_another(tmp_path):
    def lost(folder: str, chaos: Impairment) -> set[int]:
        (tmp_path / folder).mkdir()
        with network(tmp_path / folder, requests=chaos) as (net, client):
            numbered(client, 60)
            found = set()
            while net.server.poll(1500):
                found.add(net.server.recv_multipart()[2][0])
            return set(range(60)) - found

    alone = lost("a", Impairment(loss=0.5))
    assert 15 < len(alone) < 45
    assert lost("b", Impairment(loss=0.5, duplication=1.0)) == alone


def test_every_client_gets_its_own_answers(tmp_path):
    with network(tmp_path) as (net, first):
        clients = [first, *(net.client() for _ in range(4))]
        for number, client in enumerate(clients):
            client.send(bytes([number]))
        asked = [net.server.recv_multipart() for _ in clients]
        assert len({name for name, _ in asked}) == 5
        for message in reversed(asked):
            net.server.send_multipart(message)
        for number, client in enumerate(clients):
            assert client.recv() == bytes([number])


def test_an_address_that_is_taken_or_leads_elsewhere(tmp_path):
    with network(tmp_path) as (net, _):
        with pytest.raises(UserError, match="keys"):
            ImpairmentProxy("tcp://0.0.0.0:*", net.proxy.address)
        with (
            ImpairmentProxy("tcp://127.0.0.1:*", net.proxy.address) as other,
            pytest.raises(UserError, match="cannot listen"),
        ):
            ImpairmentProxy(other.address, net.proxy.address)


# --- around the policy server ---


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_a_policy_behind_it(transport, tmp_path):
    front = f"ipc://{tmp_path}/front.sock" if transport == "ipc" else "tcp://127.0.0.1:*"
    with (
        running_server(f"ipc://{tmp_path}/p.sock") as process,
        ImpairmentProxy(front, process.address) as proxy,
        RemotePolicy(proxy.address, G1, INFO, timeout_s=2.0) as policy,
    ):
        assert np.isfinite(policy.act("go", observe(1.0)).commands).all()
        proxy.disturb(Impairment(duplication=1.0))
        for turn in range(2, 6):
            assert policy.act("go", observe(turn)).observed_at_s == turn
        assert policy.dropped > 0
        proxy.replies = Impairment(loss=1.0)
        with pytest.raises(PolicyUnavailable, match="no answer within 2 s"):
            policy.act("go", observe(9.0))


def test_a_question_whose_answer_is_lost_is_asked_again(tmp_path):
    with (
        running_server(f"ipc://{tmp_path}/p.sock") as process,
        ImpairmentProxy(f"ipc://{tmp_path}/front.sock", process.address) as proxy,
        PolicyLink(proxy.address, G1, timeout_s=SOON_S, patience_s=0.5) as link,
    ):
        link.wait_connected(SOON_S)
        proxy.replies = Impairment(loss=1.0)
        link.ask("go", observe(1.0))
        await_true(lambda: proxy.counters["lost"] >= 2)
        link.ask("go", observe(2.0))  # in place of the first
        proxy.replies = Impairment()

        def answered() -> bool:
            answer = link.take()
            return isinstance(answer, ActionChunk) and answer.observed_at_s == 2.0

        await_true(answered)
        assert link.session == 1 and link.trouble == ""


def test_a_server_that_dies_behind_it_is_noticed_in_front_of_it(tmp_path):
    place = f"ipc://{tmp_path}/p.sock"
    with (
        ImpairmentProxy(f"ipc://{tmp_path}/front.sock", place) as proxy,
        running_server(place) as process,
        PolicyLink(proxy.address, G1) as link,
    ):
        link.wait_connected(SOON_S)
        process.kill()
        await_true(lambda: link.state.name == "lost")
        with running_server(place):
            await_true(lambda: link.session == 2)
