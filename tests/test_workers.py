"""Jobs of several processes: every end of a process is noticed, and told in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from bridge.contract import UserError
from tasks.workers import workers

ROOT = Path(__file__).parents[1]
SCRIPT = """
from tasks.demonstrations.collect import collect
collect({folder!r}, 2, families=("walk",))
"""


def _no_policy() -> NoReturn:
    raise UserError("there is no checkpoint")


def _double(_worker: object, job: int) -> int:
    return 2 * job


def _die_once(_worker: object, mark: Path | int) -> Any:
    if isinstance(mark, Path) and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return mark


def _die(_worker: object, job: int) -> int:
    if job == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return job


@pytest.mark.parametrize("processes", [1, 2])
def test_results_keep_their_order(processes: int) -> None:
    with workers(processes, None, ()) as mapped:
        assert [*mapped(_double, range(5))] == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_policy_that_cannot_be_made_ends_the_work_with_its_reason(processes: int) -> None:
    with pytest.raises(UserError, match="no checkpoint"), workers(processes, _no_policy, ()) as m:
        next(m(_double, [1, 2, 3]))


def test_a_job_whose_process_was_killed_is_tried_once_more(tmp_path: Path) -> None:
    jobs = [1, tmp_path / "mark", 2]
    with workers(2, None, ()) as mapped:
        assert [*mapped(_die_once, jobs)] == jobs


def test_a_job_that_always_kills_its_process_is_reported_after_those_before_it() -> None:
    found = []
    with workers(2, None, ()) as mapped, pytest.raises(UserError, match="killed twice"):
        for each in mapped(_die, [0, 1]):
            found.append(each)
    assert found == [0]


@pytest.mark.parametrize("from_stdin", [True, False])
def test_a_program_that_cannot_be_imported_is_told_so(tmp_path: Path, from_stdin: bool) -> None:
    script = SCRIPT.format(folder=str(tmp_path / "demos"))
    path = tmp_path / "unguarded.py"
    path.write_text(script, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-" if from_stdin else str(path)],
        input=script if from_stdin else "",
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert done.returncode == 1
    assert "UserError" in done.stderr and '`if __name__ == "__main__":`' in done.stderr
