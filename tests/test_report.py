"""The report of an evaluation: numbers by hand, a page that is whole, quiet and safe to open."""

from html.parser import HTMLParser

import numpy as np
import pytest

from bridge.contract import ActionChunk, InferenceStats, Status
from robots.g1.embodiment import CHUNK_STEPS, STAND_COMMAND
from sim.render.video import CLIP_PICTURES, Frame, clip_frames, draw_clip
from sim.scene import Scene, scene_spec
from tasks.evaluation.evaluate import EvaluateConfig, figures_of
from tasks.evaluation.evaluate import expert_use as use_of_episode
from tasks.evaluation.report import Clip, confusion, expert_use, page, rank, rates
from tasks.language.intent import COLOURS, SHAPES

VOID = {"meta", "img", "br", "link"}
RED_BALL = {"colour": "red", "shape": "ball"}
BLUE_CUBE = {"colour": "blue", "shape": "cube"}


def row(**changes):
    """An episode that went well."""
    made = {
        "family": "go_to",
        "split": "train",
        "index": 0,
        "success": True,
        "fell": False,
        "done_said": True,
        "said": "done",
        "time_s": 8.0,
        "wording": "go to the red ball",
        "asked": RED_BALL,
        "nearest": RED_BALL,
        "nearest_m": 0.5,
        "reached": RED_BALL,
        "latencies_ms": [10.0, 20.0, 30.0],
    }
    return made | changes


ROWS = [
    row(),
    row(index=1, success=False, nearest=BLUE_CUBE, nearest_m=0.4, reached=BLUE_CUBE),
    row(index=2, success=False, nearest=BLUE_CUBE, nearest_m=2.0, reached=None, said="refused"),
    row(
        index=3,
        asked=BLUE_CUBE,
        nearest=BLUE_CUBE,
        reached=BLUE_CUBE,
        wording="go to the blue cube",
    ),
]


class Page(HTMLParser):
    """Every text, attribute and tag of a page; complains of tags that do not match."""

    def __init__(self, content: str):
        super().__init__()
        self.texts, self.links, self.tags, self._open = [], [], [], []
        self.feed(content)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "srcset")]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def of(rows, known=None, clips=()):
    figures = figures_of(rows, EvaluateConfig((rows[0]["family"],)))
    return page(rows, figures, known or {}, "hitogata evaluate --families go_to", clips)


def test_rates_have_wilson_s_intervals() -> None:
    known = {"heldout_go_to_success": 0.35, "heldout_go_to_success_episodes": 60, "chunk_p50_ms": 9}
    first, second = rates(figures_of(ROWS, EvaluateConfig(("go_to",))), known)
    assert (first.name, first.split, first.right, first.tried) == ("go_to", "train", 2, 4)
    # By hand: n = 4, p = 1/2, z = 1.96: centre 1/2, half width z / (2 sqrt(n + z^2)) = 0.350.
    assert (first.low, first.high) == (
        pytest.approx(0.150, abs=1e-3),
        pytest.approx(0.850, abs=1e-3),
    )
    assert (second.split, second.right, second.here) == ("heldout", 21, False)


def test_a_new_figure_replaces_the_one_that_was_known() -> None:
    known = {"go_to_success": 0.9, "go_to_success_episodes": 10}
    (only,) = rates(figures_of(ROWS, EvaluateConfig(("go_to",))), known)
    assert (only.right, only.tried, only.here) == (2, 4, True)


def test_confusion_counts_what_was_asked_against_what_was_reached() -> None:
    colours = confusion(ROWS, "colour", COLOURS)
    red, blue, none = COLOURS.index("red"), COLOURS.index("blue"), len(COLOURS)
    assert (colours[red, red], colours[red, blue], colours[red, none]) == (1, 1, 1)
    assert colours[blue, blue] == 1 and colours.sum() == 4
    shapes = confusion([*ROWS, row(asked=None)], "shape", SHAPES)
    assert shapes[SHAPES.index("ball")].tolist() == [1, 1, 0, 0, 1]


