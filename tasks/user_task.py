"""A task of the user's own, in one file: read, checked, and added to the catalogue.

Whoever draws, says, shows or judges tasks looks them up in the tables that are filled here, so a
task that was added is like the others from then on, in this process.
"""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bridge.contract import UserError
from sim.scene import Scene, sample_scene
from tasks.catalogue import CATALOGUE, Family
from tasks.demonstrations.record import SHARES
from tasks.demonstrations.relabel import add_kind
from tasks.expert import EXPERTS, Moment, Wish
from tasks.language.intent import SPLITS, Meaning, add_action, grammars, sample_meaning
from tasks.language.parse import read_wording
from tasks.success import Judge

# How much of a collection, and of its labels, an added task has beside the others.
EPISODE_SHARE = 0.25
LABEL_SHARE = 0.15
# Sentences that are drawn of each split to check it.
CHECKED = 60

_added: dict[Path, NewTask] = {}


@dataclass(frozen=True)
class NewTask:
    """What a file gives as `TASK`.

    Attributes:
        family: Its name after --families.
        action: Its name in a `Meaning`, like go_to; no other action may begin like it.
        summary: What the robot shall do, in a line.
        wordings: Patterns of training, in the notation of tasks/language/grammar.py.
        heldout: Patterns that only an examination says.
        expert: What the teacher wishes at a moment.
        judge: A subclass of `Judge` with its own `fulfilled`.
        time_limit_s: When an episode is given up.
        names_object: Whether the patterns say {object}: one of the scene is drawn then.
    """

    family: str
    action: str
    summary: str
    wordings: tuple[str, ...]
    heldout: tuple[str, ...]
    expert: Callable[[Meaning, Moment], Wish]
    judge: Callable[[Meaning, Scene], Judge]
    time_limit_s: float
    names_object: bool = False


def add_tasks(files: Sequence[Path]) -> None:
    """Adds the tasks of files that this process has not added yet; UserError for a wrong one."""
    for file in files:
        if file.resolve() not in _added:
            task = _read(file)
            _add(task)
            _added[file.resolve()] = task


def check_tasks(files: Sequence[Path]) -> None:
    """Adds them, and raises UserError for a wording that means something else already.

    Takes some seconds, and is enough once, before anything is collected.
    """
    add_tasks(files)
    for file in files:
        task = _added[file.resolve()]
        for split in SPLITS:
            _check_wordings(task, split)


def _read(file: Path) -> NewTask:
    try:
        task = runpy.run_path(str(file)).get("TASK")
    # A file of the user's own may fail in any way.
    except Exception as error:
        raise UserError(f"{file} cannot be read ({type(error).__name__}: {error})") from error
    if not isinstance(task, NewTask):
        raise UserError(f"{file} has no TASK: see docs/tutorial.md")
    return task


def _add(task: NewTask) -> None:
    patterns = {"train": task.wordings, "heldout": task.heldout}
    for split, texts in patterns.items():
        if isinstance(texts, str):  # would be read as a pattern for each letter
            raise UserError(f'{texts!r} is one text: write the {split} wordings as ("...",)')
        known = grammars(split)[0].words
        for name in re.findall(r"\{(\w+)\}", " ".join(texts)):
            if name not in known:
                raise UserError(f"no words for {{{name}}}: choose from {', '.join(sorted(known))}")
    add_action(task.family, task.action, patterns, task.names_object)
    EXPERTS[task.action] = task.expert
    SHARES[task.family] = EPISODE_SHARE
    add_kind(task.family, LABEL_SHARE)
    CATALOGUE[task.family] = Family(
        summary=task.summary,
        scene=sample_scene,
        meaning=lambda rng, scene: sample_meaning(task.family, rng, scene.objects),
        time_limit_s=lambda meaning: task.time_limit_s,
        judge=task.judge,
    )


def _check_wordings(task: NewTask, split: str) -> None:
    rng = np.random.default_rng(0)
    for number in range(CHECKED):
        meaning = sample_meaning(task.family, rng)
        grammar = grammars(split)[number % len(grammars(split))]
        try:
            text = grammar.say(meaning.slots(), rng)
        except ValueError as error:
            raise UserError(f"the {split} wordings cannot say {meaning} ({error})") from error
        if read_wording(text, (split,)) != meaning:
            raise UserError(f"{text!r} already means something else: choose another wording")
        if split == "heldout" and read_wording(text, ("train",)):
            raise UserError(f"{text!r} is a wording of training: it cannot be held out as well")
