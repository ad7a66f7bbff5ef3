"""A bundle: the folder that holds one exported policy, sealed by its manifest.

The manifest names every file with its size and SHA-256. Each is read once, and what was read is
checked before anything of it is run; what is missing, altered or foreign is refused.

A text encoder that travels with the package need not lie in the folder of every bundle that was
sealed with it: where the manifest asks for that very file, the package's is taken.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
import onnx
from google.protobuf.message import DecodeError

from bridge.contract import UserError
from bridge.embodiment import Embodiment
from bridge.files import checked, read_json, reading, sha256_of, write_bytes, write_json
from policy.runtime.graphs import (
    PORTS_OF_ENCODER,
    check_bands,
    check_ports,
    ports_of_decode,
    ports_of_prefill,
    ports_of_words,
    whole_graph,
)
from policy.runtime.legacy import embodiment_of
from policy.runtime.text_encoder import (
    MODEL_FILE,
    SPEC_FILE,
    TEXT_ENCODER_FOLDER,
    TOKENIZER_FILE,
)

MANIFEST_FILE = "manifest.json"
CARD_FILE = "README.md"
WORDS_FILE = "words.onnx"
PREFILL_FILE = "prefill.onnx"
DECODE_FILE = "decode.onnx"
# The weights of all three graphs: prefill and decode run the same blocks.
WEIGHTS_FILE = "weights.bin"
POLICY_FILES = (WORDS_FILE, PREFILL_FILE, DECODE_FILE, WEIGHTS_FILE)
ENCODER_FILES = (MODEL_FILE, TOKENIZER_FILE)
REQUIRED_FILES = (*POLICY_FILES, *ENCODER_FILES)
FORMAT = 3

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class FileRecord:
    """What the manifest knows of one file."""

    sha256: str
    size: Annotated[int, msgspec.Meta(ge=0, le=1 << 32)]


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
    bands: Annotated[int, msgspec.Meta(ge=1, le=64)]
    quantization: dict[str, Any]
    provenance: dict[str, Any]
    parity: dict[str, Any]
    files: dict[str, FileRecord] = field(default_factory=dict)
    format: int = FORMAT


def is_bundle(folder: Path) -> bool:
    """Whether a folder has a bundle's manifest; `open_bundle` tells whether it is a sound one."""
    return (folder / MANIFEST_FILE).is_file()


def record_of(path: Path) -> FileRecord:
    """What a manifest says of a file."""
    return FileRecord(sha256_of(path), path.stat().st_size)


def encoder_folder(folder: Path, manifest: Manifest) -> Path:
    """Where the text encoder of a bundle lies: with the package if it is the same, else in it."""
    packaged = packaged_encoder()
    same = packaged and packaged.items() <= manifest.files.items()
    return TEXT_ENCODER_FOLDER if same else folder


@functools.cache
def packaged_encoder() -> dict[str, FileRecord]:
    """Records of the text encoder that travels with the package, by file name."""
    paths = [TEXT_ENCODER_FOLDER / name for name in ENCODER_FILES]
    return {path.name: record_of(path) for path in paths if path.is_file()}


def write_bundle(folder: Path, files: Mapping[str, bytes], manifest: Manifest) -> Manifest:
    """Writes `files` and then the manifest that seals them; returns the sealed manifest.

    Files that it lists already lie elsewhere. An interrupted write leaves a folder without a
    manifest, which no reader takes for a bundle.
    """
    folder = Path(folder)
    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    for name, content in files.items():
        write_bytes(folder / name, content)
    records = {name: record_of(folder / name) for name in files}
    sealed = dataclasses.replace(manifest, files=manifest.files | records)
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
    content = read_json(path, _REMEDY, dict[str, Any])
    try:
        if content.get("format") == 2:
            content |= {"format": FORMAT, "embodiment": embodiment_of(content.get("contract"))}
    except UserError as error:
        raise UserError(f"{path} cannot be used: {error}") from error
    with reading(path, _REMEDY):
        manifest = checked(content, Manifest)
    if manifest.format != FORMAT:
        raise UserError(f"{path} has format {manifest.format}, not {FORMAT}: {_REMEDY}")
    for name in manifest.files:
        if not _PLAIN_NAME.fullmatch(name):
            raise UserError(f"{path} names a file outside its folder ({name!r}): {_REMEDY}")
    for name in REQUIRED_FILES:
        if name not in manifest.files:
            raise UserError(f"{path} does not list {name}: {_REMEDY}")
    return manifest


@dataclass(frozen=True)
class Bundle:
    """What was checked, so that nothing else is run: the manifest, files and graphs by name.

    The graphs hold their weights.
    """

    manifest: Manifest
    files: Mapping[str, bytes]
    graphs: Mapping[str, onnx.ModelProto]


def open_bundle(folder: Path) -> Bundle:
    """Reads a bundle once, and checks all of it: the manifest, the files against it, the graphs."""
    folder = Path(folder)
    manifest = load_manifest(folder)
    encoder = encoder_folder(folder, manifest)
    paths = {n: (encoder if n in ENCODER_FILES else folder) / n for n in manifest.files}
    files = {name: _read(path, manifest.files[name]) for name, path in paths.items()}
    if SPEC_FILE not in files and (encoder / SPEC_FILE).is_file():
        files[SPEC_FILE] = (encoder / SPEC_FILE).read_bytes()  # of the package, or an own one
    ports = {
        WORDS_FILE: ports_of_words(manifest.slots),
        PREFILL_FILE: ports_of_prefill(manifest.embodiment),
        DECODE_FILE: ports_of_decode(manifest.embodiment),
        MODEL_FILE: PORTS_OF_ENCODER,
    }
    graphs: dict[str, onnx.ModelProto] = {}
    for name, promised in ports.items():
        try:
            graphs[name] = whole_graph(files[name], {WEIGHTS_FILE: files[WEIGHTS_FILE]})
            check_ports(graphs[name].graph, promised)
            if name == DECODE_FILE:
                check_bands(graphs[name].graph, manifest.bands)
        except (ValueError, TypeError, KeyError, DecodeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"bundle file {paths[name]} cannot be used: {reason}; {_REMEDY}"
            ) from error
    return Bundle(manifest, files, graphs)


def _read(path: Path, record: FileRecord) -> bytes:
    """A file, be it a link, whose content is what the manifest says; read once, and no further."""
    if not path.is_file():
        raise UserError(f"bundle file {path} is missing: {_REMEDY}")
    with reading(path, _REMEDY), path.open("rb") as file:
        content = file.read(record.size + 1)
    if len(content) != record.size or hashlib.sha256(content).hexdigest() != record.sha256:
        raise UserError(f"bundle file {path} was altered (wrong SHA-256): {_REMEDY}")
    return content


_REMEDY = "copy or export the bundle again"