def test_the_page_tells_the_numbers() -> None:
    texts = "\n".join(Page(of(ROWS)).texts)
    assert "2 of 4: 15% to 85%" in texts
    # 12 answers: four of each 10, 20 and 30 ms.
    assert "p50 20.0 ms, p95 30.0 ms, slowest 30.0 ms, 12 answers" in texts
    assert "1 said done, 1 said refused" in texts
    assert "2.0 m from the blue cube" in texts


def test_the_page_is_whole_and_fetches_nothing() -> None:
    content = of(ROWS, clips=[Clip("best run", ROWS[0], b"RIFF0000WEBP")])
    found = Page(content)
    assert found.links == ["data:image/webp;base64,UklGRjAwMDBXRUJQ"]
    assert not {"script", "link", "iframe"} & set(found.tags)
    assert "http://" not in content and "https://" not in content and "url(" not in content
    assert "default-src 'none'" in content


def test_words_cannot_become_markup() -> None:
    evil = row(success=False, wording="<script>alert('&')</script>", said="<b>")
    content = of([evil], clips=[Clip("worst run", evil, b"")])
    assert "script" not in Page(content).tags and "<b>" not in content
    assert content.count("&lt;script&gt;alert(&#x27;&amp;&#x27;)") == 2


def test_experts_are_counted_per_layer_and_family() -> None:
    rows = [
        row(expert_use=[[0.5, 0.5], [1.0, 0.0]]),
        row(expert_use=[[0.7, 0.3], [0.0, 1.0]]),
        row(family="walk", expert_use=[[0.25, 0.75], [1.0, 0.0]]),
        row(family="gesture", expert_use=[]),
    ]
    used = expert_use(rows)
    assert list(used) == ["go_to", "walk"]
    assert used["go_to"] == pytest.approx(np.array([[0.6, 0.4], [0.5, 0.5]]))
    texts = Page(of(rows)).texts
    start = texts.index("go to")
    assert texts[start : start + 9] == ["go to", "1", "2", "1", "60", "40", "2", "50", "50"]


def test_each_chunk_of_an_episode_counts_once() -> None:
    def chunk(*layers: tuple[float, ...]) -> ActionChunk:
        commands = np.tile(STAND_COMMAND, (CHUNK_STEPS, 1))
        return ActionChunk(0.0, commands, Status.ACTING, 1.0, {}, InferenceStats(layers))

    long, short, bare = chunk((1.0, 0.0)), chunk((0.0, 1.0)), chunk()
    played = [None, long, long, long, short, bare]
    frames = [Frame(i / 50, np.zeros(7), chunk) for i, chunk in enumerate(played)]
    assert use_of_episode(frames) == [[0.5, 0.5]]
    assert use_of_episode(frames[:1]) == []


def test_sections_without_data_are_left_out() -> None:
    bare = row(family="gesture", asked=None, nearest=None, latencies_ms=[])
    content = of([bare])
    assert "Which object" not in content and "Clips" not in content and "chunk" not in content
    assert "Nothing." in content


def test_runs_are_ranked_from_falling_to_quick_success() -> None:
    fell = row(success=False, fell=True, done_said=False)
    wrong, slow, quick = row(success=False), row(time_s=20.0), row(time_s=5.0)
    assert sorted([quick, fell, slow, wrong], key=rank) == [fell, wrong, slow, quick]


def test_a_clip_shows_a_run_from_first_to_last() -> None:
    model = scene_spec(Scene()).compile()
    frames = [Frame(i / 50, model.qpos0 + i * 1e-3, None) for i in range(200)]
    kept = clip_frames(frames)
    assert len(kept) == CLIP_PICTURES
    assert (kept[0].time_s, kept[-1].time_s) == (0.0, 199 / 50)
    webp = draw_clip(model, kept[:3])
    assert webp[:4] == b"RIFF" and webp[8:12] == b"WEBP" and b"ANMF" in webp
    assert np.array_equal(clip_frames(frames[:5])[2].qpos, frames[2].qpos)
