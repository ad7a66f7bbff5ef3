"""Language: meanings to vectors and back, one meaning a sentence, and two splits that never mix."""

import itertools
import re
from functools import lru_cache

import numpy as np
import pytest

from tasks.catalogue import SHIPPED
from tasks.families import gesture, walk
from tasks.language import intent, language
from tasks.language.grammar import Grammar
from tasks.language.intent import UNKNOWN, Intent
from tasks.language.language import SPLITS
from tasks.task import Task

LANGUAGE = SHIPPED.language
TRAIN, HELDOUT = (LANGUAGE.grammars[split] for split in SPLITS)
SLOTS, ACTIONS = SHIPPED.slots, SHIPPED.actions
AMOUNTS = {"walk": walk.WALKED, "step": walk.STEPPED, "turn": walk.TURNED}
SIDES = {"raise_hand": gesture.ANY, "wave": gesture.ANY, "point_at": gesture.ONE}


def all_meanings() -> list[Intent]:
    """Everything that `sample_meaning` may say."""
    meanings = [UNKNOWN]
    manners = (None, *SLOTS["manner"])
    for action in ACTIONS:
        kind = action.split("_")[0]
        if action == UNKNOWN.skill:
            continue
        if kind in AMOUNTS:
            amounts = (None, *AMOUNTS[kind])
            meanings += [
                Intent(action, amount=amount, manner=manner)
                for amount, manner in itertools.product(amounts, manners)
            ]
            continue
        names = [(None, None)]
        if action in ("go_to", "point_at"):
            names = list(itertools.product((None, *SLOTS["colour"]), (None, *SLOTS["shape"])))[1:]
        sides = (None, *SIDES.get(action, ()))
        meanings += [
            Intent(action, colour, shape, side, manner=manner)
            for (colour, shape), side in itertools.product(names, sides)
            for manner in (manners if action == "go_to" else (None,))
        ]
    return meanings


@lru_cache(None)
def choices(pattern: str) -> tuple[str, ...]:
    """The pattern with every choice of its groups made, conditions and spaces removed."""
    pattern = re.sub(r"^(\w+=[\w.]+(, )?)+: ", "", pattern)
    group = re.search(r"\(([^()\[\]]*)\)|\[([^()\[\]]*)\]", pattern)
    if group is None:
        return (pattern.replace(" ", ""),)
    options = group[1].split("|") if group[1] is not None else ["", group[2]]
    before, after = pattern[: group.start()], pattern[group.end() :]
    return tuple(set(itertools.chain(*(choices(before + option + after) for option in options))))


@lru_cache(None)
def parts(pattern: str) -> list[list[str]]:
    """For each choice its literal texts (even places) and the names between them (odd places)."""
    return [re.split(r"\{(\w+)\}", choice.lower()) for choice in choices(pattern)]


