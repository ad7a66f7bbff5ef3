"""Faults of files: a full disk, kills in mid-write, models that are not what they were."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from assets import asset_path
from bench.faults.programs import BUNDLE, PYTHON, Child, robot_process, running
from bench.faults.rig import (
    WAIT_S,
    FaultTrial,
    command,
    levels,
    refusal,
    robot_at_work,
    seen,
    upright,
)
from bench.faults.trace import FaultOutcome, breaches_of, verdict
from bridge.blackbox.recording import read_recording
from bridge.contract import UserError
from bridge.control.safety import Level
from sim.scene import Scene
from sim.world import World

KILLS = 50
MOST_LOST_S = 1.0
PREFILL, DECODE = "prefill.onnx", "decode.onnx"


def disk_full(trial: FaultTrial) -> FaultOutcome:
    """Nothing can be written any more while the black box records."""
    with robot_process(trial) as (robot, operator):
        unlimited = resource.prlimit(robot.pid, resource.RLIMIT_FSIZE)
        # A limit on the size of files stands in for the full disk.
        resource.prlimit(robot.pid, resource.RLIMIT_FSIZE, (1, unlimited[1]))
        walked = seen(operator, lambda now: now.counters["failed_journal_writes"] > 0)
        operator.stop()
        read = seen(operator, lambda now: now.counters["failed_recordings"] > 0)
        resource.prlimit(robot.pid, resource.RLIMIT_FSIZE, unlimited)
        robot.send_signal(signal.SIGTERM)
        ended = robot.wait(WAIT_S)
    [*_, last] = sorted((trial.folder / "box").glob("recording-*.npz"))
    kept = read_recording(last)
    wrong = breaches_of(kept)
    wrong += ["it did not walk on"] if walked.level != Level.RUN else []
    wrong += ["it did not obey the stop"] if read.level != Level.SAFE_STAND else []
    wrong += ["it did not end well"] if ended else []
    wrong += ["the operator read nothing of it"] if "could not write" not in read.cause else []
    wrong += [] if np.diff(kept.time_s).max() < 0.03 else ["periods are missing"]
    return verdict(
        wrong,
        "walked on, and stopped when told",
        read.cause,
        "nothing: once there was room, all that memory held was written",
    )


def killed_recording(trial: FaultTrial) -> FaultOutcome:
    """kill -9 of the robot's own process while it records."""
    with robot_process(trial) as (robot, operator):
        begun_s = seen(operator, lambda now: True).time_s
        last = seen(operator, lambda now: now.time_s > begun_s + 2.0)
        robot.kill()
        robot.wait()
    kept = read_recording(trial.folder / "box")
    lost_s = max(0.0, last.time_s - float(kept.time_s[-1]))
    wrong = breaches_of(kept)
    wrong += [f"{lost_s:.2f} s were lost"] if lost_s > MOST_LOST_S else []
    return verdict(
        wrong,
        f"walked until its process was gone; {len(kept.time_s)} periods are in its journal",
        "nothing more: its telemetry ends",
        f"the last {lost_s:.2f} s of the record",
    )


def killed_checkpointing(trial: FaultTrial) -> FaultOutcome:
    """kill -9 of a training while it writes a checkpoint, fifty times."""
    rng = np.random.default_rng(0)
    path, steps = trial.folder / "checkpoint.safetensors", [0]
    with running((*PYTHON, "-m", "bench.faults.checkpoint_drill", str(path))) as drill:
        writer = int(_asked(drill, "write"))
        took_s = _next_write_s(path)
        for _ in range(KILLS):
            os.kill(writer, signal.SIGKILL)
            steps.append(int(_asked(drill, "read")))
            writer = int(_asked(drill, "write"))
            time.sleep(float(rng.uniform(0, 3 * took_s)))
        os.kill(writer, signal.SIGKILL)
    left = len(list(trial.folder.glob("*.safetensors")))
    wrong = [] if left == 1 else [f"{left} files that look like checkpoints"]
    wrong += [] if all(np.diff(steps) >= 0) else ["an older checkpoint came back"]
    wrong += [] if steps[-1] > 0 else ["nothing was ever written"]
    return verdict(
        wrong,
        "takes no part",
        f"the checkpoint of step {steps[-1]}, whole, after {KILLS} kills",
        "the checkpoint being written; the one before is always whole",
    )


def damaged_model(damage: Callable[[Path], object], told: str, trial: FaultTrial) -> FaultOutcome:
    """A file of the bundle is damaged, cut, missing or another: no server opens it."""
    bundle = trial.folder / "bundle"
    shutil.copytree(BUNDLE, bundle)
    damage(bundle)
    return _not_served(trial, told, str(bundle))


