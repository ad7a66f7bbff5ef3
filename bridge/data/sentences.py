"""Sentences of a dataset that stand without pictures: language has more wordings than a recording.

labels/sentences.npz    texts as JSON, and for each the classes of its slots
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bridge.contract import UserError
from bridge.data.labels import RECORD_AGAIN
from bridge.files import read_npz, reading, text_array, write_npz

_FILE = "labels/sentences.npz"


class Sentences(NamedTuple):
    """`texts` and what they mean: `slots` (N, S) int8, each the index of a value, -1 for none.

    `families` are those that they are about, none where an earlier release wrote them.
    """

    texts: tuple[str, ...]
    slots: np.ndarray
    families: tuple[str, ...] = ()


def write_sentences(
    folder: Path | str, texts: Sequence[str], slots: np.ndarray, families: Sequence[str] = ()
) -> None:
    """Writes, or replaces, the sentences of a dataset."""
    write_npz(
        Path(folder) / _FILE,
        texts=text_array(list(texts)),
        slots=slots.astype(np.int8),
        families=text_array(list(families)),
    )


def read_sentences(folder: Path | str) -> Sentences | None:
    """The sentences of a dataset; none if it was recorded without any."""
    path = Path(folder) / _FILE
    if not path.is_file():
        return None
    archive = read_npz(path, RECORD_AGAIN)
    with reading(path, RECORD_AGAIN):
        texts, slots = tuple(json.loads(archive["texts"].tobytes())), archive["slots"]
        families = json.loads(archive["families"].tobytes()) if "families" in archive else ()
    if len(texts) != len(slots):
        raise UserError(f"{path} has {len(texts)} texts and {len(slots)} meanings: collect again")
    return Sentences(texts, slots, tuple(families))
