"""Sentences from patterns: how words are drawn, and how people mistype."""

import numpy as np
import pytest

from tasks.language.grammar import Grammar, Words, with_typo


def test_a_typing_error_is_one_slip_inside_a_long_word() -> None:
    rng = np.random.default_rng(0)
    text = "go 1.5 m to the purple cylinder"
    seen = set()
    for _ in range(300):
        wrong = with_typo(text, rng)
        seen.add(len(wrong) - len(text))
        assert wrong.startswith("go 1.5 m to the ")
        differing = [(a, b) for a, b in zip(text.split(), wrong.split(), strict=True) if a != b]
        assert len(differing) <= 1
        for word, slip in differing:
            assert slip[0] == word[0] and len(set(word) ^ set(slip)) <= 2
    assert seen == {-1, 0, 1}
    assert with_typo("go 2 m", rng) == "go 2 m"


def test_the_first_of_the_words_is_said_more_often() -> None:
    words: Words = {"greeting": ["hello", "hi", "hey", "howdy"]}
    grammar = Grammar(words, {"wave": ["{greeting}"]}, {}, [], ["~"], {}, usual_share=0.4)
    rng = np.random.default_rng(0)
    said = [grammar.say({"action": "wave"}, rng) for _ in range(4000)]
    shares = {word: said.count(word) / 4000 for word in words["greeting"]}
    rest = 0.6 / 4
    assert shares == pytest.approx(
        {"hello": 0.4 + rest, "hi": rest, "hey": rest, "howdy": rest}, abs=0.03
    )
