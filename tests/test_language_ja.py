"""Japanese: wordings that say every meaning and no two at once, as people type them; its lists."""

import itertools
import re
import tomllib
from collections import defaultdict
from difflib import SequenceMatcher
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest

from tasks.catalogue import SHIPPED
from tasks.language import intent, xkcd
from tasks.language.grammar import CONDITIONS, NAME, Grammar, patterns_of
from tasks.language.intent import COLOURS, UNKNOWN, Intent
from tasks.language.ja.typed import ALIKE, OPENINGS, dressed, undressed, with_typo
from tasks.language.parse import _Reader
from tasks.language.typed import TYPISTS, typed
from tests.test_language import Reader, all_meanings, choices, spoken

FOLDER = Path(intent.__file__).parent
SLOTS, ACTIONS = SHIPPED.slots, SHIPPED.actions
SLOT_OF = {value: slot for slot, values in SLOTS.items() for value in values}


def content(name: str) -> dict:
    return tomllib.loads((FOLDER / name).read_text(encoding="utf-8"))


def by_skill(patterns: dict[str, list[str]]) -> dict[str, list[str]]:
    """What is said of both sides, such as "step", under the names of its skills."""
    skills = {"step": ("step_left", "step_right"), "turn": ("turn_left", "turn_right")}
    return {skill: texts for kind, texts in patterns.items() for skill in skills.get(kind, (kind,))}


WORDS = content("ja/grammar.toml")
WORDS |= {kind: by_skill(WORDS[kind]) for kind in ("imperatives", "sentences")}
JA = Grammar(**WORDS, slot_of_value=SLOT_OF)
DRAWN = 20_000


@pytest.fixture(scope="module")
def drawn() -> list[tuple[Intent, str]]:
    return spoken(JA, DRAWN, 7)


def texts() -> list[str]:
    """Everything that is written in the grammar."""
    lists = [JA.frames, JA.adverbs, *JA.imperatives.values(), *JA.sentences.values()]
    for entry in JA.words.values():
        lists += entry.values() if isinstance(entry, dict) else [entry]
    return [*itertools.chain(*lists)]


def test_every_name_and_condition_has_its_words() -> None:
    named = set()
    for text in texts():
        named |= set(NAME.findall(text))
        if conditions := CONDITIONS.fullmatch(text):
            for condition in conditions[1].split(", "):
                slot, value = condition.split("=")
                assert value in SLOTS[slot], text
            text = conditions[2]
        assert not re.search(r"[()\[\]|{}=]", NAME.sub("", "".join(choices(text)))), text
    assert named == set(JA.words)
    for entry in JA.words.values():
        assert len({SLOT_OF[value] for value in entry if isinstance(entry, dict)}) <= 1


def test_every_meaning_can_be_said() -> None:
    rng = np.random.default_rng(0)
    for meaning in all_meanings():
        assert JA.say(meaning.slots(), rng)


def test_every_pattern_says_something() -> None:
    meanings = all_meanings()
    rng = np.random.default_rng(0)
    for table, action in itertools.product((JA.imperatives, JA.sentences), ACTIONS):
        values = [meaning.slots() for meaning in meanings if meaning.skill == action]
        for pattern in patterns_of(table, action):
            other = re.match(r"action=(\w+)", pattern)
            assert (other and other[1] != action) or any(
                _says(pattern, said, rng) for said in values for _ in range(8)
            ), pattern


def _says(pattern: str, values: dict[str, str], rng: np.random.Generator) -> bool:
    said = {"action"}
    JA._fill(pattern, values, said, rng)
    return said == set(values)


def test_it_is_as_wide_as_the_english_one() -> None:
    english = SHIPPED.language.grammars["train"][0]

    def patterns(grammar: Grammar) -> int:
        return sum(map(len, [*grammar.imperatives.values(), *grammar.sentences.values()]))

    assert patterns(JA) > patterns(english) > 400
    assert set(JA.imperatives) == set(english.imperatives)
    for slot in ("colour", "shape"):
        assert all(len(set(words)) >= 40 for words in JA.words[slot].values())


