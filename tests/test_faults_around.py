"""Faults around the robot on a simulated one: its programs, strangers, company, driver, people."""

from __future__ import annotations

import pytest

from bench.faults.catalogue import GROUPS
from tests.test_faults import check_safe, one_of_each


@pytest.mark.slow
@pytest.mark.parametrize("name", one_of_each(group.FAULTS for group in GROUPS[8:]))
def test_the_robot_stays_safe(name, patient):
    check_safe(name)
