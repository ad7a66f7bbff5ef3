"""The examination of walkers: bodies, adapters, scenarios and scores, against numbers by hand."""

import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from assets import asset_path
from assets.inference import ort
from bench.walker import baselines, benchmark, bodies
from bench.walker.baselines import (
    BASELINE_PACKAGE,
    BASELINES,
    HolosomaWalker,
    baseline_walker,
    holosoma_observation,
    our_walker,
)
from bench.walker.benchmark import WalkBenchConfig, bench_walkers, count_steps
from bench.walker.bodies import LIFT_M, MESH_PACKAGE, body_model, find_body
from bench.walker.report import draw_figures, figures_table
from bench.walker.scenarios import (
    Trace,
    fixed_scenario,
    push_scenario,
    random_scenario,
    run_scenario,
)
from bridge.contract import UserError
from robots.g1.embodiment import ARM_HOME_RAD, ARMS, JOINT_NAMES, STAND_COMMAND
from robots.g1.facts import joint_facts
from robots.g1.walker import Walker
from sim.batch import BodyBatch

WALKER = asset_path("models/walker.onnx")
HOME = joint_facts("home_rad").astype(np.float64)
GAINS = joint_facts("kp_nm_rad"), joint_facts("kd_nms_rad")
needs_baselines = pytest.mark.skipif(
    find_spec(BASELINE_PACKAGE) is None,
    reason="holosoma-inference is not installed: make baselines",
)
needs_mesh = pytest.mark.skipif(
    find_spec(MESH_PACKAGE) is None, reason=f"{MESH_PACKAGE} is not installed"
)


@pytest.fixture(scope="module")
def ours():
    return body_model(find_body("ours"))


def baseline_folder() -> Path:
    found = find_spec(BASELINE_PACKAGE)
    assert found is not None and found.origin is not None
    return Path(found.origin).parent


def baseline_path(name: str) -> Path:
    return baseline_folder() / BASELINES[name]


def felt(rng: np.random.Generator, n: int) -> tuple[np.ndarray, ...]:
    """Joints, their speeds, angular velocity and gravity of n robots that stand about upright."""
    gravity = np.column_stack([rng.normal(0, 0.1, (n, 2)), -np.ones(n)])
    return (
        HOME + rng.normal(0, 0.1, (n, 29)),
        rng.normal(0, 1.0, (n, 29)),
        rng.normal(0, 0.5, (n, 3)),
        gravity / np.linalg.norm(gravity, axis=1, keepdims=True),
    )


# --- adapters ---


def test_a_walker_of_many_robots_is_as_many_walkers_of_one():
    rng, n = np.random.default_rng(0), 4
    many, singles = Walker(n=n), [Walker() for _ in range(n)]
    commands = np.tile(STAND_COMMAND, (n, 1))
    for step in range(50):
        if step % 20 == 0:
            commands[:, :3] = rng.uniform(-1, 1, (n, 3)) * (rng.random((n, 1)) < 0.7)
            commands[:, ARMS] = ARM_HOME_RAD + rng.normal(0, 0.5, (n, 14))
        if step == 30:
            many.reset(np.array([False, False, True, False]))
            singles[2].reset()
        state = felt(rng, n)
        together = many.step(commands, *state)
        for i, single in enumerate(singles):
            alone = single.step(commands[i], *(part[i] for part in state))
            assert np.array_equal(together[i], alone), (step, i)


