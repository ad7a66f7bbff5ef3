"""What files of release 0.1 name otherwise: their robot, by a hash alone, and the model's parts."""

from __future__ import annotations

import json

from assets import asset_path
from bridge.contract import UserError
from bridge.embodiment import Embodiment

_RELEASE_0_1 = "258f4b459637"
_FILES = {_RELEASE_0_1: "robots/g1_release_0_1.json"}
# Modules in the names of tensors, and sizes of a model's configuration.
_NAMES = {
    "words": "instruction_encoder",
    "eyes": "image_encoder",
    "joints": "state_encoder",
    "glance": "velocity_head",
    "gazes": "keypoints",
    "gaze_token": "keypoint_token",
    "place": "coordinates",
    "words_hidden": "instruction_hidden",
    "eyes_widths": "image_widths",
    "eyes_blocks": "image_blocks",
}


def embodiment_of(contract: object) -> Embodiment:
    """The robot that a contract's hash stood for; UserError for a hash of no release."""
    if not isinstance(contract, str) or contract not in _FILES:
        raise UserError(
            f"it was made for contract {contract}, of which this version does not know the robot:"
            " make it again with this version, or install the one that made it"
        )
    return Embodiment.from_dict(
        json.loads(asset_path(_FILES[contract]).read_text(encoding="utf-8"))
    )


def release_0_1() -> Embodiment:
    """The one robot of release 0.1."""
    return embodiment_of(_RELEASE_0_1)


def current_name(name: str) -> str:
    """What is called now what a checkpoint or bundle names; today's names stay as they are."""
    return ".".join(_NAMES.get(part, part) for part in name.split("."))
