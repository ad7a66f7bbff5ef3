"""What the black box takes of a control period, beside copying what it is given.

Run it as `python -m tests.bench.bench_recorder`. Prints a line, and one of JSON.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import tyro

from bridge.blackbox.recorder import Recorder
from robots.g1.embodiment import G1, PERIOD_S
from tests.test_recorder import moment


def main(moments: int = 1000) -> None:
    """Times of this thread's processor alone: the writing is another's."""
    given = [moment(index) for index in range(200)]
    with tempfile.TemporaryDirectory() as folder, Recorder(Path(folder), G1) as recorder:
        begun_s = time.thread_time()
        for index in range(moments):
            recorder.add(given[index % len(given)])
        added_s = time.thread_time()
        for index in range(moments):
            each = given[index % len(given)]
            for array in (each.state, each.asked, each.sent, *each.images.values()):
                if array is not None:
                    array.copy()
        copied_s = time.thread_time()
    add_us = 1e6 * (added_s - begun_s) / moments
    ratio = (added_s - begun_s) / (copied_s - added_s)
    share = 1e-6 * add_us / PERIOD_S
    print(f"{add_us:.0f} us a period, {share:.2%} of it; {ratio:.1f} times a copy of its arrays")
    print(json.dumps({"add_us": add_us, "share_of_period": share, "copy_ratio": ratio}))


if __name__ == "__main__":
    tyro.cli(main)
