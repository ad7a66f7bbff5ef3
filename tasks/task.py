"""A task as a value: what is asked, in which scene, in which words, how it is shown and judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bridge.contract import UserError
from robots.g1.embodiment import STAND_COMMAND
from sim.scene import Scene, sample_scene
from tasks.expert import Context, Expert, any_search, any_time
from tasks.language.grammar import patterns_of, pick
from tasks.language.intent import Intent, NamedObject, sample_object
from tasks.language.language import SPLITS, read_toml
from tasks.success import Success

# The context of a label at a random stage of its instruction's own progress; the object is out of
# sight and, if `lost` is true, the search for it may have come to its end.
LabelStart = Callable[[Intent, Context, bool, np.random.Generator], Context]


def standing(rng: np.random.Generator) -> np.ndarray:
    """(18,) the command of a stand."""
    return STAND_COMMAND.copy()


def nothing_more(rng: np.random.Generator) -> dict[str, str]:
    """No slots: a skill that is asked for by its name and objects alone."""
    return {}


def nothing_in_the_way(meaning: Intent, xy_m: Sequence[float]) -> bool:
    """Every scene is free: a skill that stays where it is."""
    return False


@dataclass(frozen=True)
class Skill:
    """One thing that may be asked, by its name as the `action` of an `Intent`.

    Attributes:
        name: Like go_to; no other skill of a catalogue has it.
        expert: The teacher's target at a moment.
        success: A subclass of `Success` with its own `is_success`.
        time_limit_s: When an episode is given up, or how that follows from what is asked.
        wordings: Patterns of training, in the notation of tasks/language/grammar.py; those of a
            file of words come on top.
        heldout: Patterns that only an examination says.
        names_object: Whether the patterns say {object}: one of the scene is drawn then.
        sample_slots: Draws what else is said.
        start_command: Draws the (18,) command in force when the instruction comes.
        in_the_way: Whether an object at (x m, y m) in the heading frame would be run into.
        label_start: Without one, any time, or any stage of the search for an object.
        label_share: How often labels ask for it, relative to the others.
        absent_share: How often labels ask for it with an object that is not there, likewise.
    """

    name: str
    expert: Expert
    success: Callable[[Intent, Scene], Success]
    time_limit_s: float | Callable[[Intent], float]
    wordings: tuple[str, ...] = ()
    heldout: tuple[str, ...] = ()
    names_object: bool = False
    sample_slots: Callable[[np.random.Generator], dict[str, str]] = nothing_more
    start_command: Callable[[np.random.Generator], np.ndarray] = standing
    in_the_way: Callable[[Intent, Sequence[float]], bool] = nothing_in_the_way
    label_start: LabelStart | None = None
    label_share: float = 0.18
    absent_share: float = 0.0

    def sample_meaning(
        self,
        rng: np.random.Generator,
        objects: Sequence[NamedObject] | None = None,
        partial: float = 0.0,
    ) -> Intent:
        """A random meaning.

        An object is one of `objects`, or without them of any colour and shape; with probability
        `partial` it is named by one of the two alone.
        """
        named = sample_object(rng, objects, partial) if self.names_object else {}
        return Intent(self.name, **named, **self.sample_slots(rng))

    def limit_s(self, meaning: Intent) -> float:
        limit = self.time_limit_s
        return limit(meaning) if callable(limit) else limit

    def clear_way(self, meaning: Intent, scene: Scene) -> Scene:
        """The scene without the objects that a robot at its origin would run into."""
        kept = (o for o in scene.objects if not self.in_the_way(meaning, (o.x_m, o.y_m)))
        return replace(scene, objects=tuple(kept))

    def imagined_start(
        self, meaning: Intent, context: Context, lost: bool, rng: np.random.Generator
    ) -> Context:
        """The context as of `label_start`."""
        start = self.label_start or (any_search if self.names_object else any_time)
        return start(meaning, context, lost, rng)


@dataclass(frozen=True)
class Trial:
    """One drawn episode: a scene, what is asked in it, and the command in force when it begins."""

    family: str
    skill: Skill
    scene: Scene
    meaning: Intent
    start_command: np.ndarray

    @property
    def time_limit_s(self) -> float:
        return self.skill.limit_s(self.meaning)

    def success(self) -> Success:
        return self.skill.success(self.meaning, self.scene)


@dataclass(frozen=True)
class Task:
    """A family of skills that are drawn, collected and evaluated together.

    Attributes:
        name: Its name after --families.
        summary: What the robot shall do, in a line.
        skills: Each is drawn as often as the others.
        words: A TOML file with words and patterns of both splits, besides those of the skills. Its
            patterns stand under the name of a skill, or under the beginning of several names.
        sample_scene: Draws a scene of as many objects as told, or of any number without one.
        share: How often a collection shows it, relative to the others.
    """

    name: str
    summary: str
    skills: tuple[Skill, ...]
    words: Path | None = None
    sample_scene: Callable[[np.random.Generator, int | None], Scene] = sample_scene
    share: float = 0.25

    def sample_meaning(
        self,
        rng: np.random.Generator,
        objects: Sequence[NamedObject] | None = None,
        partial: float = 0.0,
    ) -> Intent:
        """A random meaning of one of its skills, as of `Skill.sample_meaning`."""
        return pick(self.skills, rng).sample_meaning(rng, objects, partial)

    def trial(self, rng: np.random.Generator, n_objects: int | None = None) -> Trial:
        """A random episode; the scene has `n_objects`, or any number if None."""
        scene = self.sample_scene(rng, n_objects)
        meaning = self.sample_meaning(rng, scene.objects)
        (skill,) = (skill for skill in self.skills if skill.name == meaning.skill)
        scene = skill.clear_way(meaning, scene)
        return Trial(self.name, skill, scene, meaning, skill.start_command(rng))

    def wordings(self) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
        """Its words, sentences and imperatives by split; all patterns under the names of skills."""
        return {split: self._wordings_of(split) for split in SPLITS}

    def _wordings_of(self, split: str) -> dict[str, dict[str, Any]]:
        content = read_toml(self.words).get(split, {}) if self.words else {}
        tables = {
            name: {
                skill.name: patterns_of(content.get(name, {}), skill.name) for skill in self.skills
            }
            for name in ("imperatives", "sentences")
        }
        for skill in self.skills:
            texts = skill.wordings if split == "train" else skill.heldout
            if isinstance(texts, str):  # would be read as a pattern for each letter
                raise UserError(f'{texts!r} is one text: write the {split} wordings as ("...",)')
            tables["imperatives"][skill.name] += texts
        return tables | {"words": content.get("words", {})}
