"""The ways to say what can be asked: the slots of a catalogue, and grammars that say them.

There are two splits of grammars that never mix: one for training, one held out for examination.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bridge.contract import UserError
from tasks.language.grammar import Grammar, dressed, pick, with_typo
from tasks.language.intent import Intent

TYPO_SHARE = 0.1
SPLITS = ("train", "heldout")
# What all tasks share: courtesies, colours, shapes, amounts, and what is out of scope.
SHARED = {split: Path(__file__).parent / "en" / f"{split}.toml" for split in SPLITS}

# The content of a file of words: of each split the tables "words", "imperatives" and "sentences".
Words = Mapping[str, Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True, eq=False)
class Language:
    """Slots with their values, and of each split grammars, each as likely as the others."""

    slots: Mapping[str, tuple[str, ...]]
    grammars: Mapping[str, tuple[Grammar, ...]]

    @classmethod
    def of(cls, slots: Mapping[str, tuple[str, ...]], tasks: Sequence[Words]) -> Language:
        """The language of the shared words and those of some tasks.

        Held-out patterns come with held-out nouns and colours in half of their grammars; what is
        not held out is said with training words. Raises UserError for a word given twice.
        """
        slot_of = {value: slot for slot, values in slots.items() for value in values}
        train, heldout = (
            _joined(read_toml(SHARED[split]), (words.get(split, {}) for words in tasks))
            for split in SPLITS
        )
        variants = []
        for familiar in (("colour", "shape"),) * 3 + (("colour",), ("shape",), ()):
            words = train["words"] | heldout["words"]
            words |= {name: train["words"][name] for name in familiar}
            variants.append(Grammar(**(heldout | {"words": words}), slot_of_value=slot_of))
        known = (Grammar(**train, slot_of_value=slot_of),)
        return cls(slots, dict(zip(SPLITS, (known, tuple(variants)), strict=True)))

    def sample_wording(
        self, meaning: Intent, rng: np.random.Generator, split: str = "train"
    ) -> str:
        """One way to say a meaning. `split` is one of `SPLITS`; only "train" has typing errors."""
        text = pick(self.grammars[split], rng).say(meaning.slots(), rng)
        if split == "train" and rng.random() < TYPO_SHARE:
            text = with_typo(text, rng)
        return dressed(text, rng)

    def plainly(self, meaning: Intent) -> str:
        """The usual wording of a meaning."""
        return self.grammars["train"][0].plainly(meaning.slots())

    def vocabulary(self) -> frozenset[str]:
        """Every word that may be said, in lower case."""
        known = (grammar.vocabulary() for split in SPLITS for grammar in self.grammars[split])
        return frozenset().union(*known)

    def characters(self) -> frozenset[str]:
        """Every character that an instruction may have: printable ASCII, and those of its words."""
        said = (grammar.characters() for split in SPLITS for grammar in self.grammars[split])
        own = "".join(set().union(*said))
        return frozenset(own + own.upper()).union(map(chr, range(ord(" "), ord("~") + 1)))

    def slot_vector(self, meaning: Intent) -> np.ndarray:
        """(S,) int8 indices into the values of each slot, -1 where nothing is said."""
        said = meaning.slots()
        indices = [
            values.index(said[slot]) if slot in said else -1 for slot, values in self.slots.items()
        ]
        return np.array(indices, dtype=np.int8)

    def from_slots(self, vector: Sequence[int] | np.ndarray) -> Intent:
        """The meaning whose `slot_vector` this is."""
        pairs = zip(self.slots.items(), vector, strict=True)
        return Intent.of_slots({slot: values[i] for (slot, values), i in pairs if i >= 0})


@cache
def read_toml(path: Path) -> dict[str, Any]:
    """The content of a file of ours, read once."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _joined(shared: dict[str, Any], tasks: Iterable[Mapping[str, Mapping]]) -> dict[str, Any]:
    """The content of a grammar's file with the tables of tasks added to its own."""
    tables = {name: dict(shared[name]) for name in ("words", "imperatives", "sentences")}
    for words in tasks:
        for name, added in words.items():
            if twice := tables[name].keys() & added.keys():
                raise UserError(f"{min(twice)!r} is given twice among the {name}: rename one")
            tables[name] |= added
    return shared | tables
