"""Every wording of the grammars is read as the meaning that it was made from."""

import numpy as np
import pytest

from tasks.catalogue import SHIPPED
from tasks.language import language
from tasks.language.intent import UNKNOWN, Intent
from tasks.language.parse import read_wording
from tasks.task import Task
from tests.test_language import all_meanings


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("walk to the red ball", Intent("go_to", colour="red", shape="ball")),
        ("  Walk TO the   red ball. ", Intent("go_to", colour="red", shape="ball")),
        ("walk two metres forward", Intent("walk_forward", amount="distance_2")),
        ("step to the right", Intent("step_right")),
        ("raise your left hand", Intent("raise_hand", side="left")),
        ("point at the blue cube", Intent("point_at", colour="blue", shape="cube")),
        ("stop", Intent("stop")),
        ("make me a coffee", UNKNOWN),
        ("qwertz asdf", None),
        ("", None),
    ],
)
def test_known_sentences(text: str, meaning: Intent | None) -> None:
    assert read_wording(text, SHIPPED.language) == meaning


@pytest.mark.parametrize("split", language.SPLITS)
@pytest.mark.parametrize("task", SHIPPED.tasks, ids=lambda task: task.name)
def test_reads_what_the_grammars_say(
    split: str, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language, "TYPO_SHARE", 0.0)
    rng = np.random.default_rng(0)
    read_right = 0
    for _ in range(60):
        meaning = task.sample_meaning(rng)
        text = SHIPPED.language.sample_wording(meaning, rng, split)
        found = read_wording(text, SHIPPED.language)
        assert found in (meaning, None)  # unread is allowed, misread is not
        read_right += found == meaning
    assert read_right >= 57


def test_the_plain_wording_of_a_meaning_says_just_that() -> None:
    said = SHIPPED.language.plainly
    plain = [meaning for meaning in all_meanings() if meaning.manner is None]
    assert said(Intent("go_to", "red", "ball")) == "go to the red ball"
    assert [read_wording(said(meaning), SHIPPED.language) for meaning in plain] == plain
    hurried = Intent("go_to", "red", "ball", manner="quickly")
    assert read_wording(said(hurried), SHIPPED.language) == hurried, "said with an adverb"