def test_a_peers_observation_has_its_terms_in_alphabetical_order():
    joint_pos, joint_vel = HOME + 0.01 * np.arange(29), np.arange(29.0)
    seen = holosoma_observation(
        velocity=np.array([[0.5, -0.25, 0.75]]),
        phases=np.array([[0.0, np.pi / 2]]),
        joint_pos=joint_pos[None],
        joint_vel=joint_vel[None],
        ang_vel=np.array([[4.0, 8.0, -4.0]]),
        gravity=np.array([[0.0, 0.6, -0.8]]),
        last_action=np.arange(100.0, 129.0)[None],
    )
    assert seen.shape == (1, 100) and seen.dtype == np.float32
    wanted = [
        *range(100, 129),
        *(1.0, 2.0, -1.0),
        *(0.75, 0.5, -0.25),
        *(1.0, 0.0),
        *(0.01 * i for i in range(29)),
        *(0.05 * i for i in range(29)),
        *(0.0, 0.6, -0.8),
        *(0.0, 1.0),
    ]
    assert seen[0] == pytest.approx(wanted, abs=1e-6)


@needs_baselines
def test_a_peers_home_pose_and_scale_are_its_packages():
    folder = baseline_folder() / "config/config_values"
    block = re.search(
        r"default_dof_angles=\((.*?)\n    \),",
        (folder / "robot.py").read_text(encoding="utf-8"),
        re.S,
    )
    numbers = re.findall(r"-?\d+\.\d+", re.sub(r"#.*", "", block.group(1)))
    assert [float(number) for number in numbers] == pytest.approx(HOME)
    task = (folder / "task.py").read_text(encoding="utf-8").split("locomotion = ")[1]
    assert float(re.search(r"policy_action_scale=([\d.]+)", task).group(1)) == 0.25
    assert float(re.search(r"gait_period=([\d.]+)", task).group(1)) == 1.0


@needs_baselines
def test_a_peers_clock_waits_on_a_stand_and_starts_with_the_left_foot_at_zero():
    walker, tick = HolosomaWalker(baseline_path("holosoma_ppo"), 2), 2 * np.pi / 50
    commands = np.tile(STAND_COMMAND, (2, 1))
    commands[1, 0] = 0.5
    state = (*(np.tile(v, (2, 1)) for v in (HOME, 0 * HOME, np.zeros(3), [0, 0, -1.0])),)
    walker.step(commands, *state)
    assert walker._phases == pytest.approx(np.array([[np.pi, np.pi], [tick, tick - np.pi]]))
    commands[0, 2] = 0.3
    walker.step(commands, *state)
    assert walker._phases == pytest.approx(np.array([[0, np.pi], [2 * tick, 2 * tick - np.pi]]))
    walker.reset(np.array([True, False]))
    walker.step(commands, *state)
    assert walker._phases[0] == pytest.approx([tick, tick - np.pi])


@needs_baselines
@pytest.mark.parametrize("name", BASELINES)
def test_a_peer_of_many_robots_answers_as_the_published_graph_and_leaves_arms_that_move(name):
    n, rng = 3, np.random.default_rng(1)
    walker = HolosomaWalker(baseline_path(name), n)
    published = ort.InferenceSession(str(baseline_path(name)))
    commands = np.tile(STAND_COMMAND, (n, 1))
    commands[1:, ARMS] += 1.0
    joint_pos, joint_vel, *rest = state = felt(rng, n)
    targets = walker.step(commands, *state)
    # Of arms that are not its own it is told that they rest at home.
    known_pos, known_vel = joint_pos.copy(), joint_vel.copy()
    known_pos[1:, 15:], known_vel[1:, 15:] = ARM_HOME_RAD, 0.0
    seen = holosoma_observation(
        commands[:, :3], np.full((n, 2), np.pi), known_pos, known_vel, *rest, np.zeros((n, 29))
    )
    for i in range(n):
        action = published.run(None, {"actor_obs": seen[i : i + 1]})[0][0]
        wanted = HOME + 0.25 * action
        own = slice(0, 15 if i else 29)
        assert targets[i, own] == pytest.approx(wanted[own], abs=1e-5)
    arms = joint_pos[1:, 15:] + np.clip(commands[1:, ARMS] - joint_pos[1:, 15:], -0.06, 0.06)
    assert targets[1:, 15:] == pytest.approx(arms)


