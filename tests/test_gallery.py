"""The gallery: animations small enough for a page, and plots of whatever was measured."""

import io
import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bridge.contract import UserError
from hitogata.gallery import INSTRUCTIONS, GalleryConfig, draw_gallery, write_plots
from sim.render.video import EVERY, Frame, write_animation
from sim.scene import Scene, sample_scene
from sim.world import World
from tasks.catalogue import SHIPPED
from tasks.episode import ExpertPolicy
from tasks.evaluation.run import fitting_seeds
from tasks.language.intent import Intent
from tasks.language.parse import read_wording
from tasks.success import named_object

BLUE_CUBE = Intent("point_at", colour="blue", shape="cube")


def still_run(length: int) -> tuple[World, list[Frame]]:
    world = World(Scene(), render=False)
    return world, [Frame(i / 50, world.qpos(), None) for i in range(length)]


def test_an_animation_has_a_picture_of_every_fourth_frame(tmp_path: Path) -> None:
    world, frames = still_run(4 * EVERY)
    frames[-EVERY].qpos[0] += 0.5  # pictures that are alike would be joined
    write_animation(tmp_path / "run.webp", world.model, frames, "stop", 2_000_000)
    with Image.open(tmp_path / "run.webp") as picture:
        assert picture.size == (560, 264)
        assert picture.n_frames >= 2
        shown_ms = 0
        for i in range(picture.n_frames):
            picture.seek(i)
            picture.load()
            shown_ms += picture.info["duration"]
        assert shown_ms == 4 * 80


def test_an_animation_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    world, frames = still_run(2)
    with pytest.raises(UserError, match="larger than 100 bytes"):
        write_animation(tmp_path / "run.webp", world.model, frames, "stop", 100)
    assert not list(tmp_path.iterdir())


def test_every_instruction_of_the_gallery_can_be_judged() -> None:
    assert [read_wording(text, SHIPPED.language) for text in INSTRUCTIONS.values()] == [
        Intent("go_to", colour="red", shape="ball"),
        Intent("wave", side="left"),
        Intent("walk_forward", amount="distance_2"),
        BLUE_CUBE,
    ]


def test_scenes_that_fit_have_the_object() -> None:
    seeds = list(islice(fitting_seeds(BLUE_CUBE), 3))
    assert seeds == sorted(set(seeds))
    for seed in seeds:
        scene = sample_scene(np.random.default_rng(seed))
        assert named_object(BLUE_CUBE, scene) is not None
    assert list(islice(fitting_seeds(None), 3)) == [0, 1, 2]


def test_plots_show_what_was_measured(tmp_path: Path) -> None:
    figures = {"go_to_success": 0.5, "go_to_success_interval": [0.4, 0.6]}
    results, folder = tmp_path / "results", tmp_path / "images"
    results.mkdir()
    assert write_plots(results, folder) == []
    (results / "chain.json").write_text(json.dumps({"figures": figures}), encoding="utf-8")
    assert [path.name for path in write_plots(results, folder)] == ["success.png"]
    figures |= {"chunk_p50_ms": 10.0, "chunk_p95_ms": 12.0, "chunk_p50_ms_36_tokens": 9.0}
    (results / "chain.json").write_text(json.dumps({"figures": figures}), encoding="utf-8")
    for path in write_plots(results, folder):
        Image.open(io.BytesIO(path.read_bytes())).verify()


@pytest.mark.parametrize("config", [GalleryConfig(only=("dance",)), GalleryConfig(tries=0)])
def test_what_cannot_be_drawn_is_refused(config: GalleryConfig) -> None:
    expert = SHIPPED.skills["wave"].expert
    policy = ExpertPolicy(World(Scene(), render=False), Intent("wave"), expert)
    with pytest.raises(UserError):
        draw_gallery(policy, config)


def test_a_gallery_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch) -> None:
    made: list[str] = []
    monkeypatch.setattr("hitogata.gallery._animate", lambda policy, told, *_: made.append(told))
    (tmp_path / "wave.webp").write_bytes(b"")
    policy = ExpertPolicy(
        World(Scene(), render=False), Intent("wave"), SHIPPED.skills["wave"].expert
    )
    config = GalleryConfig(out=tmp_path, results=tmp_path, resume=True)
    draw_gallery(policy, config)
    assert len(made) == len(INSTRUCTIONS) - 1 and INSTRUCTIONS["wave"] not in made
