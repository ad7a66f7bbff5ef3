"""Which objects the head camera sees, from geometry: no picture is needed."""

from __future__ import annotations

import mujoco
import numpy as np

from robots.g1.embodiment import IMAGE_SIZE
from sim.scene import HEAD_CAMERA, Scene

# Points of an object, in units of its half height, by which it is judged.
POINTS = np.array(
    [[0, 0, 0], [0, 0, 0.7], [0, 0, -0.7], [0.45, 0, 0], [-0.45, 0, 0], [0, 0.45, 0], [0, -0.45, 0]]
)
# Fewer points, or a smaller picture, and nobody could tell what it is.
LEAST_POINTS = 3
LEAST_EXTENT_PX = 3.0


class Visibility:
    """Tells which objects of a scene are visible: in the picture, and not behind another one.

    The robot's own limbs hide nothing.
    """

    def __init__(self, model: mujoco.MjModel, scene: Scene) -> None:
        n = len(scene.objects)
        self._model, self._n = model, n
        self._geoms = np.array([model.geom(f"object_{i}").id for i in range(n)], dtype=np.int32)
        self._bodies = [model.body(f"object_{i}").id for i in range(n)]
        self._sizes_m = np.array([thing.size_m for thing in scene.objects])
        self._points = self._sizes_m[:, None, None] * POINTS
        self._camera = model.camera(HEAD_CAMERA).id
        self._focal = 0.5 / np.tan(np.deg2rad(model.cam_fovy[self._camera]) / 2)
        # Scenery alone stops a ray, and of it only what moves.
        self._groups = np.array([1, 0, 0, 0, 0, 0], dtype=np.uint8)

    def look(self, data: mujoco.MjData) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Visibility, size and location of every object.

        Whether it is seen (n,) bool, its diameter in pixels (n,) float, and where its centre is
        (n, 2), column and row as shares of the picture. `data` must hold its state's kinematics.
        """
        if not self._n:
            return np.zeros(0, dtype=bool), np.zeros(0), np.zeros((0, 2))
        frame = data.cam_xmat[self._camera].reshape(3, 3)
        eye = data.cam_xpos[self._camera]
        turns = data.xmat[self._bodies].reshape(-1, 3, 3)
        rays = data.xpos[self._bodies][:, None] + self._points @ turns.transpose(0, 2, 1) - eye
        in_camera = rays @ frame
        depth = -in_camera[..., 2]
        reach = np.abs(in_camera[..., :2]).max(axis=-1) * self._focal
        framed = (depth > 0.01) & (reach < 0.5 * depth)
        seen = (framed & self._hit(data, eye, rays)).sum(axis=1) >= LEAST_POINTS
        distance = np.linalg.norm(rays[:, 0], axis=1)
        extent = 2 * self._sizes_m * self._focal * IMAGE_SIZE / distance
        seen &= extent >= LEAST_EXTENT_PX
        centre = in_camera[:, 0, :2] * [1, -1] / np.maximum(depth[:, :1], 0.01)
        return seen, np.where(seen, extent, 0.0), 0.5 + self._focal * centre

    def _hit(self, data: mujoco.MjData, eye: np.ndarray, rays: np.ndarray) -> np.ndarray:
        """Whether each ray (n, points, 3) meets the object it was sent to before any other."""
        count = rays.shape[0] * rays.shape[1]
        geom, distance = np.empty(count, dtype=np.int32), np.empty(count)
        mujoco.mj_multiRay(
            self._model,
            data,
            eye.copy(),
            rays.reshape(-1).copy(),
            self._groups,
            False,
            -1,
            geom,
            distance,
            None,
            count,
            1e6,
        )
        return geom.reshape(rays.shape[:2]) == self._geoms[:, None]
