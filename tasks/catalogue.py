"""Catalogues: which tasks there are, as a value, and the one that is shipped."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

from bridge.contract import UserError
from tasks.expert import refuse
from tasks.families import gesture, go_to, walk
from tasks.language.intent import SLOTS, UNKNOWN, Intent
from tasks.language.language import Language
from tasks.success import NoSuccess
from tasks.task import Skill, Task

# What no task is about; its wordings are in tasks/language.
OUT_OF_SCOPE = Skill(UNKNOWN.skill, refuse, NoSuccess, time_limit_s=20.0, label_share=0.03)


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Tasks, and the values of the slot "action": the name of every skill, and "unknown".

    `actions` are in the order in which data sets and bundles keep them.
    """

    tasks: tuple[Task, ...]
    actions: tuple[str, ...]

    def __post_init__(self) -> None:
        skills = chain.from_iterable(task.skills for task in self.tasks)
        names = [*(skill.name for skill in skills), UNKNOWN.skill]
        assert sorted(names) == sorted(self.actions)

    def __getitem__(self, name: str) -> Task:
        """A task by its name; raises UserError with the nearest names for an unknown one."""
        for task in self.tasks:
            if task.name == name:
                return task
        nearest = difflib.get_close_matches(name, self.names, n=3, cutoff=0.4) or self.names
        raise UserError(f"unknown task {name!r}: did you mean {' or '.join(nearest)}?")

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(task.name for task in self.tasks)

    @cached_property
    def skills(self) -> dict[str, Skill]:
        """Skills by name, what is out of scope included."""
        own = {skill.name: skill for task in self.tasks for skill in task.skills}
        return own | {OUT_OF_SCOPE.name: OUT_OF_SCOPE}

    def skill(self, meaning: Intent) -> Skill:
        """The skill that a meaning asks for."""
        return self.skills[meaning.skill]

    @cached_property
    def slots(self) -> dict[str, tuple[str, ...]]:
        """The values of every slot, as data sets and bundles keep them."""
        return {"action": self.actions} | SLOTS

    @cached_property
    def language(self) -> Language:
        """The ways to say its meanings. Raises UserError for words that clash."""
        return Language.of(self.slots, [task.wordings() for task in self.tasks])

    def with_task(self, task: Task) -> Catalogue:
        """Another catalogue, which has this task as well. Raises UserError for a name in use."""
        own = tuple(skill.name for skill in task.skills)
        values = (*chain.from_iterable(self.slots.values()), *own)
        taken = [name for name in own if values.count(name) > 1]
        taken += [task.name] if task.name in self.names else []
        if taken:
            raise UserError(f"the name {taken[0]!r} is in use: choose another")
        return Catalogue((*self.tasks, task), self.actions + own)


# A new task comes with a line `.with_task(...)`: the order of actions must not change.
SHIPPED = Catalogue(
    (walk.TASK, go_to.TASK, gesture.TASK),
    (
        "stop",
        "walk_forward",
        "walk_backward",
        "step_left",
        "step_right",
        "turn_left",
        "turn_right",
        "go_to",
        "raise_hand",
        "wave",
        "point_at",
        "lower_arms",
        "unknown",
    ),
)
