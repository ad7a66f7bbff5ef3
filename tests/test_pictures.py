"""Pictures of other sizes, by hand."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from bridge.contract import UserError
from bridge.embodiment import Camera
from bridge.pictures import as_known, fit_picture
from robots.g1.embodiment import G1
from tests.doubles import observe
from tests.test_embodiment import HANDY


def grey(rows: list[list[int]]) -> np.ndarray:
    return np.repeat(np.array(rows, np.uint8)[:, :, None], 3, axis=2)


def test_the_right_size_is_left_as_it_is():
    image = grey([[1, 2], [3, 4]])
    assert fit_picture(image, Camera("eye", 2, 2)) is image


@pytest.mark.parametrize(
    ("given", "size", "wanted"),
    [
        # Four pixels make one: their mean.
        ([[0, 4], [8, 12]], (1, 1), [[6]]),
        # One and a half make one: 2/3 of the first and 1/3 of the second, and so on.
        ([[30, 90, 240]] * 3, (2, 2), [[50, 190], [50, 190]]),
        # Twice as wide as high: half as many rows, in the middle, black above and below.
        ([[10, 10, 30, 30], [10, 10, 30, 30]], (2, 2), [[10, 30], [0, 0]]),
        ([[8] * 4] * 2, (4, 4), [[0] * 4, [8] * 4, [8] * 4, [0] * 4]),
        # Upright: black at the sides.
        ([[8], [8]], (2, 3), [[0, 8, 0], [0, 8, 0]]),
        # Smaller: each pixel becomes several.
        ([[5, 7]], (2, 4), [[5, 5, 7, 7], [5, 5, 7, 7]]),
    ],
)
def test_scaled_with_padding(given, size, wanted):
    assert np.array_equal(fit_picture(grey(given), Camera("eye", *size)), grey(wanted))


def test_a_real_camera_is_scaled_with_padding():
    image = np.full((480, 640, 3), 200, np.uint8)
    fitted = fit_picture(image, G1.cameras[0])
    assert fitted.shape == (96, 96, 3)
    assert (fitted[12:84] == 200).all() and not fitted[:12].any() and not fitted[84:].any()


def test_it_is_said_once(caplog):
    camera, image = Camera("once", 2, 2), np.zeros((4, 6, 3), np.uint8)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            fit_picture(image, camera)
    assert [record.getMessage() for record in caplog.records] == [
        "pictures of camera once come as 4 x 6 and are scaled with padding to 2 x 2"
    ]


@pytest.mark.parametrize(
    "image", [np.zeros((2, 2)), np.zeros((2, 2, 3)), np.zeros((0, 2, 3), np.uint8)]
)
def test_what_is_no_picture_is_refused(image):
    with pytest.raises(UserError, match=r"camera eye is .*: send uint8 \(2, 2, 3\)"):
        fit_picture(image, Camera("eye", 2, 2))


def test_an_observation_as_a_policy_knows_it():
    large = replace(G1, cameras=(Camera("head", 480, 640), Camera("wrist", 48, 64)))
    images = {"head": np.full((480, 640, 3), 9, np.uint8), "wrist": np.zeros((48, 64, 3), np.uint8)}
    known = as_known(replace(observe(), embodiment=large, images=images), G1)
    assert known.embodiment is G1 and list(known.images) == ["head"]
    assert known.images["head"].shape == (96, 96, 3)
    with pytest.raises(UserError, match="command field 19 differs, nothing at the robot and torso"):
        as_known(observe(), HANDY)
