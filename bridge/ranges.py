"""Ranges of numeric options: written in annotations, checked in one place before any work.

    steps: PositiveInt = 10_000
    lead: Annotated[float, Interval(ge=0, lt=5)] = 1.0

A float is finite unless `MayBeInfinite` is among its constraints, which else are those of
`annotated_types`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from math import inf, isfinite
from types import NoneType, UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin, get_type_hints

from annotated_types import Ge, GroupedMetadata, Gt, Interval, Le, Lt

from bridge.contract import UserError

PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
Seed = Annotated[int, Interval(ge=0, lt=2**32)]
# Of what a pool of threads or processes is made; more than any machine here has is a slip.
Workers = Annotated[int, Interval(ge=1, le=1024)]


class Ascending:
    """Constraint on a pair: the first is at most the second."""


class MayBeInfinite:
    """Constraint that allows a float to be inf."""


def check_ranges(config: Any) -> None:
    """UserError unless every number of a config dataclass, nested ones too, is in its range."""
    for path, fault in out_of_range(config, type(config)):
        raise UserError(f"{path} {fault}")


def out_of_range(value: Any, hint: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The place of every bad number, as "worlds.n_worlds", and what is wrong with it."""
    hint, constraints = constraints_of(hint)
    if is_dataclass(value):
        hints = get_type_hints(type(value), include_extras=True)
        for field in fields(value):
            place = f"{path}.{field.name}".lstrip(".")
            yield from out_of_range(getattr(value, field.name), hints[field.name], place)
    elif isinstance(value, tuple):
        values = cast(tuple[Any, ...], value)
        own = [each for each in get_args(hint) if each is not ...]
        for each, of_each in zip(values, own * (len(values) // len(own)), strict=True):
            yield from out_of_range(each, of_each, path)
        if Ascending in constraints and values[0] > values[1]:
            yield path, f"is {values[0]:g} {values[1]:g}: give the lower one first"
    elif isinstance(value, int | float) and not isinstance(value, bool):
        bounds = [_judged(value, each) for each in constraints if each is not MayBeInfinite]
        finite = isfinite(value) or (MayBeInfinite in constraints and value == inf)
        if not (finite and all(kept for kept, _ in bounds)):
            asked = " and ".join(words for _, words in bounds) or "that is finite"
            yield path, f"is {value}: give a number {asked}"


def constraints_of(hint: Any) -> tuple[Any, list[Any]]:
    """A type without its annotation and without None, and the constraints of that annotation."""
    if get_origin(hint) in (Union, UnionType):
        (hint,) = [each for each in get_args(hint) if each is not NoneType][:1]
    if get_origin(hint) is not Annotated:
        return hint, []
    inner, *metadata = get_args(hint)
    found: list[Any] = []
    for each in metadata:
        found += [*each] if isinstance(each, GroupedMetadata) else [each]
    known = (Ascending, MayBeInfinite)
    return inner, [each for each in found if each in known or isinstance(each, Ge | Gt | Le | Lt)]


def _judged(value: Any, constraint: Ge | Gt | Le | Lt) -> tuple[bool, str]:
    """Whether a value keeps a constraint, and that constraint in words."""
    match constraint:
        case Ge(low):
            return value >= low, f"of at least {low}"
        case Gt(low):
            return value > low, f"above {low}"
        case Le(high):
            return value <= high, f"of at most {high}"
        case Lt(high):
            return value < high, f"below {high}"
