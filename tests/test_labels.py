"""Relabelled frames agree with the expert asked directly, and cover what they should."""

import numpy as np
import pytest

from bridge.contract import Status
from robots.g1.embodiment import CHUNK_STEPS, COMMAND_DIM, STAND_COMMAND
from sim.world import WorldView
from tasks import expert as experts
from tasks.catalogue import SHIPPED
from tasks.demonstrations.relabel import LabelConfig, RecordedFrame, earlier_start, relabel
from tasks.expert import SEARCH_LIMIT_RAD, Context
from tasks.language.intent import Intent

COLOURS, SHAPES = ("red", "blue", "green"), ("cube", "ball", "cone")
OWN = Intent("go_to", "red", "cube")
CONFIG = LabelConfig()


def frame(t: int) -> RecordedFrame:
    """A robot that walks 0.04 m a frame and turns a little, past three objects."""
    view = WorldView(
        time_s=t / 10,
        base_pose=(0.04 * t, 0.0, 0.01 * t),
        arm_targets=STAND_COMMAND[4:],
        colours=COLOURS,
        shapes=SHAPES,
        object_pos_m=np.array([[3 - 0.04 * t, 0.2, 0.1], [1.0, -0.8, 0.1], [-2.0, 0.0, 0.1]]),
        visible=np.array([True, True, False]),
        extent_px=np.array([6.0, 9.0, 0.0]),
        image_location=np.array([[0.45, 0.4], [0.8, 0.55], [3.0, 0.5]]),
    )
    context = Context(t / 10, np.array([0.04 * t, 0.0, 0.01 * t]), STAND_COMMAND)
    return RecordedFrame(view, context, (0.04 * t, 0.0, 0.01 * t), OWN, "to the red cube")


FRAMES = [frame(t) for t in range(60)]


@pytest.fixture(scope="module")
def labels():
    return relabel(SHIPPED, FRAMES, np.random.default_rng(0), CONFIG)


def test_shapes(labels):
    shape = (len(FRAMES), CONFIG.per_frame)
    assert labels.instruction.shape == labels.status.shape == shape
    assert labels.context.shape == (*shape, 4)
    assert labels.commands.shape == (*shape, CHUNK_STEPS, COMMAND_DIM)
    assert labels.slots.shape == (*shape, len(SHIPPED.slots))
    assert labels.target_location.shape == (*shape, 2)
    assert labels.instruction.max() < len(labels.instructions)


def test_every_label_is_what_the_expert_says_directly(labels):
    for t, moment in enumerate(FRAMES):
        for k in range(CONFIG.per_frame):
            meaning = SHIPPED.language.from_slots(labels.slots[t, k])
            elapsed_s, *odometry = labels.context[t, k]
            context = Context(elapsed_s, np.array(odometry), moment.context.command)
            expert = SHIPPED.skill(meaning).expert
            commands, status = experts.act(expert, meaning, moment.view, context)
            np.testing.assert_allclose(labels.commands[t, k], commands, atol=2e-3)
            assert labels.status[t, k] == status


def test_the_first_label_is_the_instruction_itself(labels):
    assert {labels.instructions[i] for i in labels.instruction[:, 0]} == {"to the red cube"}
    np.testing.assert_allclose(labels.context[:, 0, 0], np.arange(60) / 10, rtol=1e-6)
    assert {SHIPPED.language.from_slots(slots) for slots in labels.slots[:, 0]} == {OWN}


def test_the_location_is_that_of_the_one_object_named_if_it_is_seen(labels):
    locations = labels.target_location
    assert np.allclose(locations[:, 0], [0.45, 0.4], atol=1e-3), "the red cube is in view"
    for t, k in np.ndindex(labels.status.shape):
        meaning, location = SHIPPED.language.from_slots(labels.slots[t, k]), locations[t, k]
        if meaning.skill not in ("go_to", "point_at"):
            assert np.isnan(location).all()
        elif (meaning.colour, meaning.shape) == ("blue", "ball"):
            assert location == pytest.approx([0.8, 0.55], abs=1e-3)
        elif (meaning.colour, meaning.shape) == ("green", "cone"):
            assert (location == -1).all(), "behind the robot"


def test_the_others_say_many_things(labels):
    actions = {
        SHIPPED.language.from_slots(slots).skill for slots in labels.slots[:, 1:].reshape(-1, 6)
    }
    assert len(actions) >= 11
    assert {int(Status.ACTING), int(Status.DONE), int(Status.REFUSED)} <= set(labels.status.flat)


def test_half_of_the_objects_asked_for_are_in_view():
    labels = relabel(SHIPPED, FRAMES * 2, np.random.default_rng(1), CONFIG)
    asked = [SHIPPED.language.from_slots(slots) for slots in labels.slots[:, 1:].reshape(-1, 6)]
    pairs = list(zip(COLOURS, SHAPES, strict=True))
    there = [m for m in asked if m.skill == "go_to" and (m.colour, m.shape) in pairs]
    seen = np.mean([m.shape != "cone" for m in there])
    assert 0.5 < seen < 0.95


def test_equal_seeds_give_equal_labels(labels):
    again = relabel(SHIPPED, FRAMES, np.random.default_rng(0), CONFIG)
    assert again.instructions == labels.instructions
    np.testing.assert_array_equal(again.commands, labels.commands)


def test_an_earlier_start_counts_from_there():
    rng = np.random.default_rng(3)
    for _ in range(20):
        context = earlier_start(FRAMES, 50, rng, drift=0.0)
        frames_ago = round(context.elapsed_s * 10)
        # Seen from a start that was turned by 0.01 rad a frame.
        heading = 0.01 * (50 - frames_ago)
        distance = 0.04 * frames_ago
        expected = [distance * np.cos(heading), -distance * np.sin(heading), 0.01 * frames_ago]
        np.testing.assert_allclose(context.odometry, expected, atol=1e-9)


def test_an_imagined_search_comes_to_its_end():
    rng = np.random.default_rng(4)
    meaning = Intent("go_to", "purple", "ball")
    start, now = SHIPPED.skill(meaning).imagined_start, FRAMES[0].context
    turned = [start(meaning, now, True, rng).odometry[2] for _ in range(200)]
    past = np.mean(np.array(turned) > SEARCH_LIMIT_RAD)
    assert 0.1 < past < 0.35


def test_an_imagined_walk_is_often_nearly_over():
    rng = np.random.default_rng(5)
    meaning = Intent("walk_backward", amount="distance_2")
    start, now = SHIPPED.skill(meaning).imagined_start, FRAMES[0].context
    gone = [-start(meaning, now, False, rng).odometry[0] for _ in range(200)]
    assert min(gone) < 0.5
    assert np.mean(np.abs(np.array(gone) - 2.0) < 0.3) > 0.4
