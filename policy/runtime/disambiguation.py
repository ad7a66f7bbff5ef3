"""Disambiguation: which meaning of an unclear instruction to act on, given what is in view.

A word that was never heard before ("the lavender one") is often read as two values at once. Of
what it may mean, people mean what is there.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

# The slots that name what can be seen.
NAMES = ("colour", "shape")
# What is not in view now counts a twentieth of what is. Of 24 kinds of objects one or two are in
# view: to see by chance what was never meant is rare, and to look elsewhere still is common.
OUT_OF_VIEW = 0.05
MOST_MEANINGS = 4


class Hypothesis(NamedTuple):
    """One way to take an instruction: the class of each slot (S,), and how likely it is."""

    classes: np.ndarray
    chance: float


def hypotheses(
    slots: Mapping[str, Sequence[str]], classes: np.ndarray, chances: np.ndarray
) -> list[Hypothesis]:
    """The meanings worth a look, likeliest first; one alone where the words leave no doubt.

    `classes` (S,) are the likeliest of each slot, 0 for "not mentioned"; `chances` (C,) those of
    all classes of all slots, one slot after another. Only names of objects are put in doubt, and
    only for names that say as much: less of a name would fit more things.
    """
    places = [i for i, name in enumerate(slots) if name in NAMES]
    if not any(classes[i] for i in places):
        return [Hypothesis(classes, 1.0)]
    ends = np.cumsum([len(values) + 1 for values in slots.values()])
    of_slots = np.split(chances, ends[:-1])
    found = []
    for values in itertools.product(*(range(min(1, classes[i]), len(of_slots[i])) for i in places)):
        other = classes.copy()
        other[places] = values
        found.append(Hypothesis(other, float(np.prod([of_slots[i][other[i]] for i in places]))))
    found.sort(key=lambda meaning: -meaning.chance)
    found = [meaning for meaning in found if meaning.chance > OUT_OF_VIEW * found[0].chance]
    return found[:MOST_MEANINGS]


def select(meanings: Sequence[Hypothesis], visibility: Sequence[float]) -> int:
    """The number of the meaning to act on, given how surely each one's object is in view."""
    weights = [
        meaning.chance * max(visible, OUT_OF_VIEW)
        for meaning, visible in zip(meanings, visibility, strict=True)
    ]
    return int(np.argmax(weights))


def prior_for(slots: Mapping[str, Sequence[str]], classes: np.ndarray) -> np.ndarray:
    """(1, C) float32 to add to the logits of all slots, so that these `classes` (S,) are read."""
    rows = [np.zeros(len(values) + 1, np.float32) for values in slots.values()]
    for row, value in zip(rows, classes, strict=True):
        row[value] = 100.0
    return np.concatenate(rows)[None]


def no_prior(slots: Mapping[str, Sequence[str]]) -> np.ndarray:
    """(1, C) float32 zeros: as the words have it."""
    return np.zeros((1, sum(len(values) + 1 for values in slots.values())), np.float32)
