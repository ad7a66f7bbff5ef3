"""Random scenes, and what the head camera sees of them."""

import colorsys
import gc
import json
from dataclasses import replace

import mujoco
import numpy as np
import pytest

from bridge.contract import UserError
from robots.g1.embodiment import IMAGE_SIZE
from robots.g1.facts import facts, joint_facts
from sim.objects import COLOURS, SHADES, SHAPES, SceneObject
from sim.render import camera
from sim.render.camera import HeadCamera, ThirdPerson, opengl_renderer
from sim.render.visibility import Visibility
from sim.scene import Scene, sample_scene, scene_spec
from sim.world import World


def thing(shape: str, colour: str, rgb: tuple, x: float, y: float = 0.0) -> SceneObject:
    return SceneObject(shape, colour, rgb, size_m=0.15, x_m=x, y_m=y, yaw_rad=0.3)


def standing(scene: Scene) -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = scene_spec(scene).compile()
    data = mujoco.MjData(model)
    data.qpos[2] = facts()["pelvis_home_height_m"]
    data.qpos[7:36] = joint_facts("home_rad")
    mujoco.mj_forward(model, data)
    return model, data


def hue_deg(rgb) -> float:
    return colorsys.rgb_to_hsv(*rgb)[0] * 360


def test_equal_seeds_give_equal_scenes_and_others_do_not():
    first, again, other = (sample_scene(np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert first == again != other


def test_a_scene_survives_json():
    scene = sample_scene(np.random.default_rng(3))
    assert Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene


def test_every_sampled_scene_is_one_that_files_may_hold():
    rng = np.random.default_rng(0)
    for _ in range(200):
        scene = sample_scene(rng)
        assert Scene.from_dict(scene.to_dict()) == scene


def cube(**changed) -> dict:
    return {**vars(thing("cube", "red", (1, 0, 0), 1)), **changed}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([], r"the whole is \[\]: Expected `object`"),
        ({"objects": 3}, "objects is 3: Expected `array`"),
        ({"objects": [3]}, r"objects\[0\] is 3: Expected `object`"),
        ({"objects": [{"shape": "cube"}]}, r"objects\[0\] is .*required field `colour`"),
        ({"objects": [cube(shape="pear")]}, "no shape 'pear'; choose one of cube"),
        ({"objects": [cube(colour="pink")]}, "no colour 'pink'; choose one of red"),
        ({"objects": [cube(size_m=0)]}, r"objects\[0\]\.size_m is 0: Expected `float` >= 0.02"),
        ({"objects": [cube(size_m=1e9)]}, r"size_m is 1000000000.0: Expected `float` <= 0.5"),
        ({"objects": [cube(size_m=-0.1)]}, "size_m is -0.1"),
        ({"objects": [cube(x_m=np.nan)]}, r"objects\[0\]\.x_m is NaN"),
        ({"objects": [cube(y_m=np.inf)]}, r"objects\[0\]\.y_m is Infinity"),
        ({"objects": [cube(yaw_rad="left")]}, 'yaw_rad is "left"'),
        ({"objects": [cube(rgb=[1, 0])]}, r"rgb is \[1, 0\]: Expected `array` of length 3"),
        ({"objects": [cube(rgb=[1, 0, 9])]}, r"rgb\[2\] is 9"),
        ({"objects": [cube(mass_kg=1)]}, "no field 'mass_kg', but shape, colour"),
        ({"objects": [cube(x_m=0.2)]}, r"objects\[0\] at x_m 0.2, y_m 0 is in the robot"),
        ({"objects": [cube(x_m=5.4)]}, "outside the walls: they are at 5.5 m"),
        ({"objects": [cube(), cube(y_m=0.1)]}, r"objects\[0\] and objects\[1\] are in each"),
        ({"objects": [cube()] * 25}, "objects is .*of length <= 24"),
        ({"wall_m": "five"}, 'wall_m is "five": Expected `float`, got `str`'),
        ({"wall_m": 0}, "wall_m is 0"),
        ({"floor_rgb": [0.1, 0.2]}, r"floor_rgb is \[0.1, 0.2\]"),
        ({"light_direction": [0, 0, 0]}, "light_direction is .*must be negative"),
        ({"light_level": -1}, "light_level is -1"),
        ({"friction": 0}, "friction is 0"),
        ({"camera_pitch_rad": 3}, "camera_pitch_rad is 3"),
        ({"camera_offset_m": [0, 0, 5]}, r"camera_offset_m\[2\] is 5"),
        ({"walls": 4}, "no field 'walls', but objects, floor_rgb"),
    ],
)
def test_what_is_no_scene_is_told_by_field_and_value(content: object, complaint: str):
    with pytest.raises(UserError, match=complaint) as caught:
        Scene.from_dict(content)
    assert "\n" not in str(caught.value)


