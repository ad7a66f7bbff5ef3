"""The black box on a full disk: what is counted, told and kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.blackbox.journal import read_frames
from bridge.blackbox.recorder import Recorder
from bridge.blackbox.recording import read_recording
from robots.g1.embodiment import G1
from tests.test_recorder import await_true, check, moment

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("most_bytes", [0, 20_000])
def test_a_full_disk_is_counted_and_told(tmp_path, most_bytes):
    script = subprocess.run(
        [sys.executable, __file__, str(tmp_path), str(most_bytes)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert script.returncode == 0, script.stderr
    told = json.loads(script.stdout)
    assert told["counters"]["failed_journal_writes"] > 0
    assert told["counters"]["failed_recordings"] > 0
    assert told["counters"]["lost_periods"] == 0
    assert "could not write" in told["trouble"]
    assert told["records_after"] > told["records_before"]
    # Once there is room again, all that memory holds is written.
    check(read_recording(told["path"]), range(201))


def record_on_a_full_disk(folder: Path, most_bytes: int) -> None:
    """A limit on the size of files stands in for the full disk: it fails half-way as well."""
    import resource

    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, unlimited[1]))
    with Recorder(folder, G1, after_s=1.0) as recorder:
        for index in range(200):
            recorder.add(moment(index))
            if index == 100:
                recorder.write("in vain")
            if index % 20 == 0:
                await_true(lambda index=index: recorder._ring._read == index + 1)
        await_true(lambda: recorder.counters["failed_recordings"] >= 2)
        told: dict[str, object] = {"counters": dict(recorder.counters)}
        told["trouble"] = recorder.trouble
        told["records_before"] = before = len(read_frames(folder))
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        recorder.add(moment(200))
        await_true(lambda: recorder._ring._read == 201)
        await_true(lambda: len(read_frames(folder)) > before)
        told["records_after"] = len(read_frames(folder))
        told["path"] = str(recorder.write("saved"))
    print(json.dumps(told))


if __name__ == "__main__":
    record_on_a_full_disk(Path(sys.argv[1]), int(sys.argv[2]))
