"""Japanese as people type it: forms of address, marks, wide and narrow characters, and slips.

NFKC undoes whatever `dressed` does to the characters of a sentence; `with_typo` changes its words.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from unicodedata import normalize

import numpy as np

from tasks.language.grammar import pick

_CONTENT = tomllib.loads((Path(__file__).parent / "typed.toml").read_text(encoding="utf-8"))
OPENINGS: list[str] = _CONTENT["openings"]
ALIKE: list[list[str]] = _CONTENT["alike"]

_OPENING = re.compile(f"(?:{'|'.join(sorted(map(re.escape, OPENINGS), key=len, reverse=True))})、")
_ENDS = ("", "", "", "", "。", "。", "。", "!", "!!", "…", "〜", "♪")
_CLOSING_MARKS = "。!?.〜♪"

# Characters as wide as a kanji, and katakana half as wide with its voicing mark apart.
_WIDE = {code: code + 0xFEE0 for code in range(ord("!"), ord("~") + 1)}
_WIDE_MARKS = {ord(mark): _WIDE[ord(mark)] for mark in "!?"}
_NARROW = {
    whole: chr(code) + mark
    for code in range(ord("ｦ"), ord("ﾞ"))
    for mark in ("", "ﾞ", "ﾟ")
    if len(whole := normalize("NFKC", chr(code) + mark)) == 1
}

# Five kana share a key of a telephone, where the thumb slides to the vowel.
_KEYS = "あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもらりるれろ"
_SMALL = dict(zip("っゃゅょッャュョ", "つやゆよツヤユヨ", strict=True))
_VOICED, _HALF_VOICED = "\u3099", "\u309a"
# A particle stands behind a noun, and nouns are written in other letters than hiragana; が may
# belong to a verb (下がって).
_PARTICLE = re.compile(
    r"(?<=[一-龯々ァ-ヶーa-z°])(?:まで|[をへにのでは]|が(?![っりるらろれ]))(?=.)"
)


def dressed(text: str, rng: np.random.Generator) -> str:
    """With or without a form of address and a mark at the end, narrow or wide."""
    if text[-1] != "?":
        text += pick(_ENDS, rng) if text[-1] != "!" else ""
    elif rng.random() < 0.3:
        text = text[:-1]
    if rng.random() < 0.25:
        text = f"{pick(OPENINGS, rng)}、{text}"
    width = rng.random()
    return text.translate(_WIDE if width < 0.15 else _WIDE_MARKS if width < 0.85 else {})


def undressed(text: str) -> str:
    """What `dressed` was given, but for its closing marks."""
    return _OPENING.sub("", normalize("NFKC", text), count=1).rstrip(_CLOSING_MARKS)


def with_typo(text: str, rng: np.random.Generator) -> str:
    """The text with one slip, behind its first character unless a word is taken for another."""
    options = [wrong for slip in _SLIPS if (wrong := [*slip(text)])]
    return pick(pick(options, rng), rng) if options else text


def _struck(text: str) -> Iterator[str]:
    """One kana dropped, doubled, or swapped with the one behind."""
    for i in _kana(text):
        before, kana, behind = text[:i], text[i], text[i + 1 :]
        yield before + behind
        yield before + kana + kana + behind
        if behind and behind[0] != kana:
            yield before + behind[0] + kana + behind[1:]


def _slid(text: str) -> Iterator[str]:
    """The thumb slid to another vowel."""
    for i in _kana(text):
        if (at := _KEYS.find(text[i])) >= 0:
            key = _KEYS[at - at % 5 :][:5]
            yield from (text[:i] + kana + text[i + 1 :] for kana in key if kana != text[i])


def _voiced(text: str) -> Iterator[str]:
    """The voicing mark left out, or one too many."""
    for i in _kana(text):
        plain = normalize("NFD", text[i])[0]
        for mark in ("", _VOICED, _HALF_VOICED):
            kana = normalize("NFC", plain + mark)
            if len(kana) == 1 and kana != text[i]:
                yield text[:i] + kana + text[i + 1 :]


def _small(text: str) -> Iterator[str]:
    """A small kana left out or written large."""
    for i in _kana(text):
        if text[i] in _SMALL:
            yield text[:i] + text[i + 1 :]
            yield text[:i] + _SMALL[text[i]] + text[i + 1 :]


def _long(text: str) -> Iterator[str]:
    """The mark of a long vowel left out, or something that looks like it."""
    for found in re.finditer("ー", text):
        yield from (text[: found.start()] + mark + text[found.end() :] for mark in ("", "-", "一"))


def _particle(text: str) -> Iterator[str]:
    """A particle left out."""
    yield from (text[: at.start()] + text[at.end() :] for at in _PARTICLE.finditer(text))


def _converted(text: str) -> Iterator[str]:
    """A word converted to another that sounds alike, or not converted."""
    for meant, *others in ALIKE:
        if meant in text:
            yield from (text.replace(meant, other, 1) for other in others)


def _narrowed(text: str) -> Iterator[str]:
    """A word of katakana in characters half as wide."""
    for word in re.finditer("[ァ-ヶー]{2,}", text):
        narrow = "".join(_NARROW.get(kana, kana) for kana in word[0])
        yield text[: word.start()] + narrow + text[word.end() :]


def _kana(text: str) -> list[int]:
    """Where the text has kana, behind its first character."""
    return [at.start() for at in re.finditer("[ぁ-ゖァ-ヶ]", text) if at.start()]


_SLIPS = (_struck, _slid, _voiced, _small, _long, _particle, _converted, _narrowed)