def test_objects_are_unique_in_reach_and_well_apart():
    rng = np.random.default_rng(0)
    for _ in range(200):
        objects = sample_scene(rng).objects
        assert 3 <= len(objects) <= 5
        assert len({(o.colour, o.shape) for o in objects}) == len(objects)
        distances = np.hypot([o.x_m for o in objects], [o.y_m for o in objects])
        assert np.all((distances >= 1.2) & (distances <= 3.5))
        bearings = np.sort(np.arctan2([o.y_m for o in objects], [o.x_m for o in objects]))
        gaps = np.diff(np.append(bearings, bearings[0] + 2 * np.pi))
        assert np.all(gaps >= np.deg2rad(40) - 1e-9)


def test_every_colour_and_shape_comes_up():
    rng = np.random.default_rng(1)
    seen = {(o.colour, o.shape) for _ in range(150) for o in sample_scene(rng).objects}
    assert len(seen) == len(COLOURS) * len(SHAPES)


def test_shades_never_overlap_and_scenery_is_dull():
    rng = np.random.default_rng(2)
    for _ in range(200):
        scene = sample_scene(rng)
        for o in scene.objects:
            nearest = min(
                SHADES, key=lambda c: abs((hue_deg(o.rgb) - SHADES[c][0] + 180) % 360 - 180)
            )
            assert nearest == o.colour
            assert colorsys.rgb_to_hsv(*o.rgb)[1] >= 0.79
        for rgb in (scene.floor_rgb, scene.wall_rgb):
            assert colorsys.rgb_to_hsv(*rgb)[1] <= 0.15


def test_objects_rest_where_they_were_put():
    scene = sample_scene(np.random.default_rng(5), 4)
    model, data = standing(scene)
    mujoco.mj_step(model, data, 150)
    for i, o in enumerate(scene.objects):
        assert data.body(f"object_{i}").xpos == pytest.approx([o.x_m, o.y_m, o.size_m], abs=0.01)
        assert data.body(f"object_{i}").xmat[8] > 0.99


def test_the_robot_touches_floor_and_objects_but_never_itself():
    model, data = standing(Scene(objects=(thing("cube", "red", (1, 0, 0), 0.2),)))
    rng = np.random.default_rng(0)
    low, high = joint_facts("range_rad").T
    pairs = set()
    for _ in range(20):
        data.qpos[7:36] = rng.uniform(low, high)
        data.qpos[2] = 0.5
        mujoco.mj_forward(model, data)
        for contact in data.contact:
            pairs.add(tuple(sorted(model.geom(int(g)).name or "limb" for g in contact.geom)))
    assert ("limb", "limb") not in pairs
    assert {("limb", "object_0"), ("floor", "limb")} <= pairs


def test_feet_alone_touch_the_floor_while_standing():
    model, data = standing(Scene())
    mujoco.mj_step(model, data, 3)
    names = {model.geom(int(g)).name for contact in data.contact for g in contact.geom}
    assert names == {"floor"} | {f"{s}_foot_{i}" for s in ("left", "right") for i in range(4)}


@pytest.mark.parametrize("distance", [0.5, 1.0, 2.0, 3.5])
def test_the_head_camera_shows_an_objects_colour_where_it_should_be(distance):
    objects = (thing("ball", "red", (0.9, 0.05, 0.05), distance),)
    model, data = standing(Scene(objects=objects))
    camera = HeadCamera(model)
    picture = camera.draw(data).astype(int)
    camera.close()
    assert picture.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
    red = (picture[..., 0] > 2 * picture[..., 1]) & (picture[..., 0] > 2 * picture[..., 2])
    rows, columns = np.nonzero(red)
    assert len(rows) >= 6
    # The ball's centre by hand: 42 degrees down, 80 degrees over 96 rows, from the camera's place.
    eye = data.cam("head").xpos
    down = np.arctan2(eye[2] - 0.15, distance - eye[0]) - np.deg2rad(42)
    row = IMAGE_SIZE / 2 * (1 + np.tan(down) / np.tan(np.deg2rad(40)))
    assert rows.mean() + 0.5 == pytest.approx(row, abs=2.0)
    assert abs(columns.mean() + 0.5 - IMAGE_SIZE / 2) < 4


