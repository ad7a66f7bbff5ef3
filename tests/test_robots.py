"""Robots need no simulator: in a fresh interpreter the walker walks without MuJoCo and torch."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAM = """
import importlib, pkgutil, sys
import numpy as np
import robots
for module in pkgutil.walk_packages(robots.__path__, "robots."):
    importlib.import_module(module.name)
from robots.g1.embodiment import STAND_COMMAND
from robots.g1.facts import joint_facts
from robots.g1.getup import GetUp
from robots.g1.walker import Walker
home, still, upright = joint_facts("home_rad"), np.zeros(3), np.array([0.0, 0.0, -1.0])
assert Walker().step(STAND_COMMAND, home, 0 * home, still, upright).shape == (29,)
assert GetUp().step(home, still, upright).shape == (29,)
print(*({name.split(".")[0] for name in sys.modules} & {"mujoco", "torch", "gymnasium", "sim"}))
"""


def test_the_walker_and_getting_up_run_without_a_simulator():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "", "they import these"