@needs_baselines
@pytest.mark.slow
@pytest.mark.parametrize("name", BASELINES)
def test_peers_walk_on_our_body_while_arms_move(name, ours):
    scenario = fixed_scenario([(0.5, 0, 0), (0, 0, 0.8)], 2, seconds=3.0)
    scenario.commands[..., ARMS] = random_scenario(4, 3.0, seed=0).commands[..., ARMS]
    trace = run_scenario(scenario, ours, baseline_walker(name), threads=1)
    assert trace.falls() == 0
    forward, turning = trace.velocity[-50:].mean(axis=0).reshape(2, 2, 3).mean(axis=1)
    assert forward[0] > 0.25 and turning[2] > 0.5


def test_a_missing_walker_or_body_is_refused_with_the_remedy(monkeypatch, tmp_path):
    for module in (baselines, bodies):
        monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="--no-baselines"):
        baseline_walker("holosoma_ppo")
    with pytest.raises(UserError, match="--bodies ours"):
        find_body("mesh")
    with pytest.raises(UserError, match="hitogata walk"):
        our_walker(tmp_path / "none.onnx")


# --- bodies ---


@needs_mesh
def test_the_mesh_body_has_our_joints_gains_and_sensors_and_finer_physics(ours):
    body = find_body("mesh")
    mesh = body_model(body)
    assert [mesh.joint(i).name for i in range(1, 30)] == list(JOINT_NAMES)
    assert [mesh.actuator(i).name for i in range(29)] == list(JOINT_NAMES)
    assert mesh.actuator_gainprm[:, 0] == pytest.approx(joint_facts("kp_nm_rad"))
    assert -mesh.actuator_biasprm[:, 2] == pytest.approx(joint_facts("kd_nms_rad"))
    assert mesh.opt.timestep == pytest.approx(0.002)
    assert ours.opt.timestep == pytest.approx(0.02 / 3)
    assert body_model(find_body("ours"), "bumps").opt.timestep == pytest.approx(0.002)
    # Its limbs meet each other; ours meet nothing but, with their soles, the floor.
    knee = mesh.body("left_knee_link")
    geoms = range(int(knee.geomadr[0]), int(knee.geomadr[0] + knee.geomnum[0]))
    assert any(mesh.geom_contype[g] and mesh.geom_conaffinity[g] for g in geoms)
    assert (ours.geom_contype == (np.arange(ours.ngeom) == ours.geom("floor").id)).all()
    assert ours.geom_conaffinity.sum() == 8 + 1
    pair = [BodyBatch(model, 1, threads=1) for model in (ours, mesh)]
    for batch in pair:
        batch.place(HOME, np.array([0.3]), LIFT_M)
        batch.qvel[0, :6] = [0.2, 0.1, 0, 0, 0, 0.5]
        batch.step(HOME[None])
    assert pair[0].feet("sole_vel") == pytest.approx(pair[1].feet("sole_vel"), abs=0.05)
    assert pair[0].base_velocity() == pytest.approx(pair[1].base_velocity(), abs=0.05)


def test_a_payload_weighs_what_it_should(ours):
    loaded = body_model(find_body("ours"), hand_payload_kg=1.5)
    assert loaded.body_mass.sum() == pytest.approx(ours.body_mass.sum() + 3.0)


# --- scenarios ---


def test_random_courses_are_alike_and_within_what_is_asked():
    one, same = random_scenario(6, 8.0, 3), random_scenario(6, 8.0, 3)
    assert np.array_equal(one.commands, same.commands)
    assert np.array_equal(one.headings, same.headings)
    assert not np.array_equal(one.commands, random_scenario(6, 8.0, 4).commands)
    assert one.commands.shape == (400, 6, 18)
    velocity, arms = one.commands[..., :3], one.commands[..., ARMS]
    assert (velocity >= [-0.6, -0.4, -1.0]).all() and (velocity <= [1.0, 0.4, 1.0]).all()
    assert (velocity[:250] == velocity[0]).all() and (velocity[250:] == velocity[250]).all()
    low, high = joint_facts("range_rad")[15:].T
    assert (arms >= low).all() and (arms <= high).all()
    assert np.abs(np.diff(arms, axis=0)).max() <= 3.0 / 50 + 1e-6


