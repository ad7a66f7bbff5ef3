"""What an instruction asks for, reduced to slots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tasks.language.grammar import pick

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("cube", "ball", "cylinder", "cone")
AMOUNTS = (
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
)

# What may be said besides the action, which depends on a catalogue. The values of a slot are unique
# among all slots, actions included: grammars look a slot up by its value.
SLOTS: dict[str, tuple[str, ...]] = {
    "colour": COLOURS,
    "shape": SHAPES,
    "side": ("left", "right", "both"),
    "amount": AMOUNTS,
    "manner": ("slowly", "quickly"),
}


class NamedObject(Protocol):
    """Anything with a colour and a shape that words can name."""

    @property
    def colour(self) -> str: ...

    @property
    def shape(self) -> str: ...


@dataclass(frozen=True)
class Intent:
    """An instruction as slots; None where the instruction does not say.

    `skill` is the name of one, or "unknown"; its slot is called "action" in data sets, in bundles
    and on the wire. Turning around without a side is `turn_left`.
    """

    skill: str
    colour: str | None = None
    shape: str | None = None
    side: str | None = None
    amount: str | None = None
    manner: str | None = None

    def __post_init__(self) -> None:
        for slot, value in self.slots().items():
            if slot in SLOTS and value not in SLOTS[slot]:
                raise ValueError(f"{slot} cannot be {value!r}: choose from {SLOTS[slot]}")

    def slots(self) -> dict[str, str]:
        """The slots that are said: "action" for the skill, then others in the order of `SLOTS`."""
        values = {"action": self.skill} | {slot: getattr(self, slot) for slot in SLOTS}
        return {slot: value for slot, value in values.items() if value is not None}

    @classmethod
    def of_slots(cls, slots: Mapping[str, str]) -> Intent:
        """The intent that says these `slots`; ValueError for a value that is none of its slot's."""
        return cls(slots["action"], **{s: value for s, value in slots.items() if s != "action"})

    def number(self, kind: str, default: float) -> float:
        """The number of the amount: of a "distance" in m, of an "angle" in degrees."""
        if self.amount is None:
            return default
        said, number = self.amount.split("_")
        if said != kind:
            raise ValueError(f"{self} has no {kind}")
        return float(number)

    def fits(self, thing: NamedObject) -> bool:
        """Whether its colour and shape, as far as they are said, are those of an object."""
        return self.colour in (None, thing.colour) and self.shape in (None, thing.shape)


UNKNOWN = Intent("unknown")


def describe(meaning: Intent, names_object: bool = False) -> str:
    """A meaning in a few plain words, always the same ones.

    `names_object` tells that its action is about an object, even if none is said.
    """
    if meaning.skill == UNKNOWN.skill:
        return "something this robot cannot do"
    parts = [meaning.skill.replace("_", " ")]
    if meaning.colour or meaning.shape:
        parts.append(f"the {' '.join(filter(None, (meaning.colour, meaning.shape or 'object')))}")
    elif names_object:
        parts.append("something")
    if meaning.side:
        parts.append(f"({meaning.side})")
    if meaning.amount:
        kind, number = meaning.amount.split("_")
        parts.append(f"{number} {'m' if kind == 'distance' else 'degrees'}")
    if meaning.manner:
        parts.append(meaning.manner)
    return " ".join(parts)


def sample_object(
    rng: np.random.Generator, objects: Sequence[NamedObject] | None, partial: float
) -> dict[str, str]:
    """Slots that name one of `objects`, or without them one of any colour and shape.

    With probability `partial` it is named by its colour or its shape alone, which may fit several.
    """
    if objects is None:
        slots = {"colour": pick(COLOURS, rng), "shape": pick(SHAPES, rng)}
    else:
        named = pick(objects, rng)
        slots = {"colour": named.colour, "shape": named.shape}
    if rng.random() < partial:
        del slots[pick(("colour", "shape"), rng)]
    return slots
