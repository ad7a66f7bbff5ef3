"""The published numbers of the 29-joint Unitree G1, by joint, in the order of its SDK."""

from __future__ import annotations

import json
from functools import lru_cache

import numpy as np

from assets import asset_path

N_LEG_WAIST_JOINTS = 15  # the walker's joints: both legs and the waist, first in the SDK order


@lru_cache
def facts() -> dict:
    """The published facts of the 29-joint Unitree G1 (assets/robots/g1_facts.json)."""
    return json.loads(asset_path("robots/g1_facts.json").read_text(encoding="utf-8"))


@lru_cache
def joint_facts(key: str) -> np.ndarray:
    """(29,) values of one fact of every joint, in the SDK order."""
    return np.array([joint[key] for joint in facts()["joints"]], dtype=np.float32)