class Reader:
    """Tells which actions a grammar could have meant by a sentence: `say`, turned round.

    Generous, as a proof needs: spaces and the values of slots other than action are not compared.
    """

    def __init__(self, grammar: Grammar, sentence: str) -> None:
        self.grammar = grammar
        self.text = sentence.lower().rstrip("?.!").replace(" ", "")
        self.action = ""
        self.word_ends: dict[tuple[str, str, int], set[int]] = {}
        framed = [(starts, [after]) for starts, after in self.around(grammar.frames, {0})]
        self.bodies = [
            (inner, [inner_after, *after])
            for starts, after in framed
            for inner, inner_after in self.around(grammar.adverbs, starts)
        ]

    def around(self, frames: list[str], starts: set[int]) -> list[tuple[set[int], str]]:
        """Where the body of each frame may begin, and what follows it."""
        split = [choice.split("~") for frame in ["~", *frames] for choice in choices(frame)]
        found = [(self.ends(before, starts), after) for before, after in split]
        return [(ends, after) for ends, after in found if ends]

    def actions(self) -> set[str]:
        return {action for action in ACTIONS if self._may_mean(action)}

    def _may_mean(self, action: str) -> bool:
        self.action, ends = action, set()
        for pattern in self.grammar.sentences.get(action, []):
            ends |= self.ends(pattern, {0})
        imperatives = self.grammar.imperatives.get(action, [])
        bodies: dict[frozenset[int], set[int]] = {}
        for starts, after in self.bodies:
            key = frozenset(starts)
            if key not in bodies:
                bodies[key] = set().union(*(self.ends(text, starts) for text in imperatives))
            places = bodies[key]
            for text in after:
                places = self.ends(text, places)
            ends |= places
        return len(self.text) in ends

    def ends(self, pattern: str, starts: set[int]) -> set[int]:
        """Where the pattern may end in the text when it begins at one of `starts`."""
        other = re.match(r"action=(\w+)", pattern)
        if not starts or (other and other[1] != self.action):
            return set()
        found = set()
        for choice in parts(pattern):
            places = starts
            for i, part in enumerate(choice):
                step = self._word if i % 2 else self._literal
                places = set().union(*(step(part, place) for place in places)) if part else places
            found |= places
        return found

    def _literal(self, text: str, start: int) -> set[int]:
        # The mark at the end of a sentence may be missing.
        options = {text, text.rstrip("?.!")}
        return {start + len(part) for part in options if self.text.startswith(part, start)}

    def _word(self, name: str, start: int) -> set[int]:
        texts = self.grammar.words[name]
        of_action = isinstance(texts, dict) and self.grammar.slot_of(name) == "action"
        key = (self.action if of_action else "", name, start)
        if key not in self.word_ends:
            if of_action:
                texts = texts.get(self.action, [])
            elif isinstance(texts, dict):
                texts = itertools.chain(*texts.values())
            self.word_ends[key] = set().union(*(self.ends(text, {start}) for text in texts))
        return self.word_ends[key]


def spoken(grammar: Grammar, n: int, seed: int) -> list[tuple[Intent, str]]:
    """Sentences as the grammar makes them, before typing errors and case."""
    rng = np.random.default_rng(seed)
    meanings = all_meanings()
    by_action = {action: [m for m in meanings if m.skill == action] for action in ACTIONS}
    picked = [by_action[ACTIONS[i % len(ACTIONS)]] for i in range(n)]
    drawn = [options[rng.integers(len(options))] for options in picked]
    return [(meaning, grammar.say(meaning.slots(), rng)) for meaning in drawn]


def test_colours_and_shapes_are_those_of_the_scenes() -> None:
    objects = pytest.importorskip("sim.objects")
    assert intent.COLOURS == objects.COLOURS and intent.SHAPES == objects.SHAPES


def test_slot_vectors() -> None:
    values = list(itertools.chain(*SLOTS.values()))
    assert len(values) == len(set(values))
    vector = LANGUAGE.slot_vector(Intent("go_to", "blue", "cone", manner="quickly"))
    assert vector.dtype == np.int8 and vector.tolist() == [7, 2, 3, -1, -1, 1]
    for meaning in all_meanings():
        assert LANGUAGE.from_slots(LANGUAGE.slot_vector(meaning)) == meaning


def test_amounts_and_their_defaults() -> None:
    assert walk.distance_m(Intent("walk_forward", amount="distance_1.5")) == 1.5
    assert walk.distance_m(Intent("walk_backward")) == 1.0
    assert walk.distance_m(Intent("step_left")) == 0.3
    turn = Intent("turn_right", amount="angle_180")
    assert walk.angle_rad(turn) == pytest.approx(np.pi)
    assert walk.angle_rad(Intent("turn_left")) == pytest.approx(np.pi / 2)
    with pytest.raises(ValueError, match="has no angle"):
        walk.angle_rad(Intent("walk_forward", amount="distance_1"))


def test_a_meaning_knows_its_values() -> None:
    with pytest.raises(ValueError, match="colour cannot be 'pink'"):
        Intent("go_to", colour="pink")


def test_descriptions() -> None:
    assert intent.describe(Intent("go_to", "red", "ball")) == "go to the red ball"
    turn = Intent("turn_left", amount="angle_90", manner="slowly")
    assert intent.describe(turn) == "turn left 90 degrees slowly"
    assert intent.describe(Intent("go_to", "red")) == "go to the red object"
    assert intent.describe(Intent("point_at"), names_object=True) == "point at something"
    descriptions = [intent.describe(meaning) for meaning in all_meanings()]
    assert len(descriptions) == len(set(descriptions))


