"""Pictures of a world: what the head camera sees, and how the robot looks from outside.

Pictures are drawn by OpenGL: on a machine without a display through EGL, in software if need be.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import mujoco
import numpy as np

from bridge.contract import UserError
from robots.g1.embodiment import IMAGE_SIZE
from sim.scene import COLLISION_GROUP, HEAD_CAMERA, SHELL_GROUP

# Round shapes of the head camera have few sides: at its size nobody can count them.
HEAD_SLICES, HEAD_STACKS = 10, 6
VIEW_SIZE = (640, 480)
LAMP_M = 5.0

_TURN = threading.Lock()
# What painters have left, to be freed by whoever draws next: a finalizer may run in the midst of a
# drawing, or in a thread that has no OpenGL.
_LEFT: deque[mujoco.MjrContext] = deque()


@lru_cache
def _gl_context() -> Any:
    """The OpenGL context of this process, made at the first picture."""
    # Software drawing of small pictures loses more by waking threads than it wins.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    name = os.environ.get("MUJOCO_GL") or ("egl" if sys.platform.startswith("linux") else "")
    try:
        if name == "egl":
            from mujoco.egl import GLContext
        else:
            from mujoco.gl_context import GLContext
        return GLContext(*VIEW_SIZE)
    # OpenGL libraries raise whatever they like when a driver is missing.
    except Exception as error:
        raise UserError(
            f"no OpenGL ({_first_line(error)}); on Linux without a display: apt install libegl1"
            " libgl1-mesa-dri, and unset MUJOCO_GL or set it to egl"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


@contextmanager
def _drawing() -> Iterator[None]:
    """OpenGL for this thread, and afterwards for any other: one context serves them all in turn."""
    with _TURN:
        context = _gl_context()
        context.make_current()
        try:
            while _LEFT:
                _LEFT.popleft().free()
            yield
        finally:
            if type(context).__module__ == "mujoco.egl":
                from mujoco.egl import EGL_DISPLAY
                from OpenGL import EGL

                none = EGL.EGL_NO_SURFACE, EGL.EGL_NO_SURFACE, EGL.EGL_NO_CONTEXT
                EGL.eglMakeCurrent(EGL_DISPLAY, *none)


def opengl_renderer() -> str:
    """Name of the OpenGL driver that draws, e.g. llvmpipe; UserError where there is none."""
    with _drawing():
        from OpenGL import GL

        return GL.glGetString(GL.GL_RENDERER).decode()


class _Painter:
    """Draws one model at one size. Holds OpenGL memory until `close`, or until it is dropped."""

    def __init__(
        self, model: mujoco.MjModel, width: int, height: int, camera: mujoco.MjvCamera
    ) -> None:
        self.model, self.camera = model, camera
        self.option = mujoco.MjvOption()
        self.scene = mujoco.MjvScene(model, maxgeom=500)
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self._pixels = np.empty((height, width, 3), dtype=np.uint8)
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        try:
            with _drawing():
                self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        except mujoco.FatalError as error:
            raise UserError(
                f"OpenGL cannot draw ({_first_line(error)}); update its driver"
            ) from error
        self._finalizer = weakref.finalize(self, _LEFT.append, self._context)
        self._finalizer.atexit = False

    def draw(self, data: mujoco.MjData) -> np.ndarray:
        """(height, width, 3) uint8 picture of the state whose kinematics are in `data`."""
        mujoco.mjv_updateScene(
            self.model, data, self.option, None, self.camera, mujoco.mjtCatBit.mjCAT_ALL, self.scene
        )
        self._prepare(data)
        with _drawing():
            # Painters share one OpenGL context, whose target is that of the last one that drew.
            mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
            mujoco.mjr_render(self._rect, self.scene, self._context)
            mujoco.mjr_readPixels(self._pixels, None, self._rect, self._context)
        return self._pixels[::-1].copy()

    def _prepare(self, data: mujoco.MjData) -> None:
        """Changes the scene that is about to be drawn."""

    def close(self) -> None:
        """Frees the OpenGL memory; nothing can be drawn afterwards."""
        if self._finalizer.alive:
            self._finalizer()
            with _drawing():
                pass  # frees what is left
        self._context = None


def _set_flags(scene: mujoco.MjvScene, on: bool) -> None:
    flags = mujoco.mjtRndFlag
    for flag in (flags.mjRND_SHADOW, flags.mjRND_REFLECTION, flags.mjRND_SKYBOX, flags.mjRND_HAZE):
        scene.flags[flag] = on


class HeadCamera(_Painter):
    """The robot's camera: IMAGE_SIZE square, as plain and as fast as OpenGL can draw."""

    def __init__(self, model: mujoco.MjModel) -> None:
        camera = mujoco.MjvCamera()
        camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        camera.fixedcamid = model.camera(HEAD_CAMERA).id
        quality = model.vis.quality
        quality.offsamples, quality.shadowsize = 0, 0
        quality.numslices, quality.numstacks, quality.numquads = HEAD_SLICES, HEAD_STACKS, 1
        super().__init__(model, IMAGE_SIZE, IMAGE_SIZE, camera)
        self.option.geomgroup[[SHELL_GROUP, COLLISION_GROUP]] = 0
        _set_flags(self.scene, False)


class ThirdPerson(_Painter):
    """A view from behind and above that follows the robot, with shadows and smooth edges."""

    def __init__(self, model: mujoco.MjModel, size: tuple[int, int] = VIEW_SIZE) -> None:
        camera = mujoco.MjvCamera()
        camera.distance, camera.azimuth, camera.elevation = 3.2, 150.0, -22.0  # m, degrees
        quality = model.vis.quality
        quality.offsamples, quality.shadowsize = 4, 1024
        quality.numslices, quality.numstacks, quality.numquads = 20, 10, 4
        super().__init__(model, *size, camera)
        self.option.geomgroup[COLLISION_GROUP] = 0
        _set_flags(self.scene, True)

    def draw(self, data: mujoco.MjData) -> np.ndarray:
        """The picture; the robot stays in its middle."""
        self.camera.lookat[:] = [*data.body("pelvis").xpos[:2], 0.6]
        return super().draw(data)

    def _prepare(self, data: mujoco.MjData) -> None:
        """Hangs the lamp over the robot as a spot: its shadow is finer than a far light's."""
        for light in self.scene.lights[: self.scene.nlight]:
            if light.castshadow:
                light.type = mujoco.mjtLightType.mjLIGHT_SPOT
                light.cutoff, light.exponent = 60.0, 1.0
                light.attenuation[:] = [1, 0, 0]
                light.pos[:] = self.camera.lookat - LAMP_M * light.dir