def test_visibility_agrees_with_the_pictures_pixels():
    """Visible objects cover pixels, and those that are not cover next to none."""
    rng = np.random.default_rng(11)
    for _ in range(6):
        scene = replace(sample_scene(rng, 5), light_level=1.0)
        model, data = standing(scene)
        data.qpos[3:7] = [1, 0, 0, 0]
        camera, visibility = HeadCamera(model), Visibility(model, scene)
        seen, extent, place = visibility.look(data)
        camera.scene.flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = True
        camera.scene.flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = True
        ids = camera.draw(data)[..., 0].astype(int)
        geoms = {g.objid: g.segid + 1 for g in camera.scene.geoms[: camera.scene.ngeom]}
        for i in range(5):
            rows, columns = np.nonzero(ids == geoms[model.geom(f"object_{i}").id])
            pixels = len(rows)
            assert pixels >= 5 if seen[i] else pixels < 60
            assert (extent[i] > 0) == seen[i]
            if seen[i] and place[i].min() > 0.1 and place[i].max() < 0.9:
                middle = np.array([columns.mean(), rows.mean()]) + 0.5
                assert np.abs(middle - place[i] * IMAGE_SIZE).max() < max(2, extent[i] / 2)
        camera.close()


def test_an_object_behind_another_is_not_seen():
    hidden = (thing("cube", "red", (1, 0, 0), 1.2), thing("ball", "blue", (0, 0, 1), 1.55))
    small = replace(hidden[1], size_m=0.05)
    scene = Scene(objects=(hidden[0], small))
    model, data = standing(scene)
    assert Visibility(model, scene).look(data)[0].tolist() == [True, False]


def test_camera_jitter_moves_the_camera_as_said():
    nominal = standing(Scene())[1].cam("head")
    moved = standing(Scene(camera_pitch_rad=0.03, camera_offset_m=(0.01, 0.0, -0.005)))[1].cam(
        "head"
    )
    assert moved.xpos - nominal.xpos == pytest.approx([0.01, 0, -0.005], abs=1e-9)
    forward = -moved.xmat.reshape(3, 3)[:, 2]
    down = np.arctan2(-forward[2], forward[0])
    assert down == pytest.approx(np.deg2rad(42) + 0.03, abs=1e-6)


def test_views_are_drawn_and_drawing_twice_gives_the_same():
    assert opengl_renderer()
    model, data = standing(sample_scene(np.random.default_rng(4)))
    view = ThirdPerson(model, size=(160, 120))
    first = view.draw(data)
    assert first.shape == (120, 160, 3) and first.std() > 10
    assert np.array_equal(first, view.draw(data))
    view.close()


def test_cameras_of_one_process_do_not_disturb_each_other():
    model, data = standing(sample_scene(np.random.default_rng(4)))
    other_model, other_data = standing(sample_scene(np.random.default_rng(5)))
    head = HeadCamera(model)
    before = head.draw(data)
    view, other = ThirdPerson(model, size=(160, 120)), HeadCamera(other_model)
    view.draw(data)
    assert not np.array_equal(other.draw(other_data), before)
    assert np.array_equal(head.draw(data), before)
    view.close()
    other.close()
    assert np.array_equal(head.draw(data), before)
    head.close()


def test_what_a_dropped_camera_held_is_freed_by_the_next_picture():
    dropped, kept = (World(Scene()) for _ in range(2))
    dropped.observe()
    left = len(camera._LEFT)
    del dropped
    gc.collect()
    assert len(camera._LEFT) == left + 1
    kept.observe()
    assert not camera._LEFT
    kept.close()
    kept.close()  # twice is once
    assert not camera._LEFT
