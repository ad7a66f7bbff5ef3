"""A sentence as somebody types it, in each language that has wordings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tasks.language import grammar
from tasks.language.ja import typed as ja


@dataclass(frozen=True)
class Typist:
    """How a language is typed: with one slip; with case, marks and forms of address."""

    with_typo: Callable[[str, np.random.Generator], str]
    dressed: Callable[[str, np.random.Generator], str]


TYPISTS = {
    "en": Typist(grammar.with_typo, grammar.dressed),
    "ja": Typist(ja.with_typo, ja.dressed),
}


def typed(
    text: str, rng: np.random.Generator, language: str = "en", typo_share: float = 0.0
) -> str:
    """A sentence of a grammar of `language` as it is typed, in `typo_share` of all with a slip."""
    typist = TYPISTS[language]
    if rng.random() < typo_share:
        text = typist.with_typo(text, rng)
    return typist.dressed(text, rng)
