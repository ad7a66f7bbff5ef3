"""Sentences from patterns: a small grammar of choices, and the way people type.

Says slots without knowing what they mean; `tasks.language.intent` gives them meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

T = TypeVar("T")

# The innermost (a|b) or [a]; a {name}; the conditions before a pattern.
GROUP = re.compile(r"\(([^()\[\]]*)\)|\[([^()\[\]]*)\]")
NAME = re.compile(r"\{(\w+)\}")
CONDITIONS = re.compile(r"((?:\w+=[\w.]+(?:, )?)+): (.*)")
_UNSAYABLE = "unsayable"
_MAX_DRAWS = 1000
# How often an order comes bare, without a courtesy or a form of address around it.
BARE_SHARE = 0.5

Words = dict[str, list[str] | dict[str, list[str]]]


class Draws(Protocol):
    """What is asked of a source of chance."""

    def integers(self, high: int, /) -> Any: ...

    def random(self) -> Any: ...


class _First:
    """Chance that always takes the first of what there is, and leaves out what may be left out."""

    def integers(self, high: int, /) -> int:
        return 0

    def random(self) -> float:
        return 1.0


@dataclass(frozen=True)
class Grammar:
    """Patterns with the words to fill them, as written in a TOML file.

    In a pattern `(a|b)` is one of the two; `[a]` is said half of the time or, where it names a
    slot, whenever that slot is set; `{name}` is one of `words[name]`. Words in a table are chosen
    by the meaning's value of the slot to which the table's keys belong. "slot=value: ..." says a
    slot without naming it. Patterns stand under their action.
    In frames, `~` stands for what they surround. A sentence stands without a frame. The first of
    the words under a name is the usual one: it has `usual_share` of the draws to itself.
    """

    words: Words
    imperatives: dict[str, list[str]]
    sentences: dict[str, list[str]]
    adverbs: list[str]
    frames: list[str]
    slot_of_value: dict[str, str]
    usual_share: float = 0.0

    def say(self, values: dict[str, str], rng: np.random.Generator) -> str:
        """Draws until a pattern says exactly `values`, slot to value: no slot more, none less."""
        imperatives = self.imperatives.get(values["action"], [])
        patterns = imperatives + self.sentences.get(values["action"], [])
        for _ in range(_MAX_DRAWS):
            index = int(rng.integers(len(patterns)))
            said = {"action"}
            text = self._fill(patterns[index], values, said, rng)
            if index < len(imperatives):
                if "manner" in values and "manner" not in said:
                    text = self._fill(pick(self.adverbs, rng), values, said, rng, text)
                if rng.random() >= BARE_SHARE:
                    text = self._fill(pick(self.frames, rng), values, said, rng, text)
            if said == set(values):
                return _tidy(text)
        raise ValueError(f"the grammar has no pattern for {values}")

    def plainly(self, values: dict[str, str]) -> str:
        """The first imperative that says exactly `values`, in its first words, without a frame.

        Where none does with the first of every choice, any that does.
        """
        for pattern in self.imperatives.get(values["action"], []):
            said = {"action"}
            text = self._fill(pattern, values, said, _First())
            if said == set(values):
                return _tidy(text)
        return self.say(values, np.random.default_rng(0))

    def _fill(
        self,
        pattern: str,
        values: dict[str, str],
        said: set[str],
        rng: Draws,
        body: str = "",
    ) -> str:
        """The pattern in plain words; adds the slots that it mentions to `said`."""
        if found := CONDITIONS.fullmatch(pattern):
            for condition in found[1].split(", "):
                slot, value = condition.split("=")
                said.add(slot if values.get(slot) == value else _UNSAYABLE)
            pattern = found[2]
        while found := GROUP.search(pattern):
            chosen = self._choose(found, values, rng)
            pattern = pattern[: found.start()] + chosen + pattern[found.end() :]
        return NAME.sub(lambda name: self._word(name[1], values, said, rng), pattern).replace(
            "~", body
        )

    def _choose(self, group: re.Match[str], values: dict[str, str], rng: Draws) -> str:
        if group[1] is not None:
            return pick(group[1].split("|"), rng)
        slots = {self.slot_of(name) for name in NAME.findall(group[2])} - {None}
        wanted = all(slot in values for slot in slots) if slots else rng.random() < 0.5
        return group[2] if wanted else ""

    def _word(self, name: str, values: dict[str, str], said: set[str], rng: Draws) -> str:
        entry = self.words[name]
        if isinstance(entry, dict):
            slot = self.slot_of(name)
            assert slot is not None
            known = values.get(slot) in entry
            said.add(slot if known else _UNSAYABLE)
            entry = entry[values[slot]] if known else [""]
        usual = self.usual_share > 0 and rng.random() < self.usual_share
        return self._fill(entry[0] if usual else pick(entry, rng), values, said, rng)

    def vocabulary(self) -> set[str]:
        """Every word that it can say, in lower case."""
        return {word for text in self._texts() for word in words_of(text)}

    def characters(self) -> set[str]:
        """Every character that it can say, and the marks of its patterns."""
        return set().union(*self._texts())

    def _texts(self) -> Iterator[str]:
        """All patterns and words, without the names and conditions in them."""
        lists = [*self.imperatives.values(), *self.sentences.values(), self.adverbs, self.frames]
        for entry in self.words.values():
            lists += entry.values() if isinstance(entry, dict) else [entry]
        return (NAME.sub(" ", CONDITIONS.sub(r"\2", text)) for texts in lists for text in texts)

    def slot_of(self, name: str) -> str | None:
        """The slot that decides which of `words[name]` is said, if one does."""
        entry = self.words[name]
        return self.slot_of_value[next(iter(entry))] if isinstance(entry, dict) else None


def _tidy(text: str) -> str:
    """Without the spaces that words left out leave behind."""
    return re.sub(r"\s+(?=[\s,])", "", text).strip()


def words_of(text: str) -> list[str]:
    """The words of a text, of any script, in lower case and without their marks."""
    return re.findall(r"[^\W\d_]+", text.lower())


def patterns_of(table: Mapping[str, list[str]], action: str) -> list[str]:
    """The patterns of a file that may say an action: those under the beginning of its name."""
    return [text for key in table if action.startswith(key) for text in table[key]]


_KEY_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
# Short words stay whole: one wrong letter makes another word of them.
_TYPO_MIN_LETTERS = 4


def with_typo(text: str, rng: np.random.Generator) -> str:
    """The text with one letter swapped, dropped, doubled or struck one key beside."""
    long_words = list(re.finditer(rf"[A-Za-z]{{{_TYPO_MIN_LETTERS},}}", text))
    if not long_words:
        return text
    word = pick(long_words, rng)
    # The first letter of a word is rarely the wrong one.
    i = int(rng.integers(word.start() + 1, word.end() - 1))
    kind = pick(("swap", "drop", "double", "neighbour"), rng)
    wrong = {
        "swap": text[i + 1] + text[i],
        "drop": text[i + 1],
        "double": text[i] + text[i] + text[i + 1],
        "neighbour": _key_beside(text[i], rng) + text[i + 1],
    }[kind]
    return text[:i] + wrong + text[i + 2 :]


def _key_beside(letter: str, rng: np.random.Generator) -> str:
    row = next(row for row in _KEY_ROWS if letter.lower() in row)
    i = row.index(letter.lower())
    return pick([row[j] for j in (i - 1, i + 1) if 0 <= j < len(row)], rng)


def dressed(text: str, rng: np.random.Generator) -> str:
    """Upper or lower case, with or without a mark at the end."""
    if text[-1] not in "?!.":
        text += pick(("", "", "", ".", "!"), rng)
    elif rng.random() < 0.4:
        text = text[:-1]
    style = rng.random()
    if style < 0.06:
        return text.upper()
    return text[0].upper() + text[1:] if style < 0.4 else text


def pick(options: Sequence[T], rng: Draws) -> T:
    """One of the options, each as likely as the others."""
    return options[int(rng.integers(len(options)))]
