"""A bundle: the folder that holds one exported policy, sealed by its manifest.

The manifest names every file with its size and SHA-256. Nothing of a bundle is opened before all of
it has been checked; what is missing, altered or foreign is refused.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import numpy_helper

from bridge.contract import UserError
from bridge.embodiment import Embodiment
from bridge.files import sha256_of, write_bytes, write_json
from policy.runtime.legacy import embodiment_of
from policy.runtime.text_encoder import MODEL_FILE, TOKENIZER_FILE

MANIFEST_FILE = "manifest.json"
CARD_FILE = "README.md"
WORDS_FILE = "words.onnx"
PREFILL_FILE = "prefill.onnx"
DECODE_FILE = "decode.onnx"
# The weights of all three graphs: prefill and decode run the same blocks.
WEIGHTS_FILE = "weights.bin"
POLICY_FILES = (WORDS_FILE, PREFILL_FILE, DECODE_FILE, WEIGHTS_FILE)
REQUIRED_FILES = (*POLICY_FILES, MODEL_FILE, TOKENIZER_FILE)
FORMAT = 3

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class FileRecord:
    """What the manifest knows of one file."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself.

    `model_id` and `normalisation_id` are the ones of the handshake. `embodiment` is the robot that
    the policy knows, with the cameras that it looks through. `slots` maps each slot of an
    instruction's meaning to its values. `bands` is how many decoding steps a whole chunk takes.
    `quantization`, `provenance` and `parity` (differences from the float32 checkpoint, measured at
    export) are for people and reports.
    """

    model_id: str
    normalisation_id: str
    embodiment: Embodiment
    slots: dict[str, list[str]]
    bands: int
    quantization: dict[str, Any]
    provenance: dict[str, Any]
    parity: dict[str, Any]
    files: dict[str, FileRecord] = field(default_factory=dict)
    format: int = FORMAT

    def policy_bytes(self) -> int:
        """Size of the policy's own graphs and weights, without the text encoder."""
        return sum(self.files[name].size for name in POLICY_FILES)


def is_bundle(folder: Path) -> bool:
    """Whether a folder has a bundle's manifest; `verify_bundle` tells whether it is a sound one."""
    return (folder / MANIFEST_FILE).is_file()


def write_bundle(folder: Path, files: Mapping[str, bytes], manifest: Manifest) -> Manifest:
    """Writes `files` and then the manifest that seals them; returns the sealed manifest.

    An interrupted write leaves a folder without a manifest, which no reader takes for a bundle.
    """
    folder = Path(folder)
    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    for name, content in files.items():
        write_bytes(folder / name, content)
    records = {
        name: FileRecord(sha256_of(folder / name), len(content)) for name, content in files.items()
    }
    sealed = dataclasses.replace(manifest, files=records)
    write_json(folder / MANIFEST_FILE, dataclasses.asdict(sealed))
    return sealed


def load_manifest(folder: Path) -> Manifest:
    """Reads and checks the manifest alone: its form, and the names of its files."""
    folder = Path(folder)
    path = folder / MANIFEST_FILE
    if not folder.is_dir():
        raise UserError(f"bundle {folder} does not exist: make one with 'hitogata export'")
    if not path.is_file():
        raise UserError(
            f"{folder} is not a bundle (no {MANIFEST_FILE}): name a folder that "
            "'hitogata export' wrote"
        )
    try:
        content = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        if content.get("format") == 2:
            content |= {"format": FORMAT, "embodiment": embodiment_of(content.get("contract"))}
        manifest = msgspec.convert(content, Manifest)
    except msgspec.MsgspecError as error:
        raise UserError(f"{path} is not a bundle's manifest ({error}): {_REMEDY}") from error
    except UserError as error:
        raise UserError(f"{path} cannot be used: {error}") from error
    if manifest.format != FORMAT:
        raise UserError(f"{path} has format {manifest.format}, not {FORMAT}: {_REMEDY}")
    for name in manifest.files:
        if not _PLAIN_NAME.fullmatch(name):
            raise UserError(f"{path} names a file outside its folder ({name!r}): {_REMEDY}")
    for name in REQUIRED_FILES:
        if name not in manifest.files:
            raise UserError(f"{path} does not list {name}: {_REMEDY}")
    return manifest


def verify_bundle(folder: Path) -> Manifest:
    """Checks the manifest, then every file against it, then every weight for NaN and infinity."""
    folder = Path(folder)
    manifest = load_manifest(folder)
    for name, record in manifest.files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise UserError(f"bundle file {path} is missing: {_REMEDY}")
        if path.stat().st_size != record.size or sha256_of(path) != record.sha256:
            raise UserError(f"bundle file {path} was altered (wrong SHA-256): {_REMEDY}")
    for name in manifest.files:
        if name.endswith(".onnx"):
            _check_weights(folder / name)
    return manifest


def _check_weights(path: Path) -> None:
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:
        raise UserError(f"bundle file {path} is not an ONNX graph: {_REMEDY}") from error
    for tensor in graph.initializer:
        places = [entry.value for entry in tensor.external_data if entry.key == "location"]
        if any(place != WEIGHTS_FILE for place in places):
            raise UserError(f"bundle file {path} keeps {tensor.name} elsewhere: {_REMEDY}")
        values = numpy_helper.to_array(tensor, base_dir=str(path.parent))
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            raise UserError(f"bundle file {path} has non-finite weights ({tensor.name}): {_REMEDY}")


_REMEDY = "copy or export the bundle again"