@pytest.mark.parametrize("task", SHIPPED.tasks, ids=lambda task: task.name)
def test_sampled_meanings(task: Task) -> None:
    rng = np.random.default_rng(0)
    sampled = {task.sample_meaning(rng, partial=0.2) for _ in range(3000)}
    assert sampled <= set(all_meanings())
    assert {meaning.skill for meaning in sampled} == {skill.name for skill in task.skills}


def test_objects_named_are_in_the_scene() -> None:
    scene = pytest.importorskip("sim.scene")
    rng = np.random.default_rng(0)
    objects = scene.sample_scene(rng).objects
    present = {(thing.colour, thing.shape) for thing in objects}
    for _ in range(50):
        meaning = SHIPPED["go_to"].sample_meaning(rng, objects)
        assert (meaning.colour, meaning.shape) in present
        part = SHIPPED["go_to"].sample_meaning(rng, objects, partial=1.0)
        assert (part.colour is None) != (part.shape is None)


@pytest.mark.parametrize("task", SHIPPED.tasks, ids=lambda task: task.name)
def test_every_pattern_beside_a_task_is_one_of_its_skills(task: Task) -> None:
    assert task.words is not None
    for tables in language.read_toml(task.words).values():
        for key in (*tables["imperatives"], *tables["sentences"]):
            assert any(skill.name.startswith(key) for skill in task.skills), key


@pytest.mark.parametrize("split", SPLITS)
def test_every_meaning_can_be_said(split: str) -> None:
    for grammar in LANGUAGE.grammars[split]:
        rng = np.random.default_rng(0)
        for meaning in all_meanings():
            assert grammar.say(meaning.slots(), rng)


def test_equal_seeds_say_the_same() -> None:
    def drawn(seed: int) -> list[str]:
        rng = np.random.default_rng(seed)
        return [
            LANGUAGE.sample_wording(SHIPPED["walk"].sample_meaning(rng), rng, split)
            for split in SPLITS * 20
        ]

    assert drawn(3) == drawn(3) != drawn(4)


@pytest.mark.parametrize("grammar", [*TRAIN, HELDOUT[0], HELDOUT[-1]])
def test_a_sentence_means_one_action(grammar: Grammar) -> None:
    for meaning, sentence in spoken(grammar, 130, 1):
        assert Reader(grammar, sentence).actions() == {meaning.skill}, sentence


def test_heldout_sentences_cannot_come_out_of_the_training_grammar() -> None:
    for grammar in HELDOUT:
        for _, sentence in spoken(grammar, 52, 2):
            assert not Reader(TRAIN[0], sentence).actions(), sentence


def test_no_heldout_sentence_was_ever_typed_in_training() -> None:
    def typed(split: str, n: int) -> set[str]:
        rng = np.random.default_rng(5)
        meanings = [SHIPPED.tasks[i % 3].sample_meaning(rng) for i in range(n)]
        said = (LANGUAGE.sample_wording(meaning, rng, split) for meaning in meanings)
        return {re.sub(r"\W+", " ", text.lower()).strip() for text in said}

    assert not typed("train", 10_000) & typed("heldout", 3000)


def object_words(grammar: Grammar) -> set[str]:
    texts = itertools.chain(*(grammar.words[name].values() for name in ("colour", "shape")))
    return set(re.findall(r"[a-z]+", " ".join(itertools.chain(*texts))))


def all_words(grammar: Grammar) -> set[str]:
    tables = [grammar.words, grammar.imperatives, grammar.sentences]
    text = " ".join(str(list(table.values())) for table in tables)
    return set(re.findall(r"[a-z]+", text.lower()))


def test_heldout_words_are_new() -> None:
    known, fresh = all_words(TRAIN[0]), HELDOUT[-1]
    for slot in ("colour", "shape"):
        for phrase in itertools.chain(*fresh.words[slot].values()):
            assert set(re.findall(r"[a-z]+", phrase)) - known, phrase
    # Plain names excepted ("royal blue", "safety cone"), as people do say them.
    old = object_words(fresh) & known
    assert old <= {*intent.COLOURS, *intent.SHAPES, "thing"}


