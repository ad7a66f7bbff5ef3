"""Counterfactual labels: what the expert would do at a recorded moment, told something else.

The same picture under other words asks for other actions; this is what makes a policy listen.
Where an instruction counts time or distance, its start is imagined: at an earlier frame of the
episode, or at any stage of its own progress, for the camera cannot tell how far a walk has come.

After hindsight relabelling (Andrychowicz et al. 2017, arXiv:1707.01495): another goal for what was
lived through, but with the expert's action for it in place of a reward.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from bridge.data.labels import Labels
from bridge.ranges import NonNegativeFloat, PositiveInt, Share
from robots.g1.embodiment import CHUNK_HZ
from robots.rotations import to_heading
from sim.world import WorldView
from tasks import expert as experts
from tasks.catalogue import OUT_OF_SCOPE, Catalogue
from tasks.expert import Context
from tasks.language.grammar import pick
from tasks.language.intent import COLOURS, SHAPES, UNKNOWN, Intent
from tasks.language.language import Language


@dataclass(frozen=True)
class LabelConfig:
    """`per_frame` labels, the first of them the instruction that the robot really had.

    `wordings` is how many ways all episodes together have of saying one meaning: a new sentence for
    every label would be more text than a text encoder can read. Of the objects named that are not
    there, the share `alike` has the colour or the shape of one in view, and the search for half of
    them comes to its end.
    """

    per_frame: PositiveInt = 6
    wordings: PositiveInt = 24
    in_view: Share = 0.5
    meant: Share = 0.25
    partial: Share = 0.2
    alike: Share = 0.7
    imagined: Share = 0.6
    drift: NonNegativeFloat = 0.02


@dataclass(frozen=True)
class RecordedFrame:
    """One recorded moment. `base` is the true x m, y m and yaw rad (not wrapped) in the world."""

    view: WorldView
    context: Context
    base: tuple[float, float, float]
    meaning: Intent
    wording: str


def relabel(
    catalogue: Catalogue,
    frames: Sequence[RecordedFrame],
    rng: np.random.Generator,
    config: LabelConfig,
) -> Labels:
    """Labels (T, config.per_frame) for the T frames of one episode."""
    sentences = _Sentences(catalogue.language, rng, config.wordings)
    rows = []
    for t, frame in enumerate(frames):
        own = (sentences.index(frame.wording), frame.meaning, frame.context)
        others = (_draw(catalogue, frames, t, rng, config) for _ in range(config.per_frame - 1))
        said = [(sentences.say(meaning), meaning, context) for meaning, context in others]
        rows.append([_label(catalogue, frame.view, *choice) for choice in (own, *said)])
    instruction, context, commands, status, slots, location = (
        np.array([[label[i] for label in row] for row in rows]) for i in range(6)
    )
    return Labels(
        instructions=tuple(sentences.texts),
        instruction=instruction.astype(np.int32),
        context=context.astype(np.float32),
        commands=commands.astype(np.float16),
        status=status.astype(np.int8),
        slots=slots.astype(np.int8),
        target_location=location.astype(np.float16),
    )


def _label(
    catalogue: Catalogue, view: WorldView, sentence: int, meaning: Intent, context: Context
) -> tuple:
    # The expert sees what the file keeps, so that labels can be checked against the file.
    kept = np.array([context.elapsed_s, *context.odometry], dtype=np.float32)
    context = replace(context, elapsed_s=float(kept[0]), odometry=kept[1:])
    skill = catalogue.skill(meaning)
    commands, status = experts.act(skill.expert, meaning, view, context)
    location = location_of_named(meaning, view) if skill.names_object else np.full(2, np.nan)
    slots = catalogue.language.slot_vector(meaning)
    return sentence, kept, commands, int(status), slots, location


def location_of_named(meaning: Intent, view: WorldView) -> np.ndarray:
    """(2,) where the picture shows the one object that is named: column and row, as shares.

    -1 where none that fits is seen; NaN where several are.
    """
    seen = [i for i in experts.matching(meaning, view) if view.visible[i]]
    if not seen:
        return np.full(2, -1.0)
    return view.image_location[seen[0]] if len(seen) == 1 else np.full(2, np.nan)


class _Sentences:
    """The texts of one episode, from the few that all episodes share for each meaning."""

    def __init__(self, language: Language, rng: np.random.Generator, wordings: int) -> None:
        self.texts: list[str] = []
        self._language, self._rng, self._wordings = language, rng, wordings
        self._known: dict[str, int] = {}

    def index(self, text: str) -> int:
        if text not in self._known:
            self._known[text] = len(self.texts)
            self.texts.append(text)
        return self._known[text]

    def say(self, meaning: Intent) -> int:
        # There are more things out of scope than one meaning shows.
        ways = self._wordings * (10 if meaning == UNKNOWN else 1)
        number = int(self._rng.integers(ways))
        return self.index(shared_wording(self._language, meaning, number))


@cache
def shared_wording(language: Language, meaning: Intent, number: int) -> str:
    """The training wording of a meaning that goes by this number in every episode."""
    rng = np.random.default_rng([number, *(language.slot_vector(meaning) + 1).tolist()])
    return language.sample_wording(meaning, rng, "train")


def _draw(
    catalogue: Catalogue,
    frames: Sequence[RecordedFrame],
    t: int,
    rng: np.random.Generator,
    config: LabelConfig,
) -> tuple[Intent, Context]:
    skills = list(catalogue.skills.values())
    shares = np.array([(skill.label_share, skill.absent_share) for skill in skills])
    index, absent = divmod(int(rng.choice(shares.size, p=shares.ravel() / shares.sum())), 2)
    skill = skills[index]
    context = earlier_start(frames, t, rng, config.drift)
    if skill is OUT_OF_SCOPE:
        return UNKNOWN, context
    objects, partial = None, 0.0
    if absent:
        objects = [_absent_object(frames[t].view, rng, config)]
    elif skill.names_object:
        objects, partial = [_pick_object(frames[t], rng, config)], config.partial
    meaning = skill.sample_meaning(rng, objects, partial)
    lost = rng.random() < (0.5 if absent else 0.1 if skill.names_object else 0.0)
    if lost or rng.random() < config.imagined:
        context = skill.imagined_start(meaning, context, lost, rng)
    return meaning, context


@dataclass(frozen=True)
class _Thing:
    """What words can name, there or not."""

    colour: str
    shape: str


def _absent_object(view: WorldView, rng: np.random.Generator, config: LabelConfig) -> _Thing:
    """A colour and a shape that no object has together, though one in view may have either."""
    pairs = list(zip(view.colours, view.shapes, strict=True))
    missing = absent_pairs(pairs)
    seen = [pairs[i] for i in np.flatnonzero(view.visible)]
    if seen and rng.random() < config.alike:
        like = pick(seen, rng)
        missing = [pair for pair in missing if (pair[0] == like[0]) != (pair[1] == like[1])]
    return _Thing(*pick(missing, rng))


def absent_pairs(there: Collection[tuple[str, str]]) -> list[tuple[str, str]]:
    """Every colour and shape that none of those that are there has together."""
    return [(c, s) for c in COLOURS for s in SHAPES if (c, s) not in there]


def _pick_object(frame: RecordedFrame, rng: np.random.Generator, config: LabelConfig) -> _Thing:
    """One of the scene, more often one in view, or one that the robot was told of."""
    view = frame.view
    index = int(rng.integers(len(view.colours)))
    visible = np.flatnonzero(view.visible)
    asked = frame.meaning.colour or frame.meaning.shape
    meant = experts.matching(frame.meaning, view) if asked else []
    draw = rng.random()
    if len(visible) and draw < config.in_view:
        index = int(rng.choice(visible))
    elif meant and draw < config.in_view + config.meant:
        index = meant[0]
    return _Thing(view.colours[index], view.shapes[index])


def earlier_start(
    frames: Sequence[RecordedFrame], t: int, rng: np.random.Generator, drift: float
) -> Context:
    """The context of frame t, had its instruction been given at a random frame up to it."""
    start = int(rng.integers(t + 1))
    x0, y0, yaw0 = frames[start].base
    x, y, yaw = frames[t].base
    odometry = np.array([*to_heading(x - x0, y - y0, yaw0), yaw - yaw0])
    return replace(
        frames[t].context,
        elapsed_s=(t - start) / CHUNK_HZ,
        odometry=odometry * (1 + drift * rng.standard_normal(3)),
    )
