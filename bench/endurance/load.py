"""One policy server under load: many robots ask it at once, and none may starve."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bench.faults.programs import BUNDLE, bundle_server
from bench.faults.rig import new_trial
from bench.latency import INSTRUCTION, record_observations
from bridge.contract import Observation, UserError
from bridge.ranges import PositiveFloat, PositiveInt
from bridge.wire.client import RemotePolicy
from robots.g1.embodiment import CHUNK_S, G1

CONNECT_S = 60.0


@dataclass(frozen=True)
class LoadConfig:
    """How much is asked.

    Attributes:
        clients: Robots that ask.
        hz: How often each asks, as long as it gets its answers in time.
        seconds: For how long.
    """

    clients: PositiveInt = 16
    hz: PositiveFloat = 5.0
    seconds: PositiveFloat = 300.0


@dataclass
class _Client:
    """What one robot met: when its answers came, how long each took, what it was told else."""

    answered_s: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def longest_gap_s(self, begun_s: float, ended_s: float) -> float:
        return float(np.diff([begun_s, *self.answered_s, ended_s]).max())


def put_load(hitogata: Sequence[str], config: LoadConfig = LoadConfig()) -> dict[str, float]:
    """Serves the shipped bundle to many clients at once, by the command line of `hitogata`.

    A client starves when it gets no answer for as long as a chunk plays: its robot would hold.
    """
    seen = record_observations()
    clients = [_Client() for _ in range(config.clients)]
    with new_trial(hitogata) as trial, bundle_server(trial) as server:
        begin = threading.Barrier(config.clients + 1)
        threads = [
            threading.Thread(target=_ask, args=(client, trial.policy_address, seen, config, begin))
            for client in clients
        ]
        for thread in threads:
            thread.start()
        try:
            begin.wait(CONNECT_S)
        except threading.BrokenBarrierError as error:
            raise UserError(
                f"not all of {config.clients} clients could connect: read the errors above"
            ) from error
        begun_s = time.monotonic()
        for thread in threads:
            thread.join()
        if server.poll() is not None:
            raise UserError(f"the server of {BUNDLE} has ended under load: read its log")
    return _figures(clients, config, begun_s)


def _ask(
    client: _Client,
    place: str,
    seen: Sequence[Observation],
    config: LoadConfig,
    begin: threading.Barrier,
) -> None:
    with RemotePolicy(place, G1) as policy:
        begin.wait()
        due_s = ended_s = time.monotonic()
        ended_s += config.seconds
        turn = 0
        while (now_s := time.monotonic()) < ended_s:
            if now_s < due_s:
                time.sleep(due_s - now_s)
            due_s = max(due_s + 1 / config.hz, time.monotonic())
            turn += 1
            asked_s = time.monotonic()
            try:
                policy.act(INSTRUCTION, replace(seen[turn % len(seen)], time_s=float(turn)))
            except UserError as error:
                client.faults.append(str(error))
                return
            client.answered_s.append(time.monotonic())
            client.latencies_ms.append(1000 * (time.monotonic() - asked_s))


def _figures(clients: list[_Client], config: LoadConfig, begun_s: float) -> dict[str, float]:
    ended_s = begun_s + config.seconds
    gaps_s = [client.longest_gap_s(begun_s, ended_s) for client in clients]
    latencies = np.concatenate([client.latencies_ms for client in clients])
    if not latencies.size:
        raise UserError(f"no client was ever answered: {clients[0].faults or 'the server hangs'}")
    p50, p99 = np.percentile(latencies, (50, 99))
    answered = [len(client.answered_s) for client in clients]
    return {
        "clients": config.clients,
        "seconds": config.seconds,
        "asked_hz": config.clients * config.hz,
        "answered_hz": sum(answered) / config.seconds,
        "least_answered_hz": min(answered) / config.seconds,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "longest_gap_s": max(gaps_s),
        "faults": sum(len(client.faults) for client in clients),
        "starved": sum(gap_s > CHUNK_S for gap_s in gaps_s),
    }
