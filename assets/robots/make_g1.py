"""Writes g1.xml from g1_facts.json: `python assets/robots/make_g1.py`.

Inertials, frames, joints, motors and gains are the facts'; shapes are primitives of our own.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

HERE = Path(__file__).parent
# The real camera looks 47.6 degrees down and sees 69 x 42 degrees. Ours looks 42 degrees down and
# is 80 degrees wide, so that an object stays in view from 4 m to the feet.
CAMERA_PITCH_DOWN_DEG = 42.0
CAMERA_FOVY_DEG = 80.0


def numbers(values) -> str:
    return " ".join(f"{v:.8g}" for v in values)


def shapes(name: str, facts: dict) -> list[str]:
    """The geoms of one body."""
    extent = facts["visual_extent_in_body_frame"][name]
    low, high = extent["min_m"], extent["max_m"]
    centre = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
    half = [(b - a) / 2 for a, b in zip(low, high, strict=True)]
    lines = [
        f'<geom class="visual" type="ellipsoid" pos="{numbers(centre)}" size="{numbers(half)}"/>'
    ]
    if name.endswith("ankle_roll_link"):
        radius = facts["feet"]["radius_m"]
        side = name.split("_")[0]
        lines += [
            f'<geom name="{side}_foot_{i}" class="foot" size="{radius}" pos="{numbers(point)}"/>'
            for i, point in enumerate(facts["feet"]["points_m"])
        ]
        lines.append(f'<site name="{side}_sole" pos="0.035 0 -0.035" size="0.005"/>')
        lines.append(
            f'<site name="{side}_touch" type="box" pos="0.035 0 -0.03" size="0.12 0.05 0.012"/>'
        )
    return lines


def body_xml(body: dict, facts: dict, indent: int) -> list[str]:
    name, pad = body["name"], "  " * indent
    lines = [f'{pad}<body name="{name}" pos="{numbers(body["pos_m"])}"'
             f' quat="{numbers(body["quat_wxyz"])}"' + (' childclass="g1"' if name == "pelvis" else "") + ">"]
    inner = [
        f'<inertial mass="{body["mass_kg"]:.8g}" pos="{numbers(body["com_pos_m"])}"'
        f' quat="{numbers(body["com_quat_wxyz"])}"'
        f' diaginertia="{numbers(body["principal_inertia_kgm2"])}"/>'
    ]
    if name == "pelvis":
        inner.append('<freejoint name="base"/>')
    for joint in facts["joints"]:
        if joint["body"] == name:
            inner.append(
                f'<joint name="{joint["name"]}" axis="{numbers(joint["axis"])}"'
                f' range="{numbers(joint["range_rad"])}" armature="{joint["armature_kgm2"]:.8g}"'
                f' actuatorfrcrange="{-joint["effort_limit_nm"]} {joint["effort_limit_nm"]}"/>'
            )
    inner += shapes(name, facts)
    for site, fact in facts["sites"].items():
        if fact["body"] == name:
            inner.append(f'<site name="{site}" pos="{numbers(fact["pos_m"])}" size="0.005"/>')
    camera = facts["head_camera"]
    if camera["body"] == name:
        pitch = math.radians(CAMERA_PITCH_DOWN_DEG)
        axes = [0, -1, 0, math.sin(pitch), 0, math.cos(pitch)]
        inner.append(
            f'<camera name="head" pos="{numbers(camera["pos_m"])}" fovy="{CAMERA_FOVY_DEG:g}"'
            f' xyaxes="{numbers(axes)}"/>'
        )
    lines += [f"{pad}  {line}" for line in inner]
    for child in facts["bodies"]:
        if child["parent"] == name:
            lines += body_xml(child, facts, indent + 1)
    return [*lines, f"{pad}</body>"]


def robot_xml(facts: dict) -> str:
    bodies = [b for b in facts["bodies"] if b["parent"] == "world"]
    tree = [line for body in bodies for line in body_xml(body, facts, 2)]
    motors = [
        f'    <position name="{j["name"]}" joint="{j["name"]}" kp="{j["kp_nm_rad"]}"'
        f' kv="{j["kd_nms_rad"]}" ctrlrange="{numbers(j["range_rad"])}"'
        f' forcerange="{-j["effort_limit_nm"]} {j["effort_limit_nm"]}"/>'
        for j in facts["joints"]
    ]
    home = [0, 0, facts["pelvis_home_height_m"], 1, 0, 0, 0]
    home += [j["home_rad"] for j in facts["joints"]]
    feet = [
        line
        for side in ("left", "right")
        for line in (
            f'    <framepos name="{side}_sole_pos" objtype="site" objname="{side}_sole"/>',
            f'    <framelinvel name="{side}_sole_vel" objtype="site" objname="{side}_sole"/>',
            f'    <framezaxis name="{side}_sole_up" objtype="site" objname="{side}_sole"/>',
            f'    <touch name="{side}_touch" site="{side}_touch"/>',
        )
    ]
    return "\n".join(
        [
            "<!-- Written by make_g1.py from g1_facts.json. -->",
            '<mujoco model="g1">',
            '  <compiler angle="radian" autolimits="true"/>',
            '  <option timestep="0.0066666667" integrator="implicitfast" jacobian="dense"'
            ' iterations="10" ls_iterations="20"/>',
            "  <default>",
            '    <default class="g1">',
            '      <joint limited="true" frictionloss="0.1"/>',
            '      <site group="5"/>',
            '      <default class="visual">',
            '        <geom contype="0" conaffinity="0" group="2" mass="0" rgba="0.8 0.8 0.82 1"/>',
            "      </default>",
            '      <default class="foot">',
            '        <geom type="sphere" contype="1" conaffinity="1" group="3" mass="0" condim="3"'
            ' friction="0.8"/>',
            "      </default>",
            "    </default>",
            "  </default>",
            "  <worldbody>",
            *tree,
            "  </worldbody>",
            "  <actuator>",
            *motors,
            "  </actuator>",
            "  <sensor>",
            '    <gyro name="base_ang_vel" site="imu_in_pelvis"/>',
            '    <velocimeter name="base_lin_vel" site="imu_in_pelvis"/>',
            *feet,
            "  </sensor>",
            "  <keyframe>",
            f'    <key name="home" qpos="{numbers(home)}" ctrl="{numbers(home[7:])}"/>',
            "  </keyframe>",
            "</mujoco>",
            "",
        ]
    )


if __name__ == "__main__":
    facts = json.loads((HERE / "g1_facts.json").read_text())
    (HERE / "g1.xml").write_text(robot_xml(facts))
