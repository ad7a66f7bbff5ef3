"""The walker's gait, mirror, rewards, worlds and run-time controller."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open

from assets import asset_path
from assets.inference import ort
from bridge.contract import UserError
from robots.g1 import gait
from robots.g1.embodiment import (
    ARM_HOME_RAD,
    ARM_SPEED_RAD_S,
    ARMS,
    BASE_HEIGHT,
    CONTROL_HZ,
    G1,
    JOINT_NAMES,
    STAND_COMMAND,
)
from robots.g1.facts import N_LEG_WAIST_JOINTS, joint_facts
from robots.g1.walker import DEEPEST_BOW_RAD, ControlLaw, Walker
from sim.locomotion.curves import CurveWriter, draw_curves, read_curves
from sim.locomotion.env import WalkConfig, WalkEnv
from sim.locomotion.ppo import MirrorSymmetric, mirror_maps
from sim.locomotion.train import (
    CHECKPOINT,
    RslEnv,
    WalkRunner,
    WalkTrainConfig,
    runner_config,
    train_walker,
)

SMALL = WalkConfig(n_worlds=4, threads=1)


def test_reference_gait_by_hand():
    # Left leg in mid-swing (phase 0.75): lift 1, sweep cos(pi / 2) = 0; right in mid-stance: 0.
    phases = gait.leg_phases(np.array(0.75))
    assert phases == pytest.approx([0.75, 0.25])
    offsets = gait.reference(phases, np.array([0.5, 0.0, 0.0]), np.array(True))
    knee, hip = gait.KNEE_LIFT_RAD, gait.STANCE_HIP_RAD
    assert offsets[:6] == pytest.approx([-knee / 2, 0, 0, knee, -knee / 2, 0], abs=1e-12)
    assert offsets[6:] == pytest.approx([0, -hip, *np.zeros(7)], abs=1e-12)
    # At touch-down (phase 0) the leg is a full sweep ahead: the foot is where it will push from.
    offsets = gait.reference(gait.leg_phases(np.array(0.0)), np.array([0.5, 0, 0]), np.array(True))
    assert offsets[0] == pytest.approx(-0.5 * gait.HIP_PITCH_PER_M_S)
    assert offsets[6] == pytest.approx(+0.5 * gait.HIP_PITCH_PER_M_S)


def test_a_stand_has_no_clock_and_no_gait():
    still, upright = np.zeros((1, 3)), np.zeros((1, 2))
    rest = np.zeros(1)
    assert not gait.is_stepping(rest, still, upright)
    assert gait.advance_clock(rest, rest, still, upright)[0] == 0.0
    law = ControlLaw(1)
    law.phase[...], law.velocity, law.asked, law.capture = 0.7, still, still, upright
    law.posture, law.stepping = gait.posture(law.height, law.pitch), np.array([False])
    law.arms[...] = ARM_HOME_RAD
    assert law.act(np.zeros((1, 15)))[0] == pytest.approx(joint_facts("home_rad"))


def test_a_mirrored_body_reads_the_mirrored_observation_and_gets_the_mirrored_action():
    rng = np.random.default_rng(3)
    velocity, phase = np.array([0.3, 0.1, -0.5]), np.array(0.2)
    joints = dict(zip(JOINT_NAMES, rng.normal(size=29), strict=True))
    seen = _observe(velocity, phase, joints)
    swapped = {
        name: joints[name.replace("left", "#").replace("right", "left").replace("#", "right")]
        * (-1 if "roll" in name or "yaw" in name else 1)
        for name in JOINT_NAMES
    }
    flipped = _observe(velocity * [1, -1, -1], (phase + 0.5) % 1, swapped)
    index, sign = mirror_maps()["observation"]
    assert seen[index.numpy()] * sign.numpy() == pytest.approx(flipped, abs=1e-5)

    network = MirrorSymmetric(torch.nn.Linear(86, 15))
    action, image = network(torch.as_tensor(np.stack([seen, flipped])))
    index, sign = mirror_maps()["action"]
    assert torch.allclose(action[index] * sign, image, atol=1e-5)
    assert not torch.allclose(action, image, atol=1e-2)


def _observe(velocity, phase, joints):
    values = np.array([joints[name] for name in JOINT_NAMES])
    upright = np.array([0.0, 0.0, -1.0])
    law = ControlLaw()
    law.asked, law.stepping = velocity, np.array(True)
    law.height[...], law.pitch[...], law.phase[...] = 0.6, 0.3, phase
    return law.observation(values, 0 * values, 0 * upright, upright)


@pytest.mark.parametrize("pitch", [0.0, 0.3])
@pytest.mark.parametrize("height", [0.76, 0.7, 0.6, 0.55, 0.5])
def test_a_posture_keeps_the_weight_over_flat_feet(height, pitch):
    import mujoco

    from sim.robot import robot_spec

    model = robot_spec().compile()
    data = mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, 0)
    upright = gait.posture(np.array(height), np.array(0.0))
    bowed = gait.posture(np.array(height), np.array(pitch))
    assert (bowed - upright)[12:] == pytest.approx([0, 0, pitch]), "the waist bends by the pitch"
    data.qpos[2] = height
    data.qpos[7:22] += bowed
    mujoco.mj_forward(model, data)
    sole = data.site("left_sole")
    # Hips that go back come down by a few millimetres.
    near = 4e-3 if pitch else 1e-3
    assert sole.xpos[2] == pytest.approx(0.0035, abs=near), "the feet stay on the floor"
    assert sole.xmat[8] == pytest.approx(1.0, abs=1e-3), "and flat"
    assert abs(data.subtree_com[0][0] - sole.xpos[0]) < 0.025, "the weight stays over them"
    assert (data.qpos[7:] > model.jnt_range[1:, 0]).all()


def test_worlds_are_deterministic_and_reset_when_they_fall():
    runs = []
    for _ in range(2):
        env = WalkEnv(SMALL)
        observation, info = env.reset(seed=7)
        assert observation.shape == (4, 86) and info["critic"].shape == (4, 94)
        fell = np.zeros(4, dtype=int)
        for _ in range(120):
            observation, reward, terminated, _, _ = env.step(np.zeros((4, 15)))
            fell += terminated
        runs.append((observation, reward))
        assert fell.sum() > 0, "nothing balances these worlds"
        assert (env.bodies.qpos[:, 2] > 0.4).all(), "a fallen world starts again standing"
    assert np.array_equal(runs[0][0], runs[1][0]) and np.array_equal(runs[0][1], runs[1][1])


def test_batched_worlds_equal_one_serial_world():
    import mujoco

    env = WalkEnv(SMALL)
    env.reset(seed=1)
    bodies, targets = env.bodies, np.tile(joint_facts("home_rad"), (4, 1))
    model, data = bodies.batch.get_model(2), bodies.batch.get_data(2)
    for _ in range(10):
        bodies.step(targets)
    data.ctrl[:] = targets[2]
    mujoco.mj_step(model, data, nstep=30)
    assert np.array_equal(data.qpos, bodies.qpos[2])


def test_in_training_and_at_run_time_a_control_period_is_the_same_bit_by_bit(monkeypatch):
    n = 4
    env, walker = WalkEnv(SMALL), Walker(n=n)
    env.difficulty = 0.0  # no noise
    env.reset(seed=5)
    rng = np.random.default_rng(0)

    def other_commands():
        """Walks, stands, squats and bows, with arms that are on their way."""
        env.velocity[:] = rng.uniform(-0.4, 0.4, (n, 3)) * (rng.random((n, 1)) < 0.6)
        env.command[:, BASE_HEIGHT] = rng.uniform(0.55, 0.76, n)
        env.command[:, ARMS] = ARM_HOME_RAD + rng.uniform(-0.3, 0.3, (n, 14))
        env.pitch_goal[:], env.arm_speed[:] = rng.uniform(0, 0.4, n), ARM_SPEED_RAD_S

    def disturb():
        if env.episode_steps[0] % 20 == 0:
            other_commands()
        return np.zeros(n, dtype=bool)

    monkeypatch.setattr(env, "_disturb", disturb)
    other_commands()
    env.law.reset()
    observation, _ = env._observe()
    for step in range(100):
        targets = walker.step(env.command, *env.bodies.proprioception(), torso_pitch=env.pitch_goal)
        action = np.asarray(walker._session.run(None, {"observation": observation})[0])
        observation, _, terminated, _, _ = env.step(action)
        assert np.array_equal(env.bodies.ctrl, targets), step
        assert not terminated.any()
    limits, rounding = G1.limits, 1e-6  # a metre in float32 is rounded
    assert (env.command >= limits.low - rounding).all()
    assert (env.command <= limits.high + rounding).all()
    assert np.ptp(env.law.height) > 0.01 and env.law.pitch.any()


def test_a_walk_that_ends_tells_what_it_ended_with():
    ends, goes_on = (WalkEnv(replace(SMALL, episode_s=seconds)) for seconds in (0.1, 20.0))
    for env in (ends, goes_on):
        env.difficulty = 0.0
        env.reset(seed=3)
    for step in range(5):
        observation, _, _, truncated, info = ends.step(np.zeros((4, 15)))
        expected = goes_on.step(np.zeros((4, 15)))[0]
        assert truncated.all() == (step == 4) and ("final_obs" in info) == (step == 4)
    assert info["_final_obs"].all()
    assert np.array_equal(info["final_obs"], expected)
    assert not np.array_equal(observation, expected), "another has begun"
    assert ends.observation_space.contains(info["final_obs"])


def test_seeds_are_those_of_the_environments_interface():
    one, other = WalkEnv(SMALL), WalkEnv(SMALL)
    first = one.reset(seed=4)[0]
    assert np.array_equal(first, other.reset(seed=4)[0])
    assert one.np_random_seed == 4
    again = one.reset()[0]
    assert np.array_equal(again, other.reset()[0]), "without a seed it goes on with its numbers"
    assert not np.array_equal(first, again)
    assert not np.array_equal(WalkEnv(SMALL).reset()[0], WalkEnv(SMALL).reset()[0])


def test_walker_is_clamped_rate_limited_and_checked(tmp_path):
    walker = Walker()
    home, upright = joint_facts("home_rad"), np.array([0, 0, -1.0])
    command = STAND_COMMAND.copy()
    command[4] = 2.0  # left shoulder pitch, 1.8 rad from home
    targets = walker.step(command, home, 0 * home, 0 * upright, upright)
    assert targets.shape == (29,)
    assert targets[15] == pytest.approx(0.2 + 3.0 / 50, abs=1e-6)
    limits = G1.limits
    for wild, bow in (([2.0, 0, 0, 0.3], 0.0), (STAND_COMMAND[:4], 0.6)):
        command = STAND_COMMAND.copy()
        command[:4] = wild
        clamped = np.clip(command, limits.low, limits.high)
        asked, right = (
            Walker().step(each, home, 0 * home, 0 * upright, upright, torso_pitch=pitch)
            for each, pitch in ((command, bow), (clamped, min(bow, DEEPEST_BOW_RAD)))
        )
        assert np.array_equal(asked, right)
    command = STAND_COMMAND.copy()
    command[4] = 100.0  # beyond the shoulder's range, for longer than it takes to get there
    for _ in range(100):
        targets = walker.step(command, home, 0 * home, 0 * upright, upright)
    furthest = joint_facts("range_rad")[15, 1]
    assert targets[15] == pytest.approx(furthest)
    targets = walker.step(STAND_COMMAND, home, 0 * home, 0 * upright, upright)
    assert targets[15] == pytest.approx(furthest - 3.0 / 50), "it comes back at once"
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="joint positions"):
            walker.step(command, home + bad, 0 * home, 0 * upright, upright)
        with pytest.raises(ValueError, match="command"):
            walker.step(command * bad, home, 0 * home, 0 * upright, upright)
    with pytest.raises(UserError, match="hitogata walk"):
        Walker(tmp_path / "none.onnx")


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [("rate_hz", "100", "100 Hz"), ("joints", "left_knee_joint", "order")],
)
def test_a_walker_of_another_body_or_rate_is_refused(tmp_path, key, value, says):
    import onnx

    model = onnx.load(str(asset_path("models/walker.onnx")))
    next(p for p in model.metadata_props if p.key == key).value = value
    onnx.save_model(model, str(tmp_path / "walker.onnx"))
    with pytest.raises(UserError, match=says):
        Walker(tmp_path / "walker.onnx")


def test_training_resumes_and_refuses_another_configuration(tmp_path, capsys):
    config = WalkTrainConfig(iterations=1, steps_per_iteration=4, save_every=1, worlds=SMALL)
    train_walker(tmp_path, config)
    path = train_walker(tmp_path, replace(config, iterations=2))
    with safe_open(tmp_path / CHECKPOINT, framework="pt") as file:
        assert json.loads(file.metadata()["state"])["iteration"] == 1
    Walker(path)
    other = replace(config, seed=5, worlds=replace(SMALL, threads=2, push_m_s=1.0))
    with pytest.raises(UserError, match=r"another seed \(0, not 5\), worlds.push_m_s \(1.3, not 1"):
        train_walker(tmp_path, other)
    written = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert written["seed"] == 0 and written["iterations"] == 2, "a refused run changes nothing"

    # From another run's end, other worlds are told, and another network is refused.
    with pytest.raises(UserError, match=r"another hidden \(\[256, 128, 128\], not \[8\]\)"):
        train_walker(tmp_path / "small", replace(other, start=tmp_path, hidden=(8,)))
    with pytest.raises(UserError, match="holds no checkpoint"):
        train_walker(tmp_path / "none", replace(other, start=tmp_path / "nowhere"))
    capsys.readouterr()
    train_walker(tmp_path / "on", replace(other, start=tmp_path, iterations=3))
    assert "worlds.push_m_s (1.3, not 1.0)" in capsys.readouterr().out


def test_training_goes_on_from_a_walker_file_whose_critic_first_learns_alone(tmp_path):
    start = asset_path("models/walker.onnx")
    config = WalkTrainConfig(iterations=1, steps_per_iteration=4, start=start, worlds=SMALL)
    path = train_walker(tmp_path / "run", config)
    rows = np.random.default_rng(0).normal(size=(3, 86)).astype(np.float32)

    def actions(file):
        return np.asarray(ort.InferenceSession(str(file)).run(None, {"observation": rows})[0])

    assert actions(path) == pytest.approx(actions(start), abs=1e-4)
    assert np.abs(actions(start)).max() > 0.1
    curves = json.loads((tmp_path / "run" / "curves.json").read_text(encoding="utf-8"))
    assert curves["curriculum/difficulty"] == curves["curriculum/penalty_factor"] == [1.0]
    with pytest.raises(UserError, match="--hidden"):
        train_walker(tmp_path / "other", replace(config, hidden=(8,)))
    (tmp_path / "foreign.onnx").write_text("no graph", encoding="utf-8")
    with pytest.raises(UserError, match=r"foreign\.onnx"):
        train_walker(tmp_path / "none", replace(config, start=tmp_path / "foreign.onnx"))


def test_what_nobody_could_foresee_ends_returns_but_no_episode():
    pushed = RslEnv(WalkEnv(replace(SMALL, push_every_s=1 / CONTROL_HZ)), seed=0)
    left_alone = RslEnv(WalkEnv(replace(SMALL, push_every_s=1e9, command_s=1e9)), seed=0)
    for env, ends in ((pushed, 1), (left_alone, 0)):
        _, _, dones, extras = env.step(torch.zeros(SMALL.n_worlds, N_LEG_WAIST_JOINTS))
        assert (dones == ends).all() and (extras["time_outs"] == bool(ends)).all()
        assert (env.env.episode_steps == 1).all()


def test_the_actor_s_step_size_follows_its_divergence_and_the_critic_s_stays(tmp_path):
    config = WalkTrainConfig(steps_per_iteration=4, worlds=SMALL)
    runner = WalkRunner(RslEnv(WalkEnv(SMALL), 0), runner_config(config), log_dir=str(tmp_path))
    runner.alg.kl_low, runner.alg.kl_high = 10.0, 20.0
    runner.learn(2)
    rates = [group["lr"] for group in runner.alg.optimizer.param_groups]
    assert rates == pytest.approx([1.2e-3, 1e-3])


def test_training_leaves_its_learning_curves(tmp_path):
    config = WalkTrainConfig(iterations=3, steps_per_iteration=4, save_every=2, worlds=SMALL)
    train_walker(tmp_path, config)
    curves = json.loads((tmp_path / "curves.json").read_text(encoding="utf-8"))
    assert curves["iteration"] == [0, 1, 2]
    assert all(len(values) == 3 for values in curves.values())
    assert curves["curriculum/difficulty"] == [0, 0, 0], "nobody walks yet"
    assert all(value > 0 for value in curves["curriculum/tracking_error"])
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    # A run that goes on adds to them: what it had done stays.
    train_walker(tmp_path, replace(config, iterations=4))
    more = json.loads((tmp_path / "curves.json").read_text(encoding="utf-8"))
    assert more["iteration"] == [0, 1, 2, 3] and more["Loss/kl"][:3] == curves["Loss/kl"]


def test_curves_go_on_from_the_checkpoint_and_garbage_is_refused(tmp_path):
    def write(iterations, offset):
        writer = CurveWriter(str(tmp_path))
        for iteration in iterations:
            writer.add_scalar("/reward/alive", offset + iteration, iteration)
            writer.add_scalar("Train/mean_reward/time", 7.0, 1000)  # over seconds: not a curve
        writer.save_model("", iteration)
        writer.stop()

    write(range(5), 0.0)
    write(range(3, 4), 10.0)  # the checkpoint was of iteration 2
    assert read_curves(tmp_path) == {"reward/alive": {0: 0.0, 1: 1.0, 2: 2.0, 3: 13.0}}
    picture = draw_curves({"Train/mean_reward": {0: 1.0, 1: float("nan")}, "Loss/kl": {}})
    assert picture.startswith(b"\x89PNG")
    (tmp_path / "curves.json").write_text('{"iteration": 3}', encoding="utf-8")
    with pytest.raises(UserError, match="move it away"):
        read_curves(tmp_path)
