"""Instructions as token states: a frozen pretrained text encoder, its tokenizer beside it.

Runs once per instruction, on the CPU. What training reads and what the robot reads is this one
file, so its rounding is seen by both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from assets import asset_path
from assets.inference import ort
from bridge.contract import UserError

MODEL_FILE = "text_encoder.onnx"
TOKENIZER_FILE = "tokenizer.json"
TEXT_ENCODER_FOLDER = asset_path("models/text_encoder")

_REMEDY = "copy its folder again or reinstall hitogata"

MAX_TOKENS = 24
STATE_WIDTH = 384


class TextEncoder:
    """Turns instructions into the states of their word pieces.

    `files` are `text_encoder.onnx` and `tokenizer.json`, by name or in a folder; `threads` is the
    number of CPU threads.
    """

    def __init__(
        self, files: Path | Mapping[str, bytes] = TEXT_ENCODER_FOLDER, threads: int = 2
    ) -> None:
        files = files if isinstance(files, Mapping) else _read(Path(files))
        try:
            self.tokenizer = Tokenizer.from_buffer(files[TOKENIZER_FILE])
        except Exception as error:  # the tokenizers package raises nothing narrower
            raise UserError(f"{TOKENIZER_FILE} is no tokenizer ({error}): {_REMEDY}") from error
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.tokenizer.enable_padding(length=MAX_TOKENS)
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
            raise UserError(f"{MODEL_FILE} cannot be run ({reason}): {_REMEDY}") from error

    def check_length(self, text: str) -> None:
        """UserError for a text of which the end would not be heard."""
        if self.tokenizer.encode(text).overflowing:
            raise UserError(
                f"the instruction is longer than the {MAX_TOKENS - 2} word pieces that this policy"
                " hears: say it in fewer words"
            )

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> tuple[np.ndarray, np.ndarray]:
        """States (N, MAX_TOKENS, STATE_WIDTH) float32 and mask (N, MAX_TOKENS) bool.

        The mask marks the word pieces, the encoder's own start and end marks included; states are
        zero elsewhere. What is beyond MAX_TOKENS is cut off: see `check_length`.
        """
        states = np.zeros((len(texts), MAX_TOKENS, STATE_WIDTH), dtype=np.float32)
        mask = np.zeros((len(texts), MAX_TOKENS), dtype=bool)
        for start in range(0, len(texts), batch_size):
            rows = slice(start, start + batch_size)
            encodings = self.tokenizer.encode_batch(list(texts[rows]))
            ids = np.array([encoding.ids for encoding in encodings], dtype=np.int64)
            mask[rows] = np.array([encoding.attention_mask for encoding in encodings], dtype=bool)
            (out,) = self._session.run(None, {"token_ids": ids, "mask": mask[rows]})
            states[rows] = np.asarray(out) * mask[rows][..., None]
        return states, mask


def _read(folder: Path) -> dict[str, bytes]:
    found = {}
    for name in (MODEL_FILE, TOKENIZER_FILE):
        if not (folder / name).is_file():
            raise UserError(
                f"text encoder file {folder / name} is missing: restore it with "
                f"'git checkout {folder}' or reinstall hitogata"
            )
        found[name] = (folder / name).read_bytes()
    return found
