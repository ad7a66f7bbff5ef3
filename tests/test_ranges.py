"""Numeric options: every one has a range, and one line tells what is wrong before any work."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Any, get_args, get_type_hints

import numpy as np
import pytest
from annotated_types import Gt, Interval

from bridge.contract import UserError
from bridge.ranges import (
    Ascending,
    MayBeInfinite,
    PositiveFloat,
    PositiveInt,
    check_ranges,
    constraints_of,
)
from hitogata import commandline
from hitogata.__main__ import COMMANDS
from policy.model.vla import ModelConfig
from tasks.catalogue import SHIPPED
from tasks.demonstrations import record


@dataclass(frozen=True)
class Inner:
    n_worlds: PositiveInt = 1
    span: Annotated[tuple[PositiveFloat, PositiveFloat], Ascending] = (1.0, 2.0)
    widths: tuple[PositiveInt, ...] = (1, 2)


@dataclass(frozen=True)
class Config:
    share: Annotated[float, Interval(ge=0, lt=1)] = 0.5
    speed: Annotated[float, Gt(0), MayBeInfinite] = math.inf
    limit_s: PositiveFloat | None = None
    flag: bool = False
    inner: Inner = Inner()


def test_what_is_in_range_passes() -> None:
    check_ranges(Config())
    check_ranges(Config(share=0, limit_s=3, flag=True, inner=Inner(widths=())))


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (Config(share=1.0), "share is 1.0: give a number of at least 0 and below 1"),
        (Config(share=math.nan), "share is nan: give a number of at least 0 and below 1"),
        (Config(speed=math.nan), "speed is nan: give a number above 0"),
        (Config(speed=-math.inf), "speed is -inf: give a number above 0"),
        (Config(limit_s=math.inf), "limit_s is inf: give a number above 0"),
        (Config(inner=Inner(0)), "inner.n_worlds is 0: give a number of at least 1"),
        (Config(inner=Inner(span=(2, 1))), "inner.span is 2 1: give the lower one first"),
        (Config(inner=Inner(span=(1, math.nan))), "inner.span is nan: give a number above 0"),
        (Config(inner=Inner(widths=(4, -4))), "inner.widths is -4: give a number of at least 1"),
    ],
)
def test_what_is_out_of_range_is_named(config: Config, told: str) -> None:
    with pytest.raises(UserError) as caught:
        check_ranges(config)
    assert str(caught.value) == told


def _numbers(hint: Any, path: str) -> Iterator[tuple[str, list[Any]]]:
    """Every number of an option's type: its place, and its constraints."""
    hint, constraints = constraints_of(hint)
    if dataclasses.is_dataclass(hint):
        hints = get_type_hints(hint, include_extras=True)
        for field in dataclasses.fields(hint):
            yield from _numbers(hints[field.name], f"{path} {field.name}")
    elif inner := [each for each in get_args(hint) if isinstance(each, type) or get_args(each)]:
        for each in inner:
            yield from _numbers(each, path)
    elif hint in (int, float):
        yield path, constraints


@pytest.mark.parametrize("name", COMMANDS)
def test_every_numeric_option_has_a_range(name: str) -> None:
    hints = get_type_hints(COMMANDS[name].function(), include_extras=True)
    numbers = [found for option, hint in hints.items() for found in _numbers(hint, option)]
    assert [path for path, constraints in numbers if not constraints] == []


@pytest.mark.parametrize(
    "line",
    [
        "train d --steps -5",
        "train d --steps 0",
        "train d --seed -1",
        "train d --minutes 0",
        "train d --minutes nan",
        "train d --batch-size 0",
        "train d --batch-size -2",
        "train d --log-steps 0",
        "train d --evaluate-steps 0",
        "train d --threads 0",
        "train d --learning-rate nan",
        "train d --augmentation.noise -1",
        "train d --model.dropout 1",
        "run stop --time-limit-s nan",
        "run stop --time-limit-s inf",
        "run stop --seed -1",
        "collect --most-s 0.5",
        "collect --seed -1",
        "collect --episodes -4",
        "collect --processes 0",
        "collect --sentences -5",
        "collect --burst-s 2 1",
        "evaluate --episodes 0",
        "evaluate --processes 0",
        "evaluate --seed -1",
        "simulate --speed 0",
        "simulate --speed -1",
        "simulate --speed nan",
        "simulate --seconds 0",
        "console --seed 4294967296",
        "bench --chunks 0",
        "bench --threads 0",
        "bench walker --runs 0",
        "bench bridge --soak nan",
        "bench console --seconds 0",
        "export r --samples 0",
        "gallery --tries 0",
        "walk --iterations 0",
        "walk --worlds.n-worlds 0",
        "walk --minutes nan",
        "serve --threads -1",
        "serve --deadline-s nan",
    ],
)
def test_numbers_out_of_range_are_refused_before_any_work(line: str) -> None:
    words = line.split()
    option = next(word for word in words if word.startswith("--"))
    with pytest.raises(UserError, match=rf"^{option} is "):
        commandline.dispatch(COMMANDS, words)


@pytest.mark.parametrize("command", ["evaluate", "collect --out {folder}/new"])
def test_a_family_named_twice_is_refused(command: str, tmp_path) -> None:
    words = f"{command} --families walk walk".format(folder=tmp_path).split()
    if command == "evaluate":
        words.append("--expert")
    with pytest.raises(UserError, match="twice"):
        commandline.dispatch(COMMANDS, words)


def test_sizes_of_a_model_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="no 5 heads"):
        ModelConfig(heads=5)
    with pytest.raises(UserError, match="of 8 experts 9"):
        ModelConfig(top_k=9)


def test_an_episode_that_always_ends_in_a_fall_is_given_up(monkeypatch) -> None:
    closed = []
    world = SimpleNamespace(close=lambda: closed.append(1))
    take = SimpleNamespace(run=lambda: None, frames=[], world=world)
    monkeypatch.setattr(record, "_Take", lambda *_: take)
    with pytest.raises(UserError, match="fell at once"):
        record.record_episode(SHIPPED, ("walk",), np.random.default_rng(0))
    assert len(closed) == record.MOST_TAKES