def test_an_order_ends_in_the_te_form() -> None:
    """Whatever courtesy follows it."""

    def ends(pattern: str) -> bool:
        for choice in choices(pattern):
            if name := re.search(r"\{(\w+)\}$", choice):
                words = JA.words[name[1]]
                words = itertools.chain(*words.values()) if isinstance(words, dict) else words
                if not all(map(ends, words)):
                    return False
            elif choice[-1] not in "てで":
                return False
        return True

    for pattern in itertools.chain(*JA.imperatives.values()):
        assert ends(pattern), pattern


def test_a_sentence_means_one_thing(drawn: list[tuple[Intent, str]]) -> None:
    meanings = defaultdict(set)
    for meaning, sentence in drawn:
        meanings[sentence].add(meaning)
    assert not {text: said for text, said in meanings.items() if len(said) > 1}
    assert len(meanings) > 0.9 * DRAWN


@pytest.mark.parametrize("seed", [1, 2])
def test_a_sentence_is_read_as_what_it_means(seed: int) -> None:
    read = 0
    for meaning, sentence in spoken(JA, 65, seed):
        assert Reader(JA, sentence).actions() == {meaning.skill}, sentence
        found = {*_Reader(JA, sentence.lower()).read(sentence.lower())}
        assert found <= {meaning}, sentence  # unread is allowed, misread is not
        read += len(found)
    assert read >= 62


def test_many_sentences_for_each_meaning() -> None:
    rng = np.random.default_rng(0)
    for meaning in all_meanings():
        if meaning.colour in (None, "red") and meaning.manner is None:
            said = {JA.say(meaning.slots(), rng) for _ in range(100)}
            assert len(said) >= 50, meaning


def test_left_is_never_said_with_right(drawn: list[tuple[Intent, str]]) -> None:
    both_ways = re.compile("左右|右左|右へ左へ")
    for meaning, sentence in drawn:
        text = both_ways.sub("", sentence).replace("ひだり", "左").replace("みぎ", "右")
        side = meaning.side or meaning.skill.split("_")[-1]
        assert not ("左" in text and side != "left"), sentence
        assert not ("右" in text and side != "right"), sentence


def test_the_grammar_is_written_as_nfkc_has_it() -> None:
    assert not [text for text in texts() if normalize("NFKC", text) != text]


def test_equal_seeds_say_the_same() -> None:
    def said(seed: int) -> list[str]:
        rng = np.random.default_rng(seed)
        meanings = [SHIPPED["walk"].sample_meaning(rng) for _ in range(40)]
        return [typed(JA.say(m.slots(), rng), rng, "ja", typo_share=0.5) for m in meanings]

    assert said(3) == said(3) != said(4)


@pytest.mark.parametrize(
    ("sentence", "action"),
    [
        ("赤いボールまで行って", "go_to"),
        ("赤いボール行って", "go_to"),
        ("redのballのところまで行ってください", "go_to"),
        ("青い箱の前に立ってくれる?", "go_to"),
        ("みどりのコーンに近づいて", "go_to"),
        ("黄色い筒を探してそこまで行ってもらえますか?", "go_to"),
        ("オレンジの三角コーンへ急げ", "go_to"),
        ("前に二メートル進んで", "walk_forward"),
        ("1.5メートル前進", "walk_forward"),
        ("もう少し下がって", "walk_backward"),
        ("バックして", "walk_backward"),
        ("左に一歩移動して", "step_left"),
        ("右にずれてくれへん?", "step_right"),
        ("左に九十度回って", "turn_left"),
        ("右向け右", "turn_right"),
        ("後ろを向いて", "turn_left"),
        ("回れ右", "turn_right"),
        ("その場で一周して", "turn_left"),
        ("左手を上げてほしいんだけど", "raise_hand"),
        ("バンザイして", "raise_hand"),
        ("手を振って", "wave"),
        ("みんなにバイバイして", "wave"),
        ("紫の円柱を右手で指さして", "point_at"),
        ("赤い箱はどれ?", "point_at"),
        ("手を下ろして", "lower_arms"),
        ("止まれ", "stop"),
        ("ちょっと待って", "stop"),
        ("動かないでください", "stop"),
        ("コーヒーを入れて", "unknown"),
        ("赤い箱を持ち上げて", "unknown"),
        ("音楽を止めて", "unknown"),
        ("台所まで行って", "unknown"),
        ("今日の天気は?", "unknown"),
    ],
)
def test_plain_orders_are_part_of_training(sentence: str, action: str) -> None:
    assert Reader(JA, sentence).actions() == {action}


