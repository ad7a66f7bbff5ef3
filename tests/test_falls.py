"""Falls in simulation: noticed in time by what the body measures, and never seen in a walk."""

import numpy as np

from bridge.contract import CHUNK_STEPS, STAND_COMMAND, VEL_X, ActionChunk, Status
from bridge.control_loop import ControlLoop, DirectLink
from bridge.safety import FALLEN, Level, Safety
from sim.fall_exam import examine_falls
from sim.scene import Scene
from sim.walker import command_limits
from sim.world import World


def test_falls_are_noticed_within_a_fifth_of_a_second_and_walks_are_not_falls():
    found = examine_falls(n=6, seed=3, seconds=4.5)
    assert len(found.noticed_s) >= 4, "these shoves throw most of them over"
    assert max(found.noticed_s) <= 0.2
    assert found.walks >= 5 and found.alarms == 0
    assert f"{len(found.noticed_s)} falls" in str(found)


class Onwards:
    """Walks at 0.5 m/s, whatever it is told."""

    def act(self, instruction, observation):
        commands = np.tile(STAND_COMMAND, (CHUNK_STEPS, 1))
        commands[:, VEL_X] = 0.5
        return ActionChunk(observation.time_s, commands, Status.ACTING, 1.0, {})

    def reset(self):
        pass


def test_a_robot_shoved_over_brakes_tells_and_stays_down():
    world = World(Scene(), render=False)
    loop = ControlLoop(world, DirectLink(Onwards()), Safety(command_limits()), lambda: world.time_s)
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
    for _ in range(50):
        loop.tick()
    assert loop.release() == FALLEN and world.fallen()
    assert loop.tick().order.level == Level.DAMP
