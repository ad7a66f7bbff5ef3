"""Fixtures that several files share, and which files are run first."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.operator import messages

# Else one worker is left with them at the end.
LONGEST = (
    *("test_tiers.py", "test_faults.py", "test_faults_around.py"),
    "test_console_browser.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture
def address(tmp_path: Path) -> str:
    """Where a robot listens to its operators."""
    return f"ipc://{tmp_path}/robot.sock"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may keep a thread waiting for longer than a commander may be silent."""
    monkeypatch.setattr(messages, "STALE_S", 30.0)
