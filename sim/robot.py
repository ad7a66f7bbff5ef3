"""The robot's own numbers: model file, joint order, home pose and gains."""

from __future__ import annotations

from pathlib import Path

import mujoco

from assets import asset_path
from bridge.contract import UserError
from robots.g1.embodiment import JOINT_NAMES
from robots.g1.facts import facts

CONTROL_SUBSTEPS = 3
TIMESTEP_S = 0.02 / CONTROL_SUBSTEPS
TORSO = "torso_link"
FEET = ("left_ankle_roll_link", "right_ankle_roll_link")


def robot_spec(path: Path | str | None = None) -> mujoco.MjSpec:
    """Our G1, or the one in an MJCF file, with our gains, motors and physics options.

    Raises UserError for a file that is missing, is no MJCF or holds no free G1.
    """
    path = Path(path) if path else asset_path("robots/g1.xml")
    if not path.is_file():
        raise UserError(f"robot file {path} does not exist; give an MJCF of the 29-joint G1")
    try:
        spec = mujoco.MjSpec.from_file(str(path))
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"robot file {path} is no valid MJCF ({reason})") from error
    if lack := _lack(spec):
        raise UserError(f"robot file {path} {lack}; use an MJCF with the G1's names")
    _use_our_motors(spec)
    spec.option.timestep = TIMESTEP_S
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    # MuJoCo 4.0.0's sparse Newton factor is wrong.
    spec.option.jacobian = mujoco.mjtJacobian.mjJAC_DENSE
    return spec


def _lack(spec: mujoco.MjSpec) -> str:
    """What a model lacks to be a G1 that stands by itself, or nothing."""
    hinges = {j.name for j in spec.joints if j.type == mujoco.mjtJoint.mjJNT_HINGE}
    if missing := sorted(set(JOINT_NAMES) - hinges):
        return f"lacks {len(missing)} of the 29 joints ({', '.join(missing[:3])}, ...)"
    if missing := [name for name in (TORSO, *FEET) if spec.body(name) is None]:
        return f"lacks the body {missing[0]}"
    base, root = spec.joints[0], spec.body(TORSO)
    while root.parent.name != "world":
        root = root.parent
    if base.type != mujoco.mjtJoint.mjJNT_FREE or base.parent.name != root.name:
        return f"has no free joint in {root.name}, or other joints before it"
    return ""


def _use_our_motors(spec: mujoco.MjSpec) -> None:
    """Position motors in the SDK order, with the facts' gains, limits and rotor inertias."""
    for actuator in list(spec.actuators):
        spec.delete(actuator)
    joints = {joint.name: joint for joint in spec.joints}
    for fact in facts()["joints"]:
        joint = joints[fact["name"]]
        joint.armature = fact["armature_kgm2"]
        joint.damping = [0.0, 0.0, 0.0]
        effort = fact["effort_limit_nm"]
        actuator = spec.add_actuator(
            name=fact["name"],
            target=fact["name"],
            trntype=mujoco.mjtTrn.mjTRN_JOINT,
            ctrlrange=fact["range_rad"],
            forcerange=[-effort, effort],
        )
        actuator.set_to_position(kp=fact["kp_nm_rad"], kv=fact["kd_nms_rad"])


def walk_model() -> mujoco.MjModel:
    """The G1 alone on a plane, whose feet touch nothing but the floor."""
    spec = robot_spec()
    touch_with_feet_alone(spec)
    spec.worldbody.add_geom(
        name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 0.05], friction=[1, 0.005, 1e-4]
    )
    return spec.compile()


def touch_with_feet_alone(spec: mujoco.MjSpec) -> None:
    """Of all geoms so far only the feet touch what is added later, and their friction decides."""
    for geom in spec.geoms:
        is_foot = "_foot_" in geom.name
        geom.contype, geom.conaffinity, geom.priority = 0, int(is_foot), int(is_foot)
