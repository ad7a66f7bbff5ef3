"""Falls in simulation: noticed in time by what the body measures, and never seen in a walk."""

import numpy as np
import pytest

from bench.walker.falls import examine_falls, examine_getting_up
from bridge.contract import ActionChunk, Status
from bridge.control.loop import ControlLoop, DirectLink
from bridge.control.safety import FALLEN, Level, Safety
from bridge.symmetry import joint_mirror
from robots.g1.embodiment import CHUNK_STEPS, G1, JOINT_NAMES, STAND_COMMAND, VEL_X
from robots.g1.facts import joint_facts
from robots.g1.getup import RISE, ROLL, STRAIGHT, GetUp
from sim.scene import Scene
from sim.world import World


def test_falls_are_noticed_within_a_fifth_of_a_second_and_walks_are_not_falls():
    found = examine_falls(n=10, seed=3, seconds=4.5)
    assert len(found.noticed_s) >= 4, "these shoves throw many of them over"
    assert max(found.noticed_s) <= 0.2
    assert found.walks >= 9 and found.alarms == 0
    assert f"{len(found.noticed_s)} falls" in str(found)


class Onwards:
    """Walks at 0.5 m/s, whatever it is told."""

    def act(self, instruction, observation):
        commands = np.tile(STAND_COMMAND, (CHUNK_STEPS, 1))
        commands[:, VEL_X] = 0.5
        return ActionChunk(observation.time_s, commands, Status.ACTING, 1.0, {})

    def reset(self):
        pass


def test_a_robot_shoved_over_brakes_tells_and_gets_up_when_released():
    world = World(Scene(), render=False)
    loop = ControlLoop(world, DirectLink(Onwards()), Safety(G1), lambda: world.time_s)
    loop.instruct("walk")
    for period in range(150):
        if period == 50:
            world.push(np.array([0.0, 3.0]))
        before = world.fallen()
        tick = loop.tick()
        if tick.order.level == Level.DAMP:
            break
    assert tick.order.level == Level.DAMP and tick.order.cause == FALLEN
    assert not before, "noticed before it lies"
    for _ in range(100):
        loop.tick()
    assert world.fallen() and loop.tick().order.level == Level.DAMP

    assert "release again" in str(loop.release())
    causes = []
    while loop.tick().order.level == Level.DAMP:
        causes.append(loop.tick().order.cause)
        assert len(causes) < 2000
    assert set(causes[:-1]) <= {"the robot is getting up"}
    for _ in range(100):
        tick = loop.tick()
    assert tick.order.level == Level.SAFE_STAND and tick.order.cause == "the robot has got up"
    assert not world.fallen()
    assert loop.release() is None and loop.tick().order.level == Level.HOLD


def test_poses_are_alike_on_both_sides_within_ranges_and_end_at_home():
    source, sign = joint_mirror(G1)
    low, high = joint_facts("range_rad").T
    for pose in (*RISE, STRAIGHT, *ROLL):
        targets = pose.targets()
        assert (targets >= low).all() and (targets <= high).all()
        if not pose.one_side:
            assert targets == pytest.approx(targets[source] * sign)
    assert RISE[-1].targets() == pytest.approx(joint_facts("home_rad"), abs=1e-6)


def test_targets_go_smoothly_from_where_the_joints_are():
    way, joints, still = GetUp(), joint_facts("home_rad"), np.zeros(3)
    up = np.array([-1.0, 0, 0])  # on its back
    path = [way.step(joints, still, up) for _ in range(50)]
    straight = STRAIGHT.targets()
    assert path[24] == pytest.approx((joints + straight) / 2, abs=1e-6), "half-way after 0.5 s"
    assert path[49] == pytest.approx(straight)
    first = way.step(joints, still, up)
    assert first == pytest.approx(straight, abs=0.01), "no jump to the next pose"
    # A robot that never leaves the floor is tried three times, then given up.
    seconds = STRAIGHT.seconds + sum(pose.seconds for pose in RISE)
    periods = 51
    while way.step(joints, still, up) is not None:
        periods += 1
    assert way.failed and periods == pytest.approx(3 * seconds * 50, abs=5)


def test_face_down_it_rolls_over_first_and_the_other_way_next():
    way, joints, still = GetUp(), joint_facts("home_rad"), np.zeros(3)
    down = np.array([1.0, 0, 0])
    path = [way.step(joints, still, down) for _ in range(50 + 40 + 30 + 50 + 40)]
    assert path[50 + 39] == pytest.approx(ROLL[0].targets())
    source, sign = joint_mirror(G1)
    assert path[-1] == pytest.approx(ROLL[0].targets()[source] * sign)
    assert path[-1][JOINT_NAMES.index("waist_yaw_joint")] == pytest.approx(0.8)


def test_robots_get_up_from_their_back_and_from_their_face():
    stands = examine_getting_up(n=4, seed=5)
    assert stands[::2].any() and stands[1::2].any()
