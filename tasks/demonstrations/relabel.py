"""Counterfactual labels: what the expert would do at a recorded moment, told something else.

The same picture under other words asks for other actions; this is what makes a policy listen.
Where an instruction counts time or distance, its start is imagined: at an earlier frame of the
episode, or at any stage of its own progress, for the camera cannot tell how far a walk has come.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from bridge.data.labels import Labels
from robots.g1.embodiment import CHUNK_HZ
from sim.world import WorldView
from tasks import expert as experts
from tasks.expert import SEARCH_LIMIT_RAD, SEARCH_RAD_S, WAVE_END_S, Context
from tasks.language.intent import (
    COLOURS,
    FAMILIES,
    OBJECT_ACTIONS,
    SHAPES,
    UNKNOWN,
    Meaning,
    sample_meaning,
    sample_wording,
)

# How a label's instruction is drawn, and how often.
KINDS = {
    "object": 0.42,
    "point": 0.10,
    "absent": 0.12,
    "walk": 0.15,
    "gesture": 0.18,
    "unknown": 0.03,
}


def add_kind(family: str, share: float) -> None:
    """Draws labels of a family that was added as well, and the others less often."""
    for kind in KINDS:
        KINDS[kind] *= 1 - share
    KINDS[family] = share


@dataclass(frozen=True)
class LabelConfig:
    """`per_frame` labels, the first of them the instruction that the robot really had.

    `wordings` is how many ways all episodes together have of saying one meaning: a new sentence for
    every label would be more text than a text encoder can read. Of the objects named that are not
    there, the share `alike` has the colour or the shape of one in view, and the search for half of
    them comes to its end.
    """

    per_frame: int = 6
    wordings: int = 24
    in_view: float = 0.5
    approached: float = 0.25
    partial: float = 0.2
    alike: float = 0.7
    imagined: float = 0.6
    drift: float = 0.02


@dataclass(frozen=True)
class Frame:
    """One recorded moment. `base` is the true x m, y m and yaw rad (not wrapped) in the world."""

    view: WorldView
    context: Context
    base: tuple[float, float, float]
    meaning: Meaning
    wording: str


def relabel(frames: Sequence[Frame], rng: np.random.Generator, config: LabelConfig) -> Labels:
    """Labels (T, config.per_frame) for the T frames of one episode."""
    sentences = _Sentences(rng, config.wordings)
    rows = []
    for t, frame in enumerate(frames):
        own = (sentences.index(frame.wording), frame.meaning, frame.context)
        others = (_draw(frames, t, rng, config) for _ in range(config.per_frame - 1))
        said = [(sentences.say(meaning), meaning, context) for meaning, context in others]
        rows.append([_label(frame.view, *choice) for choice in (own, *said)])
    instruction, context, commands, status, slots, place = (
        np.array([[label[i] for label in row] for row in rows]) for i in range(6)
    )
    return Labels(
        instructions=tuple(sentences.texts),
        instruction=instruction.astype(np.int32),
        context=context.astype(np.float32),
        commands=commands.astype(np.float16),
        status=status.astype(np.int8),
        slots=slots.astype(np.int8),
        place=place.astype(np.float16),
    )


def _label(view: WorldView, sentence: int, meaning: Meaning, context: Context) -> tuple:
    # The expert sees what the file keeps, so that labels can be checked against the file.
    kept = np.array([context.elapsed_s, *context.odometry], dtype=np.float32)
    context = replace(context, elapsed_s=float(kept[0]), odometry=kept[1:])
    commands, status = experts.act(meaning, view, context)
    place = place_of_named(meaning, view)
    return sentence, kept, commands, int(status), meaning.slot_vector(), place


def place_of_named(meaning: Meaning, view: WorldView) -> np.ndarray:
    """(2,) where the picture shows the one object that is named: column and row, as shares.

    -1 where none that fits is seen; NaN where several are, or no object is named.
    """
    if meaning.action not in OBJECT_ACTIONS:
        return np.full(2, np.nan)
    seen = [i for i in experts.matching(meaning, view) if view.visible[i]]
    if not seen:
        return np.full(2, -1.0)
    return view.place[seen[0]] if len(seen) == 1 else np.full(2, np.nan)


class _Sentences:
    """The texts of one episode, from the few that all episodes share for each meaning."""

    def __init__(self, rng: np.random.Generator, wordings: int):
        self.texts: list[str] = []
        self._rng, self._wordings = rng, wordings
        self._known: dict[str, int] = {}

    def index(self, text: str) -> int:
        if text not in self._known:
            self._known[text] = len(self.texts)
            self.texts.append(text)
        return self._known[text]

    def say(self, meaning: Meaning) -> int:
        # There are more things out of scope than one meaning shows.
        ways = self._wordings * (10 if meaning == UNKNOWN else 1)
        return self.index(shared_wording(meaning, int(self._rng.integers(ways))))


@cache
def shared_wording(meaning: Meaning, number: int) -> str:
    """The training wording of a meaning that goes by this number in every episode."""
    rng = np.random.default_rng([number, *(meaning.slot_vector() + 1).tolist()])
    return sample_wording(meaning, rng, "train")


def _draw(
    frames: Sequence[Frame], t: int, rng: np.random.Generator, config: LabelConfig
) -> tuple[Meaning, Context]:
    kind = rng.choice(list(KINDS), p=list(KINDS.values()))
    context = earlier_start(frames, t, rng, config.drift)
    if kind == "unknown":
        return UNKNOWN, context
    if kind == "gesture":
        meaning = sample_meaning("gesture", rng)
        while meaning.action == "point_at":
            meaning = sample_meaning("gesture", rng)
    elif kind in FAMILIES and not OBJECT_ACTIONS & set(FAMILIES[kind]):
        meaning = sample_meaning(kind, rng)
    else:
        meaning = _about_object(frames[t], kind, rng, config)
    lost = rng.random() < {"absent": 0.5, "object": 0.1, "point": 0.1}.get(kind, 0.0)
    if lost or rng.random() < config.imagined:
        context = imagined_start(meaning, context, lost, rng)
    return meaning, context


def _about_object(
    frame: Frame, kind: str, rng: np.random.Generator, config: LabelConfig
) -> Meaning:
    if kind in FAMILIES:
        (action,) = FAMILIES[kind]
    else:
        point = kind == "point" or (kind == "absent" and rng.random() < 0.3)
        action = "point_at" if point else "go_to"
    view = frame.view
    if kind == "absent":
        colour, shape = _absent_pair(view, rng, config)
    else:
        index = _pick_object(frame, rng, config)
        colour, shape = view.colours[index], view.shapes[index]
    named: dict[str, str] = {"colour": colour, "shape": shape}
    if kind != "absent" and rng.random() < config.partial:
        del named["colour" if rng.random() < 0.5 else "shape"]
    if action == "go_to" and rng.random() < 0.15:
        named["manner"] = "slowly" if rng.random() < 0.5 else "quickly"
    return Meaning(action, **named)


def _absent_pair(view: WorldView, rng: np.random.Generator, config: LabelConfig) -> tuple[str, str]:
    """A colour and a shape that no object has together, though one in view may have either."""
    pairs = list(zip(view.colours, view.shapes, strict=True))
    missing = absent_pairs(pairs)
    seen = [pairs[i] for i in np.flatnonzero(view.visible)]
    if seen and rng.random() < config.alike:
        like = seen[int(rng.integers(len(seen)))]
        missing = [pair for pair in missing if (pair[0] == like[0]) != (pair[1] == like[1])]
    return missing[int(rng.integers(len(missing)))]


def absent_pairs(there: Collection[tuple[str, str]]) -> list[tuple[str, str]]:
    """Every colour and shape that none of those that are there has together."""
    return [(c, s) for c in COLOURS for s in SHAPES if (c, s) not in there]


def _pick_object(frame: Frame, rng: np.random.Generator, config: LabelConfig) -> int:
    visible = np.flatnonzero(frame.view.visible)
    draw = rng.random()
    if len(visible) and draw < config.in_view:
        return int(rng.choice(visible))
    approached = experts.matching(frame.meaning, frame.view)
    if frame.meaning.action == "go_to" and approached and draw < config.in_view + config.approached:
        return approached[0]
    return int(rng.integers(len(frame.view.colours)))


def earlier_start(
    frames: Sequence[Frame], t: int, rng: np.random.Generator, drift: float
) -> Context:
    """The context of frame t, had its instruction been given at a random frame up to it."""
    start = int(rng.integers(t + 1))
    x0, y0, yaw0 = frames[start].base
    x, y, yaw = frames[t].base
    cos, sin = np.cos(yaw0), np.sin(yaw0)
    odometry = np.array(
        [cos * (x - x0) + sin * (y - y0), -sin * (x - x0) + cos * (y - y0), yaw - yaw0]
    )
    return replace(
        frames[t].context,
        elapsed_s=(t - start) / CHUNK_HZ,
        odometry=odometry * (1 + drift * rng.standard_normal(3)),
    )


def imagined_start(
    meaning: Meaning, context: Context, lost: bool, rng: np.random.Generator
) -> Context:
    """The context at a random stage of the instruction's own progress.

    `lost` asks for the stages of a search that comes to its end without finding anything.
    """
    if meaning.action.startswith(("walk", "step")):
        return _along_walk(meaning, context, rng)
    if meaning.action.startswith("turn"):
        sign = 1.0 if meaning.action == "turn_left" else -1.0
        angle = _progress(meaning.angle_rad, 0.25, rng)
        odometry = np.array([*rng.normal(0, 0.06, 2), sign * angle])
        return replace(context, elapsed_s=_elapsed(angle, 0.5, rng), odometry=odometry)
    if meaning.action in OBJECT_ACTIONS:
        if not lost:
            return context
        yaw = rng.uniform(0.0, 1.25 * SEARCH_LIMIT_RAD)
        odometry = np.array([*rng.normal(0, 0.15, 2), yaw])
        return replace(context, elapsed_s=_elapsed(yaw, 0.8 * SEARCH_RAD_S, rng), odometry=odometry)
    elapsed_s = rng.uniform(0.0, 1.3 * WAVE_END_S)
    return replace(context, elapsed_s=elapsed_s, odometry=rng.normal(0, 0.03, 3))


def _along_walk(meaning: Meaning, context: Context, rng: np.random.Generator) -> Context:
    aside = meaning.action.startswith("step")
    sign = -1.0 if meaning.action in ("walk_backward", "step_right") else 1.0
    distance = _progress(meaning.distance_m, 0.15, rng)
    along, across = sign * distance, rng.normal(0, 0.06)
    x, y = (across, along) if aside else (along, across)
    speed = 0.2 if aside or meaning.action == "walk_backward" else 0.4
    odometry = np.array([x, y, rng.normal(0, 0.1)])
    return replace(context, elapsed_s=_elapsed(distance, speed, rng), odometry=odometry)


def _progress(amount: float, spread: float, rng: np.random.Generator) -> float:
    """How much of an amount is behind: anything, but more often nearly all of it."""
    if rng.random() < 0.5:
        return float(rng.uniform(-0.03, 1.1) * amount)
    return float(amount + rng.normal(0, spread))


def _elapsed(amount: float, speed: float, rng: np.random.Generator) -> float:
    return float(max(amount, 0.0) / speed * rng.uniform(0.8, 1.5) + rng.uniform(0, 2))
