"""Tasks of the user's own, each in one file: read, checked, and added to a catalogue."""

from __future__ import annotations

import re
import runpy
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bridge.contract import UserError
from tasks.catalogue import SHIPPED, Catalogue
from tasks.language.language import SPLITS
from tasks.language.parse import read_wording
from tasks.task import Task

# Sentences that are drawn of each split to check it.
CHECKED = 60


def read_catalogue(files: Sequence[Path]) -> Catalogue:
    """The shipped catalogue with the tasks of files as well; UserError for a wrong file."""
    catalogue = SHIPPED
    for file in files:
        catalogue = catalogue.with_task(_read(file))
        _check_words(catalogue, catalogue.tasks[-1])
    return catalogue


def check_wordings(catalogue: Catalogue, task: Task) -> None:
    """Raises UserError for a wording of a task that cannot be said, or means something else.

    Takes some seconds, and is enough once, before anything is collected.
    """
    for split in SPLITS:
        _check_split(catalogue, task, split)


def _read(file: Path) -> Task:
    try:
        task = runpy.run_path(str(file)).get("TASK")
    # A file of the user's own may fail in any way.
    except Exception as error:
        raise UserError(f"{file} cannot be read ({type(error).__name__}: {error})") from error
    if not isinstance(task, Task):
        raise UserError(f"{file} has no TASK: see docs/tutorial.md")
    return task


def _check_words(catalogue: Catalogue, task: Task) -> None:
    for split, tables in task.wordings().items():
        known = catalogue.language.grammars[split][0].words
        for texts in (*tables["imperatives"].values(), *tables["sentences"].values()):
            for name in re.findall(r"\{(\w+)\}", " ".join(texts)):
                if name not in known:
                    choices = ", ".join(sorted(known))
                    raise UserError(f"no words for {{{name}}}: choose from {choices}")


def _check_split(catalogue: Catalogue, task: Task, split: str) -> None:
    rng = np.random.default_rng(0)
    grammars = catalogue.language.grammars[split]
    for number in range(CHECKED):
        meaning = task.sample_meaning(rng)
        try:
            text = grammars[number % len(grammars)].say(meaning.slots(), rng)
        except ValueError as error:
            raise UserError(f"the {split} wordings cannot say {meaning} ({error})") from error
        if read_wording(text, catalogue.language, (split,)) != meaning:
            raise UserError(f"{text!r} already means something else: choose another wording")
        if split == "heldout" and read_wording(text, catalogue.language, ("train",)):
            raise UserError(f"{text!r} is a wording of training: it cannot be held out as well")
