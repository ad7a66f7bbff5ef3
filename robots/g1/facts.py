"""The published numbers of the 29-joint Unitree G1, by joint, in the order of its SDK."""

from __future__ import annotations

import json
from functools import lru_cache

import numpy as np

from assets import asset_path

N_LEG_WAIST_JOINTS = 15  # the walker's joints: both legs and the waist, first in the SDK order


@lru_cache
def facts() -> dict:
    """The published facts of the 29-joint Unitree G1 (assets/robots/g1_facts.json).

    Frames, masses, ranges and efforts are those of Unitree's model in MuJoCo Menagerie. Gains
    follow from each motor's reflected inertia I at w = 2 pi 10 Hz and a damping ratio of 2:
    kp = I w^2, kd = 4 I w (BeyondMimic: Liao et al. 2025, arXiv:2508.08241).
    """
    return json.loads(asset_path("robots/g1_facts.json").read_text(encoding="utf-8"))


@lru_cache
def joint_facts(key: str) -> np.ndarray:
    """(29,) values of one fact of every joint, in the SDK order."""
    return np.array([joint[key] for joint in facts()["joints"]], dtype=np.float32)