def test_plain_wordings() -> None:
    def plainly(*slots: str, **named: str) -> str:
        return JA.plainly(Intent(*slots, **named).slots())

    assert plainly("go_to", "red", "ball") == "赤いボールまで行って"
    assert plainly("point_at", "blue", side="left") == "左手で青いやつを指さして"
    assert plainly("walk_forward", amount="distance_2") == "前に2メートル進んで"
    assert plainly("turn_right", amount="angle_90", manner="slowly") == "右に90度ゆっくり回って"
    assert plainly("raise_hand", side="both") == "両手を上げて"


def test_a_dressed_sentence_is_the_same_sentence(drawn: list[tuple[Intent, str]]) -> None:
    rng = np.random.default_rng(0)
    worn = [(dressed(text, rng), text) for _, text in drawn[:4000]]
    for wide, text in worn:
        assert undressed(wide) == text.rstrip("!?"), wide
    assert 0.2 < np.mean([wide.startswith(tuple(OPENINGS)) for wide, _ in worn]) < 0.35
    assert any("２" in wide for wide, _ in worn) and any("。" in wide for wide, _ in worn)


def test_a_typing_error_is_one_slip(drawn: list[tuple[Intent, str]]) -> None:
    rng = np.random.default_rng(0)
    meanings = {text: meaning for meaning, text in drawn}
    alike = {word for words in ALIKE for word in words}
    for meaning, text in drawn[:4000]:
        wrong = with_typo(text, rng)
        edits = SequenceMatcher(None, text, wrong, autojunk=False).get_opcodes()
        changed = [edit for edit in edits if edit[0] != "equal"]
        narrow = normalize("NFKC", wrong) == text
        assert narrow or len(changed) <= 2 or any(word in wrong for word in alike), wrong
        assert meanings.get(wrong, meaning) == meaning, f"{text} became {wrong}"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("赤いボールまで行って", "赤いボルまで行って"),
        ("赤いボールまで行って", "赤いボールまで行つて"),
        ("赤いボールまで行って", "赤いボール行って"),
        ("赤いボールまで行って", "赤いボールまで言って"),
        ("赤いボールまで行って", "赤いﾎﾞｰﾙまで行って"),
        ("赤いボールまで行って", "赤いホールまで行って"),
        ("急いで右に回って", "急いで右回って"),
        ("早く止まって", "速く止まって"),
    ],
)
def test_these_slips_happen(right: str, wrong: str) -> None:
    rng = np.random.default_rng(0)
    assert wrong in {with_typo(right, rng) for _ in range(3000)}


def test_what_cannot_slip_stays() -> None:
    assert with_typo("go", np.random.default_rng(0)) == "go"


def test_one_sentence_in_ten_has_a_slip() -> None:
    rng = np.random.default_rng(0)
    text = "赤いボールまで行って"
    slips = [undressed(typed(text, rng, "ja", typo_share=0.1)) != text for _ in range(4000)]
    assert 0.08 < np.mean(slips) < 0.12
    assert {*TYPISTS} == {"en", "ja"} and typed("stop", rng).lower().startswith("stop")


def test_out_of_scope_requests_are_many() -> None:
    rng = np.random.default_rng(0)
    assert len({JA.say(UNKNOWN.slots(), rng) for _ in range(2000)}) > 1200


# Lists.


def colour_names(language: str) -> dict[str, str]:
    """Every name with its colour, the longest first."""
    table = content(f"{language}/colours.toml")
    assert tuple(sorted(table)) == tuple(sorted(COLOURS))
    pairs = [(name, colour) for colour, names in table.items() for name in names]
    assert len({name for name, _ in pairs}) == len(pairs), "a name is listed twice"
    return dict(sorted(pairs, key=lambda pair: -len(pair[0])))


