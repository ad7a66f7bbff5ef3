"""Instructions as token states: frozen pretrained text encoders, each a folder of its own.

A folder holds the graph, its tokenizer, and a description: `TextEncoderSpec`. An encoder runs once
per instruction, on the CPU. What training reads and what the robot reads is one file, so its
rounding is seen by both.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from tokenizers import Tokenizer

from assets import asset_path
from assets.inference import ort
from bridge.contract import UserError, as_seen
from bridge.files import sha256_of

MODEL_FILE = "text_encoder.onnx"
TOKENIZER_FILE = "tokenizer.json"
SPEC_FILE = "text_encoder.json"
TEXT_ENCODER_FOLDER = asset_path("models/text_encoder")
BILINGUAL_FOLDER = asset_path("models/text_encoder_bilingual")

# Languages by their code in ISO 639-1, each with a pattern of its letters.
SCRIPTS = {
    "en": re.compile(r"[A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f]"),
    # Kana with their marks of length and iteration; kanji with 々, 〆 and 〇.
    "ja": re.compile(
        r"[\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff]"
    ),
}


def normalise(text: str) -> str:
    """The form in which text is read: NFKC, invisible marks dropped, single spaces, none outside.

    NFKC makes one of full-width and half-width letters (Unicode Standard Annex 15); invisible are
    the characters of category Cf: zero-width, joining and bidirectional marks.
    """
    return " ".join(as_seen(text).split())


def languages_of(text: str) -> tuple[str, ...]:
    """The languages whose letters a text holds, in the order of `SCRIPTS`; of a mixed one, all.

    Any kana or kanji makes it Japanese. Languages that share letters cannot be told apart.
    """
    text = normalise(text)
    return tuple(code for code, letter in SCRIPTS.items() if letter.search(text))


def foreign_letters(text: str) -> str:
    """The letters of a text that no language of `SCRIPTS` has, each once, in their order."""
    letters = dict.fromkeys(c for c in normalise(text) if c.isalpha())
    return "".join(c for c in letters if not any(s.match(c) for s in SCRIPTS.values()))


@dataclass(frozen=True)
class TextEncoderSpec:
    """What an encoder says of itself.

    `languages` are codes of `SCRIPTS`. `layers` are those whose states it gives, side by side in
    `width` features; 0 is the embeddings. `max_tokens` counts the start and the end mark too.
    """

    name: str
    languages: tuple[str, ...]
    width: int
    layers: tuple[int, ...]
    max_tokens: int


class TextEncoder:
    """Turns instructions into the states of their word pieces.

    `folder` holds `MODEL_FILE`, `TOKENIZER_FILE` and `SPEC_FILE`, unless `files` are what was read
    of it; `threads` is the number of CPU threads. UserError if they are not whole.
    """

    def __init__(
        self,
        folder: Path = TEXT_ENCODER_FOLDER,
        threads: int = 2,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        folder = Path(folder)
        files = read_encoder(folder) if files is None else files
        try:
            self.spec = msgspec.json.decode(files[SPEC_FILE], type=TextEncoderSpec)
        except msgspec.MsgspecError as error:
            raise UserError(
                f"{folder / SPEC_FILE} does not describe a text encoder ({error}): "
                f"{_remedy(folder)}"
            ) from error
        try:
            self.tokenizer = Tokenizer.from_buffer(files[TOKENIZER_FILE])
        except Exception as error:  # the tokenizers package raises nothing narrower
            raise UserError(
                f"{folder / TOKENIZER_FILE} is no tokenizer ({error}): {_remedy(folder)}"
            ) from error
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Waiting threads would take the cores that physics and walker need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(
                files[MODEL_FILE], options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # nor does ONNX Runtime
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"{folder / MODEL_FILE} cannot be run ({reason}): {_remedy(folder)}"
            ) from error
        # Some graphs take any number of tokens, others the greatest alone.
        self._any_length = isinstance(self._session.get_inputs()[0].shape[1], str)

    def count_pieces(self, text: str) -> int:
        """How many word pieces a text has, start and end mark included, however long it is."""
        return len(self._piece_ids([text])[0])

    def encode(
        self, texts: Sequence[str], batch_size: int = 32, cut: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """States (N, max_tokens, width) float32 and mask (N, max_tokens) bool.

        The mask marks the word pieces, the encoder's own start and end marks included; states are
        zero elsewhere. UserError for a text of more than `max_tokens` pieces, unless `cut` says
        that what is beyond them shall be left out.
        """
        length = self.spec.max_tokens
        states = np.zeros((len(texts), length, self.spec.width), dtype=np.float32)
        mask = np.zeros((len(texts), length), dtype=bool)
        for start in range(0, len(texts), batch_size):
            rows = slice(start, start + batch_size)
            ids = [self._fitted(pieces, cut) for pieces in self._piece_ids(texts[rows])]
            longest = max(map(len, ids)) if self._any_length else length
            token_ids = np.zeros((len(ids), longest), dtype=np.int64)
            for row, pieces in enumerate(ids):
                token_ids[row, : len(pieces)] = pieces
                mask[start + row, : len(pieces)] = True
            used = mask[rows, :longest]
            (out,) = self._session.run(None, {"token_ids": token_ids, "mask": used})
            states[rows, :longest] = np.asarray(out) * used[..., None]
        return states, mask

    def _piece_ids(self, texts: Sequence[str]) -> list[list[int]]:
        encodings = self.tokenizer.encode_batch([normalise(text) for text in texts])
        return [encoding.ids for encoding in encodings]

    def _fitted(self, ids: list[int], cut: bool) -> list[int]:
        most = self.spec.max_tokens
        if len(ids) <= most:
            return ids
        if not cut:
            raise UserError(
                f"the instruction has {len(ids)} word pieces, and {self.spec.name} reads {most}: "
                "say it in fewer words, or as several instructions"
            )
        return [*ids[: most - 1], ids[-1]]


def encoder_id(folder: Path = TEXT_ENCODER_FOLDER) -> str:
    """Twelve hex digits that change with the encoder of a folder, or with its tokenizer."""
    digests = (sha256_of(folder / name) for name in (MODEL_FILE, TOKENIZER_FILE))
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:12]


def read_encoder(folder: Path) -> dict[str, bytes]:
    """The files of an encoder's folder, by name; UserError names one that is missing."""
    for name in (MODEL_FILE, TOKENIZER_FILE, SPEC_FILE):
        if not (folder / name).is_file():
            raise UserError(f"text encoder file {folder / name} is missing: {_remedy(folder)}")
    return {name: (folder / name).read_bytes() for name in (MODEL_FILE, TOKENIZER_FILE, SPEC_FILE)}


def _remedy(folder: Path) -> str:
    return f"restore it with 'git checkout {folder}' or reinstall hitogata"
