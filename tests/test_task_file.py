"""Tasks of the user's own: what a file adds, and which files are refused."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bridge.contract import UserError
from sim.scene import sample_scene
from tasks import catalogue, expert, success, user_task
from tasks.demonstrations import record, relabel
from tasks.language import intent
from tasks.language.intent import Meaning, sample_meaning
from tasks.language.parse import read_wording
from tasks.user_task import add_tasks, check_tasks

ROOT = Path(__file__).parents[1]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
(SPREAD,) = re.findall(r"^```python\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL)
CIRCLE = """
from tasks.expert import go_to
from tasks.success import Judge
from tasks.user_task import NewTask

TASK = NewTask(
    "round", "orbit", "walk round an object", ("orbit {object}",), ("encircle {object}",),
    go_to, Judge, 60.0, names_object=True,
)
"""
TABLES: tuple[Any, ...] = (
    intent.SLOTS,
    intent.SLOT_OF,
    intent.FAMILIES,
    intent.OBJECT_ACTIONS,
    *intent._added_patterns.values(),
    catalogue.CATALOGUE,
    expert.EXPERTS,
    relabel.KINDS,
    record.SHARES,
    user_task._added,
)


@pytest.fixture(autouse=True)
def as_before():
    """Puts the tables back that a file of tasks adds to."""
    kept = [table.copy() for table in TABLES]
    yield
    for table, old in zip(TABLES, kept, strict=True):
        table.clear()
        table.update(old)
    intent.grammars.cache_clear()


def written(folder: Path, content: str) -> tuple[Path]:
    path = folder / "task.py"
    path.write_text(content, encoding="utf-8")
    return (path,)


def test_a_task_is_asked_shown_and_judged(tmp_path: Path) -> None:
    files = written(tmp_path, SPREAD)
    add_tasks(files)
    add_tasks(files)
    rng = np.random.default_rng(0)
    trial = catalogue.family("wings").trial(rng)
    assert trial.meaning == Meaning("spread_arms") and trial.time_limit_s == 12.0
    assert isinstance(trial.judge(), success.Judge)
    assert Meaning.from_slots(trial.meaning.slot_vector()) == trial.meaning
    assert read_wording("Stretch your arms out to the sides!") == trial.meaning
    assert sum(relabel.KINDS.values()) == pytest.approx(1.0)


def test_a_run_finds_the_judge_of_a_task(tmp_path: Path) -> None:
    add_tasks(written(tmp_path, SPREAD))
    family = catalogue.family_of(Meaning("spread_arms"))
    assert family is catalogue.CATALOGUE["wings"]
    assert catalogue.family_of(Meaning("wave")) is catalogue.CATALOGUE["gesture"]
    assert catalogue.family_of(None) is catalogue.family_of(intent.UNKNOWN) is None


def test_a_task_about_an_object_names_one_of_the_scene(tmp_path: Path) -> None:
    add_tasks(written(tmp_path, CIRCLE))
    rng = np.random.default_rng(1)
    scene = sample_scene(rng)
    meaning = sample_meaning("round", rng, scene.objects)
    assert (meaning.colour, meaning.shape) in {(o.colour, o.shape) for o in scene.objects}
    text = intent.grammars("train")[0].say(meaning.slots(), rng)
    assert read_wording(text, ("train",)) == meaning


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("TASK =", "JOB =", "no TASK"),
        ("import numpy", "import nampy", "nampy"),
        ('"spread_arms"', '"walk_like_a_bird"', "clash with 'walk"),
        ('"spread_arms"', '"st"', "clash with 'st"),
        ('"wings"', '"gesture"', "clash with 'gesture'"),
        ('"make wings"', '"wave"', "already means"),
        ('"make wings"', '"dance"', "already means"),
        ('"make wings"', '"make {wings}"', "no words for {wings}"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    assert old in SPREAD
    with pytest.raises(UserError, match=complaint):
        check_tasks(written(tmp_path, SPREAD.replace(old, new)))


def test_a_wording_cannot_be_both_trained_and_held_out(tmp_path: Path) -> None:
    both = SPREAD.replace('heldout=("arms', 'heldout=("make wings", "arms')
    with pytest.raises(UserError, match="held out"):
        check_tasks(written(tmp_path, both))


def test_an_object_that_is_named_must_be_announced(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot say"):
        check_tasks(written(tmp_path, CIRCLE.replace("=True", "=False")))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none"):
        add_tasks((tmp_path / "none.py",))