def looked_up(text: str, names: dict[str, str]) -> str | None:
    return next((colour for name, colour in names.items() if name in text), None)


@pytest.mark.parametrize(
    ("text", "colour"),
    [
        ("赤い箱", "red"),
        ("赤紫の箱", "purple"),
        ("黄緑のボール", "green"),
        ("青竹色の筒", "green"),
        ("山吹色のコーン", "yellow"),
        ("浅葱色の箱", "blue"),
        ("赤橙の玉", "orange"),
        ("紺色の缶", "blue"),
        ("白い箱", None),
    ],
)
def test_the_longest_colour_name_counts(text: str, colour: str | None) -> None:
    names = colour_names("ja")
    assert len(names) >= 150
    assert looked_up(text, names) == colour


def test_the_colour_list_agrees_with_the_wordings() -> None:
    names = colour_names("ja")
    for table in ("colour", "colour_noun", "colour_loan"):
        for colour, words in JA.words[table].items():
            for word in words:
                assert looked_up(word, names) in (colour, None), word
    for shape in itertools.chain(*JA.words["shape"].values()):
        assert looked_up(shape, names) is None, shape


def test_english_colour_names_are_made_by_the_rule() -> None:
    names = colour_names("en")
    known = SHIPPED.language.grammars["train"][0].words["colour"]
    for colour, words in known.items():
        assert not [word for word in words if names.get(word, colour) != colour]
    assert names["light lavender"] == "purple" and "dark" not in names and len(names) > 600
    colours = pytest.importorskip("matplotlib.colors")
    rgb = {name[5:]: colours.to_rgb(value) for name, value in colours.XKCD_COLORS.items()}
    assert xkcd.as_toml(rgb.items()) == xkcd.NAMES_FILE.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "rgb", "colour"),
    [
        ("scarlet", (0.75, 0.0, 0.1), "red"),
        ("reddish orange", (0.97, 0.28, 0.11), "orange"),
        ("teal", (0.01, 0.57, 0.53), "blue"),
        ("charcoal", (0.2, 0.22, 0.21), None),
        ("chocolate", (0.24, 0.11, 0.01), None),
        ("salmon", (1.0, 0.47, 0.42), None),
        ("hot pink", (1.0, 0.01, 0.55), None),
    ],
)
def test_what_a_colour_looks_like(
    name: str, rgb: tuple[float, float, float], colour: str | None
) -> None:
    assert xkcd.looks_like(name, rgb) == colour


STOP = content("ja/stop.toml")
EITHER = {key: "|".join(map(re.escape, words)) for key, words in STOP.items()}
ALONE = re.compile("(?:{leads})*(?:{alone})(?:{endings})*".format(**EITHER))


def stops(text: str) -> bool:
    """As the head of stop.toml says."""
    text = re.sub(EITHER["unless"], "", normalize("NFKC", text).lower())
    clauses = re.split(r"[、。!?.…\s]+", text)
    return any(word in text for word in STOP["anywhere"]) or any(map(ALONE.fullmatch, clauses))


@pytest.mark.parametrize(
    ("text", "stop"),
    [
        ("止まれ", True),
        ("止まってください", True),
        ("ｽﾄｯﾌﾟ！", True),
        ("やめて", True),
        ("待って", True),
        ("ねえ、ちょっと待って", True),
        ("違う、止まって、そっちじゃない", True),
        ("前に進むのをストップ", True),
        ("赤いボールの前で止まって", False),
        ("青い箱のそばで待っていて", False),
        ("音楽を止めて", False),
        ("ストップウォッチを押して", False),
        ("止まらないで", False),
    ],
)
def test_words_that_stop(text: str, stop: bool) -> None:
    assert stops(text) == stop


def test_nothing_but_an_order_to_stop_stops(drawn: list[tuple[Intent, str]]) -> None:
    stopped = {True: [], False: []}
    for meaning, sentence in drawn[:4000]:
        stopped[meaning.skill == "stop"].append(stops(sentence))
    assert not any(stopped[False]) and np.mean(stopped[True]) > 0.5
