"""The robot in a simulation, alone or in a batch: addresses, gains, pushes, heights and falls."""

import mujoco
import numpy as np
import pytest

from bench.walker.bodies import LIFT_M, body_model, find_body
from robots.g1.embodiment import JOINT_NAMES
from robots.g1.facts import joint_facts
from sim.batch import Body, BodyBatch
from sim.robot import robot_spec, walk_model
from sim.scene import Scene
from sim.world import World

HOME = joint_facts("home_rad").astype(np.float64)
GAINS = joint_facts("kp_nm_rad"), joint_facts("kd_nms_rad")


def test_joints_and_motors_are_found_by_name_wherever_a_model_has_them():
    spec = robot_spec()
    spec.worldbody.add_geom(name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 0.05])
    finger = spec.body("left_wrist_yaw_link").add_body(name="finger", mass=0.01, inertia=[1e-5] * 3)
    finger.explicitinertial = True
    finger.add_joint(name="finger", range=[-1, 1])
    motors = list(spec.actuators)
    spec.add_actuator(name="finger", target="finger", trntype=mujoco.mjtTrn.mjTRN_JOINT)
    model = spec.compile()
    data = mujoco.MjData(model)
    body = Body(model, data)
    angles = np.linspace(-0.5, 0.5, 29)
    body.place(angles, yaw=np.pi)
    finger_at = int(model.joint("finger").qposadr[0])
    assert 7 < finger_at < model.nq - 1, "amid the others"
    assert data.qpos[finger_at] == 0
    for name, angle in zip(JOINT_NAMES, angles, strict=True):
        assert data.qpos[model.joint(name).qposadr[0]] == angle
        assert data.ctrl[model.actuator(name).id] == angle
    data.qvel[model.joint("right_elbow_joint").dofadr[0]] = 2.0
    assert np.flatnonzero(body.joint_vel).tolist() == [JOINT_NAMES.index("right_elbow_joint")]
    assert np.array_equal(body.joint_pos, angles) and abs(body.yaw()) == pytest.approx(np.pi)
    gain = model.actuator_gainprm[:, 0].copy()
    body.set_gains(2 * GAINS[0], GAINS[1])
    assert model.actuator_gainprm[:, 0] == pytest.approx(
        np.append(2 * gain[: len(motors)], gain[len(motors) :])
    )


@pytest.fixture(scope="module")
def ours():
    return body_model(find_body("ours"))


def test_bodies_have_the_gains_of_their_walker_and_are_pushed_in_the_world_or_their_own_frame(ours):
    bodies = BodyBatch(ours, 2, threads=1)
    bodies.set_gains(2 * GAINS[0], GAINS[1])
    bodies.place(HOME, np.array([0.0, np.pi / 2]))
    pushes = np.array([[1.0, 0.0], [1.0, 0.5]])
    bodies.push(bodies.from_heading(pushes), np.array([False, True]))
    assert bodies.qvel[:, :2] == pytest.approx(np.array([[0, 0], [-0.5, 1.0]]))
    bodies.push(pushes)
    assert bodies.qvel[:, :2] == pytest.approx(np.array([[1.0, 0.0], [0.5, 1.5]]))
    bodies.qvel[:] = 0
    before = bodies.qpos[0].copy()
    bodies.step(np.tile(HOME + 0.1, (2, 1)), np.array([False, True]))
    assert np.array_equal(bodies.qpos[0], before), "only those named move"
    model = bodies.batch.get_model(1)
    assert model.actuator_gainprm[:, 0] == pytest.approx(2 * GAINS[0])
    assert model.actuator_biasprm[:, 1] == pytest.approx(-2 * GAINS[0])


def test_only_those_named_are_placed_and_the_rest_go_on(ours):
    bodies = BodyBatch(ours, 3, threads=1)
    bodies.place(HOME)
    bodies.step(np.tile(HOME + 0.2, (3, 1)))
    before = bodies.qpos.copy(), bodies.ctrl.copy()
    again, joints = np.array([True, False, True]), HOME + np.array([[0.1], [0.3]])
    bodies.place(joints, np.array([0.2, -0.2]), velocity=np.ones((2, 2)), which=again)
    assert np.array_equal(bodies.qpos[1], before[0][1])
    assert np.array_equal(bodies.ctrl[1], before[1][1])
    assert np.array_equal(bodies.joint_pos[again], joints)
    assert bodies.yaw()[again] == pytest.approx([0.2, -0.2])
    assert (bodies.qvel[again, :2] == 1).all() and not bodies.qvel[again, 2:].any()


def test_a_late_command_moves_its_world_later():
    bodies = BodyBatch(walk_model(), 4, threads=1, fresh=False)
    bodies.place(HOME)
    targets = np.tile(HOME + 0.3, (4, 1))
    bodies.step(targets, delay=np.array([0, 1, 2, 3]))
    wrist = bodies.qpos[:, -1] - bodies.qpos[3, -1]  # the last one still obeys the old targets
    assert (np.diff(wrist) < 0).all(), "the later, the less"
    assert np.array_equal(bodies.ctrl, targets)


@pytest.mark.parametrize("ground", ["flat", "slope", "bumps"])
def test_a_body_stands_on_every_ground_and_a_fall_is_seen(ground):
    bodies = BodyBatch(body_model(find_body("ours"), ground), 4, threads=1)
    bodies.place(HOME, np.arange(4) * np.pi / 2, LIFT_M)
    assert not bodies.contact().any(), "it starts in the air"
    for _ in range(15):
        bodies.step(np.tile(HOME, (4, 1)))
    assert bodies.contact().all() and not bodies.fallen().any()
    # Half a metre up the slope the ground is 0.026 m higher, and so is who stands on it.
    before = bodies.height().copy()
    bodies.qpos[:, 0] += 0.5
    rise = {"slope": 0.5 * np.tan(np.deg2rad(3))}.get(ground, 0.0)
    assert before - bodies.height() == pytest.approx(np.full(4, rise))
    bodies.qpos[1, 3:7] = [np.cos(0.6), 0, np.sin(0.6), 0]  # 1.2 rad forward
    bodies.qpos[2, 2] -= 0.4
    bodies.qpos[3, 8] = np.nan
    assert bodies.fallen().tolist() == [False, True, True, True]


def test_fallen_is_one_thing_for_a_world_and_a_batch_and_its_limits_have_names():
    world, n = World(Scene(), render=False), 6
    bodies = BodyBatch(world.model, n, threads=1)
    tilts = np.deg2rad([0, 0, 59, 61, 44, 46])
    bodies.place(HOME)
    bodies.qpos[:, 2] = [0.451, 0.449, 0.7, 0.7, 0.7, 0.7]
    bodies.qpos[:, 3], bodies.qpos[:, 4] = np.cos(tilts / 2), np.sin(tilts / 2)
    assert bodies.fallen().tolist() == [False, True, False, True, False, False]
    for qpos, fallen in zip(bodies.qpos, bodies.fallen(), strict=True):
        world.set_qpos(qpos)
        assert world.fallen() == fallen
    # Who asks for another measure names it: a lean that nothing saves, a height one was asked for.
    lean = bodies.fallen(tilt_cos=np.cos(np.pi / 4))
    assert lean.tolist() == [False, True, True, True, False, True]
    crouched = bodies.fallen(lowest_m=np.array([0.3, 0.3, 0.56, 0.56, 0.71, 0.56]))
    assert crouched.tolist() == [False, False, False, True, True, False]
