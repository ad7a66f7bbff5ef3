"""What doubtful words may mean, and what the eyes make of it: numbers worked out by hand."""

import numpy as np
import pytest

from policy.runtime.disambiguation import (
    Hypothesis,
    hypotheses,
    no_prior,
    prior_for,
    select,
)

SLOTS = {"action": ("stop", "go_to"), "colour": ("red", "orange"), "shape": ("cube", "ball")}


def chances(colour: list[float], shape: list[float]) -> np.ndarray:
    return np.array([0.0, 0.0, 1.0, *colour, *shape])


def test_certain_words_have_one_meaning() -> None:
    (only,) = hypotheses(SLOTS, np.array([2, 1, 2]), chances([0.001, 0.99, 0.009], [0, 0, 1]))
    assert only.classes.tolist() == [2, 1, 2]


def test_what_names_nothing_is_not_in_doubt() -> None:
    (only,) = hypotheses(SLOTS, np.array([1, 0, 0]), chances([0.5, 0.3, 0.2], [0.6, 0.4, 0]))
    assert only.classes.tolist() == [1, 0, 0]


def test_pairs_of_colour_and_shape_come_likeliest_first() -> None:
    found = hypotheses(SLOTS, np.array([2, 1, 2]), chances([0.0, 0.7, 0.3], [0.0, 0.2, 0.8]))
    assert [(m.classes.tolist(), pytest.approx(m.chance)) for m in found] == [
        ([2, 1, 2], 0.56),
        ([2, 2, 2], 0.24),
        ([2, 1, 1], 0.14),
        ([2, 2, 1], 0.06),
    ]


def test_a_name_may_say_more_than_the_likeliest_reading_but_not_less() -> None:
    found = hypotheses(SLOTS, np.array([2, 0, 2]), chances([0.6, 0.4, 0.0], [0.45, 0.0, 0.55]))
    assert [m.classes.tolist() for m in found] == [[2, 0, 2], [2, 1, 2]]


@pytest.mark.parametrize(
    ("seen", "number"),
    [
        ([0.0, 0.0], 0),
        ([0.0, 1.0], 1),  # 0.9 x 0.05 < 0.1 x 1
        ([0.0, 0.4], 0),  # 0.045 > 0.04
        ([1.0, 1.0], 0),
    ],
)
def test_sight_decides_between_meanings(seen: list[float], number: int) -> None:
    meanings = [Hypothesis(np.array([2, 1, 2]), 0.9), Hypothesis(np.array([2, 2, 2]), 0.1)]
    assert select(meanings, seen) == number


def test_priors_have_the_layout_of_all_classes() -> None:
    assert no_prior(SLOTS).tolist() == [[0.0] * 9]
    assert np.flatnonzero(prior_for(SLOTS, np.array([2, 0, 1]))).tolist() == [2, 3, 7]
