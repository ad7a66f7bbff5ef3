"""A simulated robot at work for long, among faults at random: it must outlast them all.

Servers die and come back, hang, or forget it, the network is bad, messages never end, the loop is
suspended, people pause, stop and release. At the end the robot
stands upright, everything that reached its motors was within limits, and nothing has leaked.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bench.faults.cases.clients import push_out
from bench.faults.cases.orders import ORDERS, give
from bench.faults.endless import send_without_end, stranger
from bench.faults.programs import Child, bundle_server
from bench.faults.proxy import Impairment, ImpairmentProxy
from bench.faults.rig import FaultTrial, Rig, command, new_trial, robot_at_work
from bench.faults.trace import verdict
from bench.footprint import Footprint, footprint_of
from bridge.contract import UserError
from bridge.control.safety import Level
from bridge.ranges import PositiveFloat, Seed

MOST_GROWTH_MB = 20.0
WARM_UP_S = 60.0
# In place, so that half an hour fits into a room; one step there is one step back.
INSTRUCTIONS = (
    "wave",
    "raise your left arm",
    "raise your right arm",
    "turn left by ninety degrees",
    "turn right by ninety degrees",
    "walk forward half a metre",
    "walk backward half a metre",
)
_IN_PLACE = 5
_FAR_M = 1.0
_FLOOD_BYTES = 1 << 30
_QUIET_S, _FAULT_S = (2.0, 8.0), (0.5, 6.0)


@dataclass(frozen=True)
class SoakConfig:
    """How long, and which random faults.

    Attributes:
        minutes: How long; leaks are counted after the first minute, or quarter.
        seed: Another seed, other faults.
    """

    minutes: PositiveFloat = 30.0
    seed: Seed = 0


class Soak:
    """A robot with its server and a network between them, and the faults that befall it."""

    def __init__(self, trial: FaultTrial, rng: np.random.Generator) -> None:
        self.counts: Counter[str] = Counter()
        self.wrong: set[str] = set()
        self.doing = "beginning"
        self._trial, self._rng = trial, rng
        self._front = f"ipc://{trial.folder}/network.sock"
        self._serving, self._network = ExitStack(), ExitStack()
        self._server = self._serve()
        self._proxy = self._connect()
        self._stack = ExitStack()
        self.rig: Rig = self._stack.enter_context(
            robot_at_work(trial, self._proxy.address, render=True)
        )

    def close(self) -> None:
        self._stack.close()
        self._network.close()
        self._serving.close()

    def befall(self) -> None:
        """One fault at random, and what an operator does after it."""
        faults = (
            *(self._kill, self._suspend, self._disturb, self._stop),
            *(self._suspend_loop, self._flood, self._push_out, self._order),
        )
        fault: Callable[[], None] = faults[int(self._rng.integers(len(faults)))]
        self.doing = fault.__name__.strip("_")
        self.counts[self.doing] += 1
        fault()
        self._instruct()
        time.sleep(float(self._rng.uniform(*_QUIET_S)))
        self.wrong |= set(self.rig.forget())
        if not self.rig.noted[-1].upright:
            self.wrong.add("the robot has fallen")

    def settled(self) -> Footprint:
        """What this process holds with a fresh network and a running robot."""
        self.doing = "settling"
        self._network.close()
        self._proxy = self._connect()
        self._instruct()
        self.wrong |= set(self.rig.forget())
        gc.collect()
        return footprint_of()

    def _serve(self) -> Child:
        return self._serving.enter_context(bundle_server(self._trial))

    def _connect(self) -> ImpairmentProxy:
        seed = int(self._rng.integers(1 << 31))
        proxy = ImpairmentProxy(self._front, self._trial.policy_address, seed=seed)
        return self._network.enter_context(proxy)

    def _instruct(self) -> None:
        """Releases what is latched, and begins something that keeps the robot in its room."""
        pose = self.rig.until(lambda seen: seen.base_pose is not None).base_pose or [0.0, 0.0]
        far = max(abs(pose[0]), abs(pose[1])) > _FAR_M
        choices = INSTRUCTIONS[:_IN_PLACE] if far else INSTRUCTIONS
        command(self.rig.operator, choices[int(self._rng.integers(len(choices)))])
        self.rig.resume()

    def _kill(self) -> None:
        self._server.kill()
        self._pass_time()
        self._serving.close()
        self._server = self._serve()

    def _suspend(self) -> None:
        self._server.send_signal(signal.SIGSTOP)
        self._pass_time()
        self._server.send_signal(signal.SIGCONT)

    def _disturb(self) -> None:
        chance = self._rng.uniform(0.0, 0.3, size=5)
        self._proxy.disturb(
            Impairment(
                delay_s=float(self._rng.uniform(0.0, 0.4)),
                jitter_s=float(self._rng.uniform(0.0, 0.2)),
                loss=float(chance[0]),
                duplication=float(chance[1]),
                reordering=float(chance[2]),
                truncation=float(chance[3]),
                corruption=float(chance[4]),
                stalled=bool(self._rng.random() < 0.2),
            )
        )
        self._pass_time()
        self._proxy.disturb(Impairment())

    def _stop(self) -> None:
        self.rig.operator.stop()
        self.rig.at(Level.SAFE_STAND)
        self._pass_time()

    def _suspend_loop(self) -> None:
        """SIGSTOP of this very process, and SIGCONT a while later, by another one."""
        seconds = float(self._rng.uniform(0.1, 1.0))
        this = os.getpid()
        script = f"kill -STOP {this}; sleep {seconds:.2f}; kill -CONT {this}"
        subprocess.run(["sh", "-c", script], check=True)

    def _flood(self) -> None:
        """A message to the server that never ends."""
        with stranger(self._trial.policy_address) as line:
            send_without_end(line, 1000, _FLOOD_BYTES)

    def _push_out(self) -> None:
        self._instruct()  # a robot that asks for nothing does not learn that it was forgotten
        push_out(self.rig, self._trial.policy_address)

    def _order(self) -> None:
        """Pause, stop and release in some order."""
        for order in self._rng.permutation(ORDERS):
            give(self.rig, str(order))

    def _pass_time(self) -> None:
        time.sleep(float(self._rng.uniform(*_FAULT_S)))


def soak(hitogata: Sequence[str], config: SoakConfig = SoakConfig()) -> dict[str, Any]:
    """Soaks a robot; how often each fault came, what has grown, and an outcome as of a fault.

    `hitogata` is the command line that starts the program. What ends the soak before its time is
    named among what was wrong, beside the figures so far.
    """
    rng = np.random.default_rng(config.seed)
    begun_s = time.monotonic()
    ends_s = begun_s + 60 * config.minutes
    warm_s = begun_s + min(WARM_UP_S, 15 * config.minutes)
    before: Footprint | None = None
    after: Footprint | None = None
    told = ""
    with new_trial(hitogata) as trial:
        soaked = Soak(trial, rng)
        try:
            soaked.settled()
            while before is None or time.monotonic() < ends_s:
                soaked.befall()
                if before is None and time.monotonic() > warm_s:
                    before = soaked.settled()
            after = soaked.settled()
            told = soaked.rig.until(lambda seen: True).cause
        except (TimeoutError, UserError, RuntimeError) as error:
            soaked.wrong |= {f"{soaked.doing}: {error}", *soaked.rig.forget()}
        finally:
            soaked.close()
    minutes = min(config.minutes, (time.monotonic() - begun_s) / 60)
    grown = _growth(before, after) if before and after else {}
    wrong = sorted(soaked.wrong) + _leaks(grown)
    outcome = verdict(wrong, f"upright after {minutes:.3g} minutes", told)
    return {
        **asdict(outcome),
        "minutes": minutes,
        "faults": dict(soaked.counts),
        **grown,
        **soaked.rig.node.loop.safety.counters,
    }


def _growth(before: Footprint, after: Footprint) -> dict[str, Any]:
    return {
        "growth_mb": after.memory_mb - before.memory_mb,
        "files": [before.files, after.files],
        "threads": [before.threads, after.threads],
    }


def _leaks(grown: dict[str, Any]) -> list[str]:
    """What has grown more than it should, in words."""
    found: list[str] = []
    if (growth_mb := grown.get("growth_mb", 0.0)) > MOST_GROWTH_MB:
        found.append(f"memory grew by {growth_mb:.0f} MB")
    for kind in ("files", "threads"):
        first, last = grown.get(kind, (0, 0))
        if last > first:
            found.append(f"{last - first} {kind} leaked")
    return found