def test_pushes_come_from_all_sides_at_moments_alike_for_all_speeds():
    scenario = push_scenario([(0, 0, 0), (0.5, 0, 0)], (0.5, 1.2), directions=4, seed=0)
    assert scenario.n == 16 and scenario.steps == 350
    assert scenario.commands[0, :, 0].tolist() == [0.0] * 8 + [0.5] * 8
    assert scenario.pushes[4:8] == pytest.approx(
        np.array([[1.2, 0], [0, 1.2], [-1.2, 0], [0, -1.2]]), abs=1e-12
    )
    assert np.array_equal(scenario.push_steps, np.tile(scenario.push_steps[:4], 4))
    assert (scenario.push_steps >= 100).all() and (scenario.push_steps <= 150).all()


def test_who_falls_counts_no_more(ours):
    class Collapse:
        takes_posture = False

        def reset(self, robots=None): ...

        def step(self, command, joint_pos, joint_vel, ang_vel, gravity):
            targets = np.tile(HOME, (len(command), 1))
            targets[1, [3, 9]] = 2.6  # both knees
            return targets

    walker = baselines.Entrant("collapse", lambda n: Collapse(), *GAINS)
    calls = []
    trace = run_scenario(
        fixed_scenario([(0, 0, 0)] * 2, 1, 1.0),
        ours,
        walker,
        1,
        lambda: calls.append(1),
        record=True,
    )
    assert len(calls) == 50 and trace.qpos.shape == (50, 2, 36)
    assert trace.upright[:, 0].all() and not trace.upright[-1, 1] and trace.falls() == 1
    fell = int((~trace.upright[:, 1]).argmax())
    assert (trace.qpos[fell:, 1] == trace.qpos[fell, 1]).all()


# --- scores ---


def trace_of(steps: int, n: int, **parts: np.ndarray) -> Trace:
    zeros = np.zeros((steps, n))
    whole = {
        "upright": np.ones((steps, n), dtype=bool),
        "velocity": np.zeros((steps, n, 3)),
        "base_xy_m": np.zeros((steps, n, 2)),
        "height_m": zeros + 0.76,
        "torso_pitch_rad": zeros,
        "contact": np.ones((steps, n, 2), dtype=bool),
        "sole_speed_m_s": np.zeros((steps, n, 2)),
        "power_w": zeros,
        "target_rate_rad_s": zeros,
        "joint_acc_rad_s2": zeros,
        "qpos": None,
    }
    return Trace(**(whole | parts))


def test_errors_count_a_second_after_each_command_and_before_a_fall():
    scenario = fixed_scenario([(0.5, 0, 0), (0, 0, 0)], 1, 3.0)
    scenario.commands[75:, 1, 2] = 0.4
    velocity = np.zeros((150, 2, 3))
    velocity[:, 0] = [0.2, 0.4, 0.1]  # 0.5 m/s and 0.1 rad/s off
    velocity[75:125, 1] = 9.0  # within a second of the new command
    velocity[125:, 1] = [0, 0, 0.4]
    upright = np.ones((150, 2), dtype=bool)
    upright[100:, 0] = False
    acc = np.full((150, 2), 10.0)
    acc[20, 0], acc[120, 0], acc[5, 1] = 30.0, 999.0, 50.0
    found = benchmark._score_commands(
        trace_of(150, 2, velocity=velocity, upright=upright, joint_acc_rad_s2=acc), scenario
    )
    # Robot 0 counts in steps 50 to 99, robot 1 in 50 to 74 and from 125 on.
    assert found["falls"] == 0.5
    assert found["velocity_error"] == pytest.approx(0.5 * 50 / 100)
    assert found["yaw_error"] == pytest.approx(0.1 * 50 / 100)
    assert found["peak_joint_acc_rad_s2"] == pytest.approx((30 + 50) / 2)


