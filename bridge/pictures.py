"""Pictures of any size, scaled with padding to the size of the camera that a policy knows."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import lru_cache

import numpy as np

from bridge.contract import Observation, UserError
from bridge.embodiment import SAME_BODY, Camera, Difference, Embodiment

_log = logging.getLogger(__name__)


def fit_picture(image: np.ndarray, camera: Camera) -> np.ndarray:
    """A (H, W, 3) uint8 picture in the size of `camera`, UserError when it is none.

    Of another size, it is scaled alike in height and width until it fits, and centred on black, as
    TensorFlow's `resize_with_pad` does; a pixel is the average of the area that it covers.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise UserError(
            f"the picture of camera {camera.name} is {image.dtype} {image.shape}: send uint8"
            f" ({camera.height}, {camera.width}, 3)"
        )
    height, width, _ = image.shape
    if (height, width) == (camera.height, camera.width):
        return image
    _tell(camera, height, width)
    ratio = min(camera.height / height, camera.width / width)
    rows, columns = max(1, round(height * ratio)), max(1, round(width * ratio))
    # As products of two matrices: many times as fast as a general sum.
    tall = _shares(height, rows) @ image.reshape(height, -1).astype(np.float32)
    small = _shares(width, columns) @ tall.reshape(rows, width, 3)
    fitted = np.zeros((camera.height, camera.width, 3), np.uint8)
    top, left = (camera.height - rows) // 2, (camera.width - columns) // 2
    fitted[top : top + rows, left : left + columns] = np.rint(small)
    return fitted


def as_known(observation: Observation, policy: Embodiment) -> Observation:
    """An observation as the policy for the body `policy` knows it: its cameras, in their sizes.

    UserError when the robot lacks something, such as a camera.
    """
    if lacking := _lacking(observation.embodiment, policy):
        raise UserError(
            f"{lacking.term} differs, {lacking.ours} at the robot and {lacking.theirs} at the"
            f" policy: {SAME_BODY}"
        )
    images = {c.name: fit_picture(observation.images[c.name], c) for c in policy.cameras}
    return replace(observation, embodiment=policy, images=images)


@lru_cache
def _lacking(body: Embodiment, policy: Embodiment) -> Difference | None:
    return body.lacks(policy)


@lru_cache
def _tell(camera: Camera, height: int, width: int) -> None:
    """Says once what happens to the pictures of a camera."""
    _log.warning(
        f"pictures of camera {camera.name} come as {height} x {width} and are scaled with padding"
        f" to {camera.height} x {camera.width}"
    )


@lru_cache
def _shares(given: int, wanted: int) -> np.ndarray:
    """(wanted, given) how much of each pixel given, along one axis, lies in each one wanted."""
    edges = np.arange(given + 1) * wanted / given
    place = np.arange(wanted)[:, None]
    overlap = np.minimum(edges[1:], place + 1) - np.maximum(edges[:-1], place)
    return overlap.clip(min=0).astype(np.float32)
