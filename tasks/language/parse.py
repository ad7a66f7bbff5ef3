"""Reads a wording of the grammars back into its meaning, so that a run can be judged.

The policy never sees this: it has only the words. What no grammar can have said has no reading.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from tasks.language.grammar import CONDITIONS, GROUP, NAME, Grammar, words_of
from tasks.language.intent import Intent
from tasks.language.language import SPLITS, Language

Slots = dict[str, str]
_UNSAID = " unsaid "
_TOKEN = re.compile(r"[()\[\]|~]|\{\w+\}|\s+|[^()\[\]|~{}\s]+")


def read_wording(text: str, language: Language, splits: Sequence[str] = SPLITS) -> Intent | None:
    """The one meaning that a grammar says in these words, whatever case and closing mark."""
    text = " ".join(text.lower().split()).rstrip("?!. ")
    for split in splits:
        readers = [_Reader(grammar, text) for grammar in language.grammars[split]]
        found = {meaning for reader in readers for meaning in reader.read(text)}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


class _Reader:
    """The patterns of one grammar that may say a text, turned into regular expressions.

    All of them, with all their words, are millions of alternatives; those whose words are in the
    text are a few dozen.
    """

    def __init__(self, grammar: Grammar, text: str) -> None:
        def sayable(patterns: list[str]) -> list[str]:
            return [pattern for pattern in patterns if _may_say(pattern, text)]

        def table(patterns: dict[str, list[str]]) -> dict[str, list[str]]:
            return {key: sayable(texts) for key, texts in patterns.items()}

        grammar = replace(
            grammar,
            words={
                name: table(entry) if isinstance(entry, dict) else sayable(entry)
                for name, entry in grammar.words.items()
            },
        )
        self.frames = [_Pattern(grammar, text) for text in sayable(grammar.frames)]
        self.adverbs = [_Pattern(grammar, text) for text in sayable(grammar.adverbs)]
        self.imperatives = _by_action(grammar, table(grammar.imperatives))
        self.sentences = _by_action(grammar, table(grammar.sentences))

    def read(self, text: str) -> Iterator[Intent]:
        """Every meaning that the grammar can say as `text`."""
        bodies = list(_unwrapped(self.adverbs, _unwrapped(self.frames, [(text, {})])))
        for action, patterns in self.imperatives.items():
            yield from _meanings(patterns, action, bodies)
        for action, patterns in self.sentences.items():
            yield from _meanings(patterns, action, [(text, {})])


def _may_say(pattern: str, text: str) -> bool:
    """Whether the plain words without which a pattern says nothing are all in the text.

    They may be parts of its words: in Japanese nothing stands between two words.
    """
    pattern = NAME.sub(" ", CONDITIONS.sub(r"\2", pattern))
    while group := GROUP.search(pattern):
        options = group[1].split("|") if group[1] is not None else [""]
        kept = " " if any(_has_words(text, option) for option in options) else _UNSAID
        pattern = pattern[: group.start()] + kept + pattern[group.end() :]
    return _has_words(text, pattern)


def _has_words(text: str, of: str) -> bool:
    return all(word in text for word in words_of(of))


def _by_action(grammar: Grammar, table: dict[str, list[str]]) -> dict[str, list[_Pattern]]:
    return {
        action: [_Pattern(grammar, text, action) for text in texts]
        for action, texts in table.items()
    }


def _unwrapped(
    around: list[_Pattern], texts: Iterable[tuple[str, Slots]]
) -> Iterator[tuple[str, Slots]]:
    """Each text as it is, and what each pattern around it leaves, with the slots said so far."""
    for text, said in texts:
        yield text, said
        for pattern in around:
            if found := pattern.match(text, said):
                yield found


def _meanings(
    patterns: list[_Pattern], action: str, texts: Iterable[tuple[str, Slots]]
) -> Iterator[Intent]:
    for text, said in texts:
        for pattern in patterns:
            if found := pattern.match(text, {"action": action} | said):
                yield Intent.of_slots(found[1])


@dataclass
class _Pattern:
    """One pattern as a regular expression whose groups remember which slot they say."""

    grammar: Grammar
    text: str
    action: str | None = None

    def __post_init__(self) -> None:
        self._says: dict[str, tuple[str, str]] = {}
        self._regex = re.compile(self._expression(self.text))

    def match(self, text: str, said: Slots) -> tuple[str, Slots] | None:
        """What `~` stands for, and all slots said; None unless the pattern says this text."""
        found = self._regex.fullmatch(text)
        if not found:
            return None
        slots = dict(said)
        for group, (slot, value) in self._says.items():
            if found[group] is not None and slots.setdefault(slot, value) != value:
                return None
        return (found["body"] if "body" in found.groupdict() else ""), slots

    def _expression(self, text: str) -> str:
        mark = ""
        if conditions := CONDITIONS.fullmatch(text):
            terms = [term.split("=") for term in conditions[1].split(", ")]
            mark = "".join(self._saying(slot, value, "") for slot, value in terms)
            text = conditions[2]
        parts = {"(": "(?:", "[": "(?:", ")": ")", "]": ")?", "|": "|", "~": "(?P<body>.+?)"}
        out = [mark]
        for token in _TOKEN.findall(text):
            if token in parts:
                out.append(parts[token])
            elif token[0] == "{":
                out.append(self._word(token[1:-1]))
            else:
                out.append(r"(?: |\b)" if token.isspace() else _literal(token))
        return "".join(out)

    def _word(self, name: str) -> str:
        entry, slot = self.grammar.words[name], self.grammar.slot_of(name)
        if not isinstance(entry, dict):
            return self._any(entry)
        assert slot is not None
        values = [self.action] if slot == "action" else list(entry)
        said = [self._saying(slot, v, self._any(entry[v])) for v in values if v in entry]
        return f"(?:{'|'.join(said) or '(?!)'})"

    def _any(self, words: list[str]) -> str:
        # The longest first: "hey robot" is no "hey" to somebody who is told "robot ...".
        longest_first = sorted(words, key=len, reverse=True)
        any_of = "|".join(self._expression(word) for word in longest_first)
        return f"(?:{any_of if words else '(?!)'})"

    def _saying(self, slot: str, value: str, expression: str) -> str:
        group = f"says{len(self._says)}"
        self._says[group] = (slot, value)
        return f"(?P<{group}>{expression})"


def _literal(word: str) -> str:
    """The word in lower case; a mark that may close a sentence may be missing."""
    return re.sub(r"\W", lambda mark: _mark(mark[0]), word.lower())


def _mark(mark: str) -> str:
    return re.escape(mark) + ("?" if mark in "?!." else "")
