"""Writes g1.xml from g1_facts.json: `python assets/robots/make_g1.py`.

Inertials, frames, joints, motors and gains are the facts'; shapes are primitives of our own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

HERE = Path(__file__).parent
# The real camera looks 47.6 degrees down (d435_joint of Unitree's URDF) and sees 69 x 42 degrees
# (colour, by the data sheet of Intel's D435). Ours looks 42 degrees down and is 80 degrees wide, so
# that an object stays in view from 4 m to the feet.
CAMERA_PITCH_DOWN_DEG = 42.0
CAMERA_FOVY_DEG = 80.0


def numbers(values: Iterable[float]) -> str:
    """Numbers as an attribute of MJCF has them."""
    return " ".join(f"{v:.8g}" for v in values)


MATERIALS = {
    "shell": ("0.9 0.91 0.92 1", 0.35),
    "metal": ("0.52 0.54 0.57 1", 0.5),
    "dark": ("0.13 0.13 0.145 1", 0.3),
    "visor": ("0.025 0.025 0.035 1", 0.9),
    "glow": ("0.45 0.9 1 1", 0.2),
}
# A shape is (type, material, place, size). Capsules and cylinders are placed by both ends of their
# axis and sized by their radius; boxes and ellipsoids by centre and half extents. Bodies of the
# right side are those of the left in a mirror.
LOOKS: dict[str, list[tuple]] = {
    "pelvis": [
        ("ellipsoid", "dark", (0.0, 0, -0.07), (0.056, 0.064, 0.07)),
        ("cylinder", "metal", (0, -0.066, -0.1027, 0, 0.066, -0.1027), 0.041),
        ("ellipsoid", "shell", (0.024, 0, -0.055), (0.038, 0.055, 0.05)),
        ("ellipsoid", "shell", (-0.026, 0, -0.055), (0.034, 0.055, 0.05)),
    ],
    "hip_pitch_link": [
        ("cylinder", "dark", (0, 0.002, 0, 0, 0.03, 0), 0.04),
        ("cylinder", "shell", (-0.036, 0.052, -0.0305, 0.036, 0.052, -0.0305), 0.046),
        ("cylinder", "dark", (-0.041, 0.052, -0.0305, 0.04, 0.052, -0.0305), 0.034),
    ],
    "hip_roll_link": [
        ("capsule", "shell", (0.026, 0, -0.03, 0.026, 0, -0.08), 0.047),
        ("cylinder", "dark", (0.025, 0, -0.1, 0.025, 0, -0.124), 0.045),
    ],
    "hip_yaw_link": [
        ("capsule", "shell", (-0.008, 0, -0.042, -0.046, 0, -0.115), 0.043),
        ("capsule", "shell", (-0.046, 0, -0.115, -0.07, 0.001, -0.155), 0.04),
        ("ellipsoid", "metal", (-0.012, 0, -0.075), (0.044, 0.032, 0.06)),
        ("cylinder", "dark", (-0.0783, -0.0425, -0.1773, -0.0783, 0.0425, -0.1773), 0.046),
        ("cylinder", "metal", (-0.0783, -0.0445, -0.1773, -0.0783, 0.0445, -0.1773), 0.028),
    ],
    "knee_link": [
        ("capsule", "shell", (0.012, 0, -0.035, 0.012, 0, -0.12), 0.036),
        ("ellipsoid", "shell", (0.022, 0, -0.06), (0.042, 0.0355, 0.085)),
        ("capsule", "shell", (0.01, 0, -0.12, 0.004, 0, -0.255), 0.027),
        ("capsule", "dark", (-0.014, 0, -0.07, -0.012, 0, -0.22), 0.022),
        ("cylinder", "dark", (0, -0.027, -0.3, 0, 0.027, -0.3), 0.016),
    ],
    "ankle_pitch_link": [("cylinder", "metal", (-0.022, 0, -0.0176, 0.01, 0, -0.0176), 0.007)],
    "ankle_roll_link": [
        ("box", "dark", (0.034, 0, -0.03), (0.088, 0.033, 0.005)),
        ("cylinder", "dark", (0.12, 0, -0.035, 0.12, 0, -0.025), 0.0225),
        ("ellipsoid", "shell", (0.05, 0, -0.016), (0.09, 0.034, 0.018)),
        ("ellipsoid", "shell", (-0.012, 0, -0.008), (0.05, 0.034, 0.029)),
    ],
    "waist_yaw_link": [("cylinder", "dark", (0, 0, 0, 0, 0, 0.054), 0.042)],
    "waist_roll_link": [("cylinder", "metal", (-0.017, 0, 0, 0.017, 0, 0), 0.012)],
    "torso_link": [
        ("ellipsoid", "dark", (0.002, 0, 0.07), (0.056, 0.078, 0.072)),
        ("capsule", "shell", (0.008, -0.034, 0.14, 0.008, 0.034, 0.14), 0.058),
        ("capsule", "shell", (0.008, -0.04, 0.2, 0.008, 0.04, 0.2), 0.066),
        ("capsule", "shell", (0.006, -0.05, 0.25, 0.006, 0.05, 0.25), 0.058),
        ("capsule", "dark", (0.004, -0.07, 0.2478, 0.004, 0.07, 0.2478), 0.04),
        ("ellipsoid", "visor", (0.054, 0, 0.225), (0.024, 0.045, 0.036)),
        ("box", "dark", (-0.048, 0, 0.19), (0.02, 0.052, 0.075)),
        ("box", "metal", (-0.064, 0, 0.19), (0.006, 0.036, 0.055)),
        ("ellipsoid", "shell", (0.004, 0, 0.3), (0.05, 0.062, 0.034)),
        ("cylinder", "dark", (0.004, 0, 0.3, 0.006, 0, 0.37), 0.035),
        ("ellipsoid", "shell", (0.004, 0, 0.418), (0.06, 0.056, 0.0685)),
        ("ellipsoid", "visor", (0.03, 0, 0.412), (0.05, 0.048, 0.058)),
        ("capsule", "glow", (0.0745, -0.02, 0.432, 0.0745, 0.02, 0.432), 0.0035),
        ("cylinder", "metal", (0.0, -0.058, 0.415, 0.0, 0.058, 0.415), 0.022),
    ],
    "shoulder_pitch_link": [
        ("cylinder", "dark", (0, 0, 0, 0, 0.03, 0), 0.031),
        ("ellipsoid", "shell", (0, 0.038, -0.01), (0.0305, 0.036, 0.038)),
    ],
    "shoulder_roll_link": [
        ("cylinder", "dark", (-0.039, 0.002, 0, 0.039, 0.002, 0), 0.029),
        ("capsule", "shell", (0, 0.005, -0.03, 0, 0.006, -0.07), 0.033),
    ],
    "shoulder_yaw_link": [
        ("cylinder", "dark", (0, 0, 0.012, 0, 0, -0.012), 0.0315),
        ("capsule", "shell", (0.001, 0, -0.026, 0.012, 0, -0.062), 0.031),
        ("cylinder", "dark", (0.0158, -0.038, -0.0805, 0.0158, 0.031, -0.0805), 0.032),
        ("cylinder", "metal", (0.0158, -0.0405, -0.0805, 0.0158, 0.033, -0.0805), 0.019),
    ],
    "elbow_link": [
        ("capsule", "shell", (0.018, 0.002, -0.01, 0.07, 0.002, -0.01), 0.03),
        ("cylinder", "dark", (0.078, 0.002, -0.01, 0.1, 0.002, -0.01), 0.029),
    ],
    "wrist_roll_link": [("cylinder", "metal", (0, 0, 0, 0.03, 0, 0), 0.0285)],
    "wrist_pitch_link": [
        ("cylinder", "dark", (0, -0.027, 0, 0, 0.027, 0), 0.0285),
        ("capsule", "shell", (0.016, 0, 0, 0.046, 0, 0), 0.026),
    ],
    "wrist_yaw_link": [
        ("cylinder", "metal", (-0.012, 0, 0, 0.03, 0, 0), 0.024),
        ("ellipsoid", "dark", (0.06, 0, 0), (0.044, 0.018, 0.037)),
        *(
            ("capsule", "dark", (x, y, z, x + dx, y + dy, 0.92 * z), radius)
            for z in (-0.028, -0.0095, 0.009, 0.0275)
            for x, y, dx, dy, radius in [
                (0.09, 0.002, 0.038, -0.003, 0.0095),
                (0.128, -0.001, 0.034, -0.019, 0.0085),
            ]
        ),
        ("capsule", "dark", (0.04, 0.0, 0.03, 0.082, -0.018, 0.05), 0.0105),
    ],
}
# What touches things. Mind the gap: shins must stay clear of the floor while the robot walks.
LIMBS: dict[str, tuple] = {
    "pelvis": ("capsule", (0, -0.05, -0.09, 0, 0.05, -0.09), 0.065),
    "torso_link": ("capsule", (0.006, 0, 0.09, 0.006, 0, 0.42), 0.068),
    "hip_yaw_link": ("capsule", (-0.005, 0, -0.03, -0.07, 0, -0.15), 0.046),
    "knee_link": ("capsule", (0.01, 0, -0.02, 0.006, 0, -0.24), 0.042),
    "ankle_roll_link": ("box", (0.038, 0, -0.008), (0.104, 0.037, 0.023)),
    "shoulder_roll_link": ("capsule", (0, 0.004, 0, 0, 0.006, -0.09), 0.036),
    "elbow_link": ("capsule", (0, 0.002, -0.009, 0.1, 0.002, -0.01), 0.031),
    "wrist_yaw_link": ("capsule", (0.0, 0, 0, 0.135, -0.006, 0), 0.034),
}


def geom_xml(
    kind: str,
    place: Sequence[float],
    size: float | tuple[float, ...],
    attributes: str,
    mirror: bool,
) -> str:
    """One shape; on the right side its `mirror` image."""
    signs = (1, -1, 1, 1, -1, 1) if mirror else (1,) * 6
    key = "fromto" if len(place) == 6 else "pos"
    where = numbers(sign * value for sign, value in zip(signs, place, strict=False))
    sizes = numbers(size) if isinstance(size, tuple) else f"{size:g}"
    return f'<geom {attributes} type="{kind}" {key}="{where}" size="{sizes}"/>'


def shapes(name: str, facts: dict) -> list[str]:
    """The geoms of one body: what is seen, what touches, and the points it stands on."""
    side, _, part = name.partition("_")
    part, mirror = (part, side == "right") if side in ("left", "right") else (name, False)
    lines = [
        geom_xml(kind, place, size, f'class="visual" material="{material}"', mirror)
        for kind, material, place, size in LOOKS[part]
    ]
    if part in LIMBS:
        kind, place, size = LIMBS[part]
        lines.append(geom_xml(kind, place, size, 'class="limb"', mirror))
    if part == "ankle_roll_link":
        radius = facts["feet"]["radius_m"]
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
    """The lines of a body and of all that hang on it."""
    name, pad = body["name"], "  " * indent
    lines = [
        f'{pad}<body name="{name}" pos="{numbers(body["pos_m"])}"'
        f' quat="{numbers(body["quat_wxyz"])}"'
        + (' childclass="g1"' if name == "pelvis" else "")
        + ">"
    ]
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
    """The whole model, in MJCF."""
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
            '        <geom contype="0" conaffinity="0" group="2" mass="0"/>',
            "      </default>",
            '      <default class="limb">',
            '        <geom contype="0" conaffinity="1" group="3" mass="0" rgba="0.9 0.5 0.2 0.4"/>',
            "      </default>",
            '      <default class="foot">',
            '        <geom type="sphere" contype="1" conaffinity="1" group="3" mass="0" condim="3"'
            ' friction="0.8"/>',
            "      </default>",
            "    </default>",
            "  </default>",
            "  <asset>",
            *(
                f'    <material name="{name}" rgba="{rgba}" specular="{gloss}"'
                f' shininess="{gloss}"/>'
                for name, (rgba, gloss) in MATERIALS.items()
            ),
            "  </asset>",
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
    facts = json.loads((HERE / "g1_facts.json").read_text(encoding="utf-8"))
    (HERE / "g1.xml").write_text(robot_xml(facts), encoding="utf-8")
