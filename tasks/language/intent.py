"""What can be asked of the robot, and the many ways to say it.

A `Meaning` is an instruction reduced to slots. `sample_wording` says a meaning in English, from one
of two grammars that never mix: `grammar.toml` for training, `heldout.toml` for examination.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from bridge.contract import UserError
from tasks.language.grammar import Grammar, dressed, pick, with_typo

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("cube", "ball", "cylinder", "cone")

# The values of a slot are unique among all slots: grammars look a slot up by its value.
SLOTS: dict[str, tuple[str, ...]] = {
    "action": (
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
    "colour": COLOURS,
    "shape": SHAPES,
    "side": ("left", "right", "both"),
    "amount": (
        "distance_0.3",
        "distance_0.5",
        "distance_1",
        "distance_1.5",
        "distance_2",
        "distance_3",
        "angle_45",
        "angle_90",
        "angle_180",
        "angle_360",
    ),
    "manner": ("slowly", "quickly"),
}
SLOT_OF = {value: slot for slot, values in SLOTS.items() for value in values}

FAMILIES: dict[str, tuple[str, ...]] = {
    "walk": (
        "walk_forward",
        "walk_backward",
        "step_left",
        "step_right",
        "turn_left",
        "turn_right",
        "stop",
    ),
    "go_to": ("go_to",),
    "gesture": ("raise_hand", "wave", "point_at", "lower_arms"),
}

# The first word of an action's name decides what it may be told, and what it does when not told.
AMOUNTS: dict[str, tuple[str, ...]] = {
    "walk": tuple(a for a in SLOTS["amount"] if a.startswith("distance") and a != "distance_0.3"),
    "step": ("distance_0.3", "distance_0.5", "distance_1"),
    "turn": tuple(a for a in SLOTS["amount"] if a.startswith("angle")),
}
DEFAULT_AMOUNT = {"walk": "distance_1", "step": "distance_0.3", "turn": "angle_90"}
# The hands that may be asked for, and how often they are.
SIDES = {
    "raise_hand": (("left", "right", "both"), 0.75),
    "wave": (("left", "right", "both"), 0.6),
    "point_at": (("left", "right"), 0.2),
}
DEFAULT_SIDE = "right"
# Actions that are about an object, named by its colour and shape.
OBJECT_ACTIONS = {"go_to", "point_at"}

TYPO_SHARE = 0.1
SPLITS = ("train", "heldout")
# Patterns of actions that were added to those of the files: split, then action, to patterns.
_added_patterns: dict[str, dict[str, list[str]]] = {split: {} for split in SPLITS}


class NamedObject(Protocol):
    """Anything with a colour and a shape that words can name."""

    @property
    def colour(self) -> str: ...

    @property
    def shape(self) -> str: ...


@dataclass(frozen=True)
class Meaning:
    """An instruction as slots; None where the instruction does not say.

    Turning around without a side is `turn_left`.
    """

    action: str
    colour: str | None = None
    shape: str | None = None
    side: str | None = None
    amount: str | None = None
    manner: str | None = None

    def __post_init__(self) -> None:
        for slot, value in self.slots().items():
            if value not in SLOTS[slot]:
                raise ValueError(f"{slot} cannot be {value!r}: choose from {SLOTS[slot]}")

    def slots(self) -> dict[str, str]:
        """The slots that are said, in the order of `SLOTS`."""
        values = {slot: getattr(self, slot) for slot in SLOTS}
        return {slot: value for slot, value in values.items() if value is not None}

    def slot_vector(self) -> np.ndarray:
        """(len(SLOTS),) int8 indices into the values of each slot, -1 where nothing is said."""
        said = self.slots()
        indices = [SLOTS[slot].index(said[slot]) if slot in said else -1 for slot in SLOTS]
        return np.array(indices, dtype=np.int8)

    @classmethod
    def from_slots(cls, vector: Sequence[int] | np.ndarray) -> Meaning:
        """The meaning whose `slot_vector` this is."""
        pairs = zip(SLOTS.items(), vector, strict=True)
        return cls(**{slot: values[i] for (slot, values), i in pairs if i >= 0})

    @property
    def distance_m(self) -> float:
        """How far a walk or a step goes, by default if nothing is said."""
        return self._number("distance")

    @property
    def angle_rad(self) -> float:
        """How far a turn goes, by default if nothing is said; always positive."""
        return math.radians(self._number("angle"))

    def _number(self, kind: str) -> float:
        amount = self.amount or DEFAULT_AMOUNT[self.action.split("_")[0]]
        prefix, number = amount.split("_")
        if prefix != kind:
            raise ValueError(f"{self} has no {kind}")
        return float(number)


UNKNOWN = Meaning("unknown")


def describe(meaning: Meaning) -> str:
    """A meaning in a few plain words, always the same ones."""
    if meaning.action == UNKNOWN.action:
        return "something this robot cannot do"
    action = {"raise_hand": "raise hand", "lower_arms": "lower arms"}.get(
        meaning.action, meaning.action.replace("_", " ")
    )
    parts = [action]
    if meaning.colour or meaning.shape:
        parts.append(f"the {' '.join(filter(None, (meaning.colour, meaning.shape or 'object')))}")
    elif meaning.action in OBJECT_ACTIONS:
        parts.append("something")
    if meaning.side:
        parts.append(f"({meaning.side})")
    if meaning.amount:
        kind, number = meaning.amount.split("_")
        parts.append(f"{number} {'m' if kind == 'distance' else 'degrees'}")
    if meaning.manner:
        parts.append(meaning.manner)
    return " ".join(parts)


def sample_meaning(
    family: str,
    rng: np.random.Generator,
    objects: Sequence[NamedObject] | None = None,
    partial: float = 0.0,
) -> Meaning:
    """A random meaning of one of `FAMILIES`.

    An object is one of `objects`, or of any colour and shape without them. With probability
    `partial` it is named by its colour or its shape alone, which may fit several.
    """
    action = pick(FAMILIES[family], rng)
    kind = action.split("_")[0]
    slots: dict[str, str] = {}
    if action in OBJECT_ACTIONS:
        slots |= _object_slots(rng, objects, partial)
    if kind in AMOUNTS and rng.random() < 0.7:
        slots["amount"] = pick(AMOUNTS[kind], rng)
    if action in SIDES:
        sides, share = SIDES[action]
        if rng.random() < share:
            slots["side"] = pick(sides, rng)
    if (kind in AMOUNTS or action == "go_to") and rng.random() < 0.2:
        slots["manner"] = pick(SLOTS["manner"], rng)
    return Meaning(action, **slots)


def _object_slots(
    rng: np.random.Generator, objects: Sequence[NamedObject] | None, partial: float
) -> dict[str, str]:
    if objects is None:
        slots = {"colour": pick(COLOURS, rng), "shape": pick(SHAPES, rng)}
    else:
        named = pick(objects, rng)
        slots = {"colour": named.colour, "shape": named.shape}
    if rng.random() < partial:
        del slots[pick(("colour", "shape"), rng)]
    return slots


def sample_wording(meaning: Meaning, rng: np.random.Generator, split: str = "train") -> str:
    """One way to say a meaning. `split` is one of `SPLITS`; only "train" has typing errors."""
    text = pick(grammars(split), rng).say(meaning.slots(), rng)
    if split == "train" and rng.random() < TYPO_SHARE:
        text = with_typo(text, rng)
    return dressed(text, rng)


def out_of_scope(rng: np.random.Generator, split: str = "train") -> str:
    """A request that this robot cannot carry out, or that is no request at all."""
    return sample_wording(UNKNOWN, rng, split)


def add_action(
    family: str, action: str, patterns: Mapping[str, Sequence[str]], names_object: bool
) -> None:
    """A new action, the only one of a new family, and its patterns by split.

    Raises UserError for a name that is taken, or that begins like another action: a grammar finds
    patterns by the beginning of their action's name.
    """
    keys = {*grammars("train")[0].imperatives, *SLOT_OF, *AMOUNTS}
    near = [key for key in sorted(keys) if action.startswith(key) or key.startswith(action)]
    if near or family in FAMILIES:
        taken = near[0] if near else family
        raise UserError(f"the names {family!r} and {action!r} clash with {taken!r}: choose others")
    SLOTS["action"] += (action,)
    SLOT_OF[action] = "action"
    FAMILIES[family] = (action,)
    if names_object:
        OBJECT_ACTIONS.add(action)
    for split in SPLITS:
        _added_patterns[split][action] = list(patterns[split])
    grammars.cache_clear()


@lru_cache
def grammars(split: str) -> tuple[Grammar, ...]:
    """The grammars of a split, each as likely as the others.

    Held-out patterns come with held-out nouns and colours in half of the grammars; what the
    held-out file does not list is said with training words.
    """
    train = _read("grammar.toml", "train")
    if split == "train":
        return (Grammar(**train, slot_of_value=SLOT_OF),)
    if split != "heldout":
        raise ValueError(f"unknown split {split!r}: choose from {SPLITS}")
    heldout = _read("heldout.toml", "heldout")
    variants = []
    for familiar in (("colour", "shape"),) * 3 + (("colour",), ("shape",), ()):
        words = train["words"] | heldout["words"]
        words |= {name: train["words"][name] for name in familiar}
        variants.append(Grammar(**(heldout | {"words": words}), slot_of_value=SLOT_OF))
    return tuple(variants)


def _read(name: str, split: str) -> dict:
    content = tomllib.loads((Path(__file__).parent / "en" / name).read_text(encoding="utf-8"))
    return content | {"imperatives": content["imperatives"] | _added_patterns[split]}
