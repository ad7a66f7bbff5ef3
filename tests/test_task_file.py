"""Tasks of the user's own: what a file adds, and which files are refused."""

import re
from pathlib import Path

import numpy as np
import pytest

from bridge.contract import UserError
from sim.scene import sample_scene
from tasks.catalogue import SHIPPED, Catalogue
from tasks.language.intent import Intent
from tasks.language.parse import read_wording
from tasks.success import Success
from tasks.user_task import check_wordings, read_catalogue

ROOT = Path(__file__).parents[1]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
(SPREAD,) = re.findall(r"^```python\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL)
CIRCLE = """
from tasks.families.go_to import AtObject, go_to
from tasks.task import Skill, Task

ORBIT = Skill(
    "orbit", go_to, AtObject, 60.0, ("orbit {object}",), ("encircle {object}",), names_object=True
)
TASK = Task("round", "walk round an object", (ORBIT,))
"""


def written(folder: Path, content: str) -> tuple[Path]:
    path = folder / "task.py"
    path.write_text(content, encoding="utf-8")
    return (path,)


def checked(files: tuple[Path]) -> Catalogue:
    """The catalogue with a file of tasks, as a collection checks it."""
    catalogue = read_catalogue(files)
    check_wordings(catalogue, catalogue.tasks[-1])
    return catalogue


def test_a_task_is_asked_shown_and_judged(tmp_path: Path) -> None:
    catalogue = checked(written(tmp_path, SPREAD))
    trial = catalogue["wings"].trial(np.random.default_rng(0))
    assert trial.meaning == Intent("spread_arms") and trial.time_limit_s == 12.0
    assert isinstance(trial.success(), Success)
    language = catalogue.language
    assert language.from_slots(language.slot_vector(trial.meaning)) == trial.meaning
    assert read_wording("Stretch your arms out to the sides!", language) == trial.meaning
    assert catalogue.skill(trial.meaning) is trial.skill


def test_two_catalogues_do_not_see_one_another(tmp_path: Path) -> None:
    def drawn(catalogue: Catalogue) -> list[str]:
        rng = np.random.default_rng(1)
        meanings = [SHIPPED.tasks[i % 3].sample_meaning(rng) for i in range(60)]
        return [catalogue.language.sample_wording(meaning, rng) for meaning in meanings]

    before = drawn(SHIPPED)
    wings = read_catalogue(written(tmp_path, SPREAD))
    orbit = read_catalogue(written(tmp_path, CIRCLE))
    assert drawn(wings) == drawn(orbit) == drawn(SHIPPED) == before
    assert SHIPPED.names == ("walk", "go_to", "gesture")
    assert SHIPPED.slots["action"][-1] == "unknown"
    assert wings.slots["action"] == (*SHIPPED.slots["action"], "spread_arms")
    assert orbit.slots["action"] == (*SHIPPED.slots["action"], "orbit")
    assert wings.language.slot_vector(Intent("spread_arms"))[0] == 13
    assert orbit.language.slot_vector(Intent("orbit"))[0] == 13
    for catalogue in (SHIPPED, orbit):
        assert read_wording("make wings", catalogue.language) is None
        assert "spread_arms" not in catalogue.skills
        with pytest.raises(UserError, match="unknown task 'wings'"):
            catalogue["wings"]
        with pytest.raises(ValueError):
            catalogue.language.slot_vector(Intent("spread_arms"))


def test_a_task_about_an_object_names_one_of_the_scene(tmp_path: Path) -> None:
    catalogue = checked(written(tmp_path, CIRCLE))
    rng = np.random.default_rng(1)
    scene = sample_scene(rng)
    meaning = catalogue["round"].sample_meaning(rng, scene.objects)
    assert (meaning.colour, meaning.shape) in {(o.colour, o.shape) for o in scene.objects}
    text = catalogue.language.grammars["train"][0].say(meaning.slots(), rng)
    assert read_wording(text, catalogue.language, ("train",)) == meaning


def test_a_name_may_begin_like_another(tmp_path: Path) -> None:
    for name in ("walk_like_a_bird", "st", "turn_left_and_right"):
        catalogue = checked(written(tmp_path, SPREAD.replace("spread_arms", name)))
        assert read_wording("make wings", catalogue.language) == Intent(name)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("TASK =", "JOB =", "no TASK"),
        ("import numpy", "import nampy", "nampy"),
        ('"spread_arms"', '"wave"', "'wave' is in use"),
        ('"spread_arms"', '"left"', "'left' is in use"),
        ('"wings"', '"gesture"', "'gesture' is in use"),
        ("(SPREAD,)", "(SPREAD, SPREAD)", "'spread_arms' is in use"),
        (', "pretend to be (a bird|an aeroplane)"', "", "one text"),
        ('"make wings"', '"wave"', "already means"),
        ('"make wings"', '"dance"', "already means"),
        ('"make wings"', '"make {wings}"', "no words for {wings}"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    assert old in SPREAD
    with pytest.raises(UserError, match=complaint):
        checked(written(tmp_path, SPREAD.replace(old, new)))


def test_a_wording_cannot_be_both_trained_and_held_out(tmp_path: Path) -> None:
    both = SPREAD.replace('heldout=("arms', 'heldout=("make wings", "arms')
    with pytest.raises(UserError, match="held out"):
        checked(written(tmp_path, both))


def test_an_object_that_is_named_must_be_announced(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot say"):
        checked(written(tmp_path, CIRCLE.replace("=True", "=False")))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none"):
        read_catalogue((tmp_path / "none.py",))