def missing_provider(trial: FaultTrial) -> FaultOutcome:
    """A GPU is insisted on, and there is none."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    return _not_served(trial, "--strict-gpu", str(BUNDLE), "--strict-gpu", **hidden)


def damaged_walker(trial: FaultTrial) -> FaultOutcome:
    """The walker's file is cut, missing or another graph: no robot begins."""
    good, bad = asset_path("models/walker.onnx"), trial.folder / "walker.onnx"
    told = [refusal(partial(World, Scene(), walker_path=bad, render=False))]
    for content in (good.read_bytes()[:-1000], (BUNDLE / PREFILL).read_bytes(), b""):
        bad.write_bytes(content)
        told.append(refusal(partial(World, Scene(), walker_path=bad, render=False)))
    wrong = [line for line in told if str(bad) not in line]
    return verdict(wrong, "never moved: nothing was begun", told[1], "nothing")


def second_robot(option: str, remedy: str, trial: FaultTrial) -> FaultOutcome:
    """A second robot is started where one works, at its address or in its black box: refused."""
    with robot_process(trial) as (robot, operator):
        reach = {"--address": trial.robot_address, "--recordings": str(trial.folder / "box")}
        own = {option: reach[option]}
        others = {"--address": f"ipc://{trial.folder}/b.sock", "--recordings": str(trial.folder)}
        words = [word for pair in {**others, **own}.items() for word in pair]
        second = (*trial.hitogata, "simulate", "--connect", trial.policy_address, *words)
        told = refusal(lambda: running(second).__enter__())
        since_s = seen(operator, lambda now: True).time_s
        read = seen(operator, lambda now: now.time_s > since_s + 1.0)
        robot.send_signal(signal.SIGTERM)
        ended = robot.wait(WAIT_S)
    [*_, last] = sorted((trial.folder / "box").glob("recording-*.npz"))
    wrong = breaches_of(read_recording(last))
    wrong += ["it did not walk on"] * (read.level != Level.RUN)
    wrong += ["it did not end well"] * bool(ended)
    wrong += ["no remedy was told"] * (remedy not in told)
    return verdict(wrong, "walked on", told)


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _swap(bundle: Path) -> None:
    first, second = bundle / PREFILL, bundle / DECODE
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def _cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "corrupted": (lambda bundle: _flip(bundle / PREFILL), "altered"),
    "swapped_graphs": (_swap, "altered"),
    "missing_graph": (lambda bundle: (bundle / DECODE).unlink(), DECODE),
    "cut_manifest": (lambda bundle: _cut(bundle / "manifest.json"), "manifest.json"),
}
FAULTS = {
    "disk_full": disk_full,
    "disk_killed_recording": killed_recording,
    "disk_killed_checkpointing": killed_checkpointing,
    **{f"model_{kind}": partial(damaged_model, *terms) for kind, terms in DAMAGES.items()},
    "model_missing_provider": missing_provider,
    "walker_damaged": damaged_walker,
    "process_same_address": partial(second_robot, "--address", "choose another"),
    "process_same_black_box": partial(second_robot, "--recordings", "choose another folder"),
}


def _asked(drill: Child, line: str) -> str:
    assert drill.stdin is not None and drill.stdout is not None
    drill.stdin.write(f"{line}\n")
    drill.stdin.flush()
    answer = drill.stdout.readline()
    if not answer:
        raise UserError(f"the drill has ended: {drill.communicate()[1].strip()[-500:]}")
    return answer


def _next_write_s(path: Path) -> float:
    """How long after one checkpoint the next is there."""
    changes_s: list[float] = []
    deadline = time.monotonic() + WAIT_S
    known = path.stat().st_mtime_ns
    while len(changes_s) < 2:
        if time.monotonic() > deadline:
            raise TimeoutError("no checkpoint was ever written")
        if (now := path.stat().st_mtime_ns) != known:
            known = now
            changes_s.append(time.monotonic())
        time.sleep(0.001)
    return changes_s[1] - changes_s[0]


def _not_served(trial: FaultTrial, remedy: str, *serve: str, **environment: str) -> FaultOutcome:
    """A bundle that no server opens, and a robot that is told to walk by it."""
    place = trial.policy_address
    told = "nothing: it is served"
    with robot_at_work(trial, place, connected=False) as rig:
        try:
            with running((*trial.hitogata, "serve", *serve, "--address", place), **environment):
                pass
        except UserError as error:
            told = str(error)
        command(rig.operator, "walk")
        read = rig.at(Level.SAFE_STAND)
        rig.rest(1.0)
    return rig.outcome(
        "never moved: HOLD, then SAFE_STAND",
        f"{told} / {read.cause}",
        "nothing was begun",
        remedy_told=remedy in told,
        never_ran=Level.RUN not in levels(rig.noted),
        upright=upright(rig.noted),
    )
