"""What follows any target within limits, against hand-computed values and arbitrary targets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bridge.control.safety import Limiter, stopping_rate
from robots.g1.embodiment import COMMAND_DIM, PERIOD_S, STAND_COMMAND
from tests.test_safety import LIMITS


def test_stopping_rate_by_hand():
    # A change of 2 per period of 0.02 s: from 5 it takes 5 + 3 + 1 periods of way, 0.18.
    found = stopping_rate(np.array([0.18, 0.12, 0.02, 0.0]), np.array(100.0), 0.02)
    # From 4: 4 + 2 + 0 = 0.12. From 1: 1 = 0.02.
    assert found == pytest.approx([5.0, 4.0, 1.0, 0.0])


TARGETS = st.lists(
    hnp.arrays(np.float64, COMMAND_DIM, elements=st.floats(-1e30, 1e30)),
    min_size=1,
    max_size=60,
)


@given(TARGETS, st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_no_stream_of_targets_leaves_value_rate_or_change_of_rate(targets, repeats):
    limiter = Limiter(LIMITS, STAND_COMMAND)
    values = [limiter.value.copy()]
    for target in targets:
        for _ in range(repeats):
            limiter.step(target)
            values.append(limiter.value.copy())
    path = np.array(values)
    rate = np.diff(path, axis=0) / PERIOD_S
    change = np.diff(np.vstack([np.zeros(COMMAND_DIM), rate]), axis=0) / PERIOD_S
    assert (path >= LIMITS.low - 1e-9).all() and (path <= LIMITS.high + 1e-9).all()
    assert (np.abs(rate) <= LIMITS.rate + 1e-6).all()
    assert (np.abs(change) <= LIMITS.rate_change * (1 + 1e-6)).all()


def test_a_target_within_limits_is_reached_and_not_passed():
    limiter = Limiter(LIMITS, STAND_COMMAND)
    target = STAND_COMMAND + 1.0
    path = np.array([limiter.step(target) for _ in range(60)])
    assert path[-1] == pytest.approx(target, abs=1e-6)
    assert (path <= target + 1e-6).all() and (np.diff(path, axis=0) >= -1e-6).all()
