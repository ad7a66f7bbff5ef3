"""Instructions as token states: a frozen pretrained text encoder, its tokenizer beside it.

Runs once per instruction, on the CPU. What training reads and what the robot reads is this one
file, so its rounding is seen by both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from assets import asset_path
from assets.inference import ort
from bridge.contract import UserError
from bridge.files import sha256_of

MODEL_FILE = "text_encoder.onnx"
TOKENIZER_FILE = "tokenizer.json"
TEXT_ENCODER_FOLDER = asset_path("models/text_encoder")

MAX_TOKENS = 24
STATE_WIDTH = 384


class TextEncoder:
    """Turns instructions into the states of their word pieces.

    `folder` holds `text_encoder.onnx` and `tokenizer.json`; `threads` is the number of CPU threads.
    """

    def __init__(self, folder: Path = TEXT_ENCODER_FOLDER, threads: int = 2) -> None:
        self.folder = folder = Path(folder)
        for name in (MODEL_FILE, TOKENIZER_FILE):
            if not (folder / name).is_file():
                raise UserError(
                    f"text encoder file {folder / name} is missing: restore it with "
                    f"'git checkout {folder}' or reinstall hitogata"
                )
        self.tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.tokenizer.enable_padding(length=MAX_TOKENS)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Waiting threads would take the cores that physics and walker need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(
            str(folder / MODEL_FILE), options, providers=["CPUExecutionProvider"]
        )

    @property
    def encoder_id(self) -> str:
        """Twelve hex digits that change with any of its files."""
        files = (sha256_of(self.folder / name) for name in (MODEL_FILE, TOKENIZER_FILE))
        return hashlib.sha256("".join(files).encode()).hexdigest()[:12]

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> tuple[np.ndarray, np.ndarray]:
        """States (N, MAX_TOKENS, STATE_WIDTH) float32 and mask (N, MAX_TOKENS) bool.

        The mask marks the word pieces, the encoder's own start and end marks included; states are
        zero elsewhere. What is beyond MAX_TOKENS is cut off.
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
