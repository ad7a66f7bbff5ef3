"""Every wording of the grammars is read as the meaning that it was made from."""

import numpy as np
import pytest

from tasks.language import intent
from tasks.language.intent import FAMILIES, UNKNOWN, Meaning, sample_meaning, sample_wording
from tasks.language.parse import read_wording
from tests.test_language import all_meanings


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("walk to the red ball", Meaning("go_to", colour="red", shape="ball")),
        ("  Walk TO the   red ball. ", Meaning("go_to", colour="red", shape="ball")),
        ("walk two metres forward", Meaning("walk_forward", amount="distance_2")),
        ("step to the right", Meaning("step_right")),
        ("raise your left hand", Meaning("raise_hand", side="left")),
        ("point at the blue cube", Meaning("point_at", colour="blue", shape="cube")),
        ("stop", Meaning("stop")),
        ("make me a coffee", UNKNOWN),
        ("qwertz asdf", None),
        ("", None),
    ],
)
def test_known_sentences(text: str, meaning: Meaning | None) -> None:
    assert read_wording(text) == meaning


@pytest.mark.parametrize("split", intent.SPLITS)
@pytest.mark.parametrize("family", FAMILIES)
def test_reads_what_the_grammars_say(
    split: str, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intent, "TYPO_SHARE", 0.0)
    rng = np.random.default_rng(0)
    read_right = 0
    for _ in range(60):
        meaning = sample_meaning(family, rng)
        found = read_wording(sample_wording(meaning, rng, split))
        assert found in (meaning, None)  # unread is allowed, misread is not
        read_right += found == meaning
    assert read_right >= 57


def test_the_plain_wording_of_a_meaning_says_just_that() -> None:
    grammar = intent.grammars("train")[0]
    plain = [meaning for meaning in all_meanings() if meaning.manner is None]
    assert grammar.plainly(Meaning("go_to", "red", "ball").slots()) == "go to the red ball"
    assert [read_wording(grammar.plainly(meaning.slots())) for meaning in plain] == plain
    hurried = Meaning("go_to", "red", "ball", manner="quickly")
    assert read_wording(grammar.plainly(hurried.slots())) == hurried, "said with an adverb"