def test_heldout_patterns_and_frames_are_new() -> None:
    for name in ("imperatives", "sentences"):
        for action in ACTIONS:
            trained, fresh = (
                {choice for text in getattr(g, name)[action] for choice in choices(text)}
                for g in (TRAIN[0], HELDOUT[0])
            )
            assert len(fresh) >= 2 and not trained & fresh
    assert not set(TRAIN[0].frames) & set(HELDOUT[0].frames)


def test_half_of_the_heldout_objects_have_a_new_name() -> None:
    new = object_words(HELDOUT[-1]) - all_words(TRAIN[0])
    rng = np.random.default_rng(0)
    meaning = Intent("go_to", "green", "cylinder")
    texts = [LANGUAGE.sample_wording(meaning, rng, "heldout").lower() for _ in range(500)]
    share = np.mean([bool(set(re.findall(r"[a-z]+", text)) & new) for text in texts])
    assert 0.4 < share < 0.6


@pytest.mark.parametrize("split", SPLITS)
def test_left_is_never_said_with_right(split: str) -> None:
    for grammar in LANGUAGE.grammars[split]:
        for meaning, sentence in spoken(grammar, 650, 3):
            words = set(re.findall(r"[a-z]+", sentence.lower()))
            side = meaning.side or meaning.skill.split("_")[-1]
            if meaning.skill != "stop":
                assert not ("left" in words and side != "left"), sentence
                assert not ("right" in words and side != "right"), sentence


def test_out_of_scope_requests_are_many_and_apart() -> None:
    rng = np.random.default_rng(0)
    train, heldout = (
        {
            re.sub(r"\W+", " ", LANGUAGE.sample_wording(UNKNOWN, rng, split).lower())
            for _ in range(2000)
        }
        for split in SPLITS
    )
    assert len(train) > 500 and len(heldout) > 150 and not train & heldout
    for split, least in zip(SPLITS, (30, 15), strict=True):
        grammar = LANGUAGE.grammars[split][0]
        tables = (grammar.imperatives, grammar.sentences)
        assert sum(len(table["unknown"]) for table in tables) >= least


def test_one_training_sentence_in_ten_has_a_typing_error(monkeypatch) -> None:
    slips = []
    monkeypatch.setattr(language, "with_typo", lambda text, rng: slips.append(text) or text)
    rng = np.random.default_rng(0)
    for _ in range(1000):
        LANGUAGE.sample_wording(UNKNOWN, rng)
        LANGUAGE.sample_wording(UNKNOWN, rng, "heldout")
    assert 70 < len(slips) < 130


@pytest.mark.parametrize(
    ("sentence", "action"),
    [
        ("walk two metres forward", "walk_forward"),
        ("go 1.5 m ahead", "walk_forward"),
        ("turn left a quarter", "turn_left"),
        ("rotate 90 degrees to the right", "turn_right"),
        ("turn around", "turn_left"),
        ("step to the right", "step_right"),
        ("walk backwards slowly", "walk_backward"),
        ("stop", "stop"),
        ("walk to the red ball", "go_to"),
        ("could you please go over to the green cone?", "go_to"),
        ("head for the purple box", "go_to"),
        ("raise your left hand", "raise_hand"),
        ("wave", "wave"),
        ("point at the blue cube", "point_at"),
        ("lower your arms", "lower_arms"),
    ],
)
def test_plain_orders_are_part_of_training(sentence: str, action: str) -> None:
    assert Reader(TRAIN[0], sentence).actions() == {action}


@pytest.mark.parametrize(
    "sentence",
    ["stroll over to the scarlet sphere", "reverse a little", "hold up your left arm", "say hi"],
)
def test_other_everyday_orders_are_held_out(sentence: str) -> None:
    assert any(Reader(grammar, sentence).actions() for grammar in HELDOUT)
    assert not Reader(TRAIN[0], sentence).actions()