def test_steps_are_feet_that_come_down_after_a_while_in_the_air():
    contact = np.ones((20, 2, 2), dtype=bool)
    contact[2:5, 0, 0] = False  # 0.06 s: a step
    contact[10:12, 0, 1] = False  # 0.04 s: a tremble
    contact[15:, 1, 1] = False  # never comes down
    assert count_steps(contact).tolist() == [1, 0]


def test_stand_energy_heights_and_pushes_by_hand():
    angle = np.linspace(0, 2 * np.pi, 50, endpoint=False)
    xy = np.zeros((100, 1, 2))
    xy[50:, 0] = 0.03 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    found = benchmark._score_stand(trace_of(100, 1, base_xy_m=xy))
    assert found["stand_steps"] == 0 and found["stand_sway_cm"] == pytest.approx(3.0)

    n = len(benchmark.TRACKED)
    xy = np.zeros((90, n, 2))
    xy[:, 0, 0] = 0.01 * np.arange(90)  # 0.59 m from step 30 on
    found = benchmark._score_tracking(trace_of(90, n, base_xy_m=xy, power_w=np.full((90, n), 59.0)))
    assert found["energy_j_m"] == pytest.approx(59.0 * 60 / 50 / 0.59)

    heights = np.repeat(benchmark.HEIGHTS_M, 100)[:, None] + np.array([[0.0, 0.01]])
    heights[300:400, 1] += 0.05  # one robot of two does not reach the fourth
    found = benchmark._score_heights(trace_of(len(heights), 2, height_m=heights))
    assert found == {"lowest_height_m": benchmark.HEIGHTS_M[2]}

    heights = np.full((650, 3), 0.56)  # 3 s to go down, then 10 s
    heights[:150], heights[400, 1] = 0.76, 0.59
    upright = np.ones((650, 3), dtype=bool)
    upright[600:, 2] = False
    found = benchmark._score_low(trace_of(650, 3, height_m=heights, upright=upright))
    assert found["low_height"] == pytest.approx(1 / 3)

    pitch = np.full((500, 2), 0.4)
    pitch[:150], pitch[150:, 0] = 0.0, 0.3  # on the way down nothing counts
    upright = np.array([[True, True]] * 499 + [[True, False]])
    found = benchmark._score_bow(trace_of(500, 2, torso_pitch_rad=pitch, upright=upright))
    assert found["bow_error_rad"] == pytest.approx(0.1) and found["bow_falls"] == 0.5

    upright = np.ones((1, 16), dtype=bool)  # 2 stances x 4 speeds x 2 directions
    upright[0, 3], upright[0, [12, 13]] = False, False
    found = benchmark._score_pushes(trace_of(1, 16, upright=upright))
    assert found["pushes"]["stand 0.8"] == 0.5 and found["pushes"]["walk 1.2"] == 0.0
    assert found["push_survival"] == 0.75 and found["push_survival_12"] == 0.5


@pytest.mark.slow
def test_an_examination_has_every_figure():
    config = WalkBenchConfig(
        runs=2, seconds=1.0, directions=1, bodies=("ours",), baselines=False, threads=1
    )
    figures = bench_walkers(config)
    for key in (
        *("falls", "velocity_error", "yaw_error", "push_survival", "push_survival_12"),
        *("payload_falls", "slope_falls", "bumps_falls", "stand_steps", "stand_sway_cm"),
        *("foot_slip_m_s", "energy_j_m", "target_rate_rad_s", "peak_joint_acc_rad_s2"),
        *("tracking", "pushes", "low_height", "lowest_height_m"),
    ):
        assert key in figures["ours"]["ours"], key
    table = figures_table(figures, config.bodies, ["ours"])
    assert table.row_count == 18 and len(table.columns) == 2
    assert draw_figures(figures, config.bodies, ["ours"]).startswith(b"\x89PNG")
