"""The console's page in a real browser without a window, in front of real robots.

With HITOGATA_SCREENSHOTS=docs/images the pictures of the documentation are made anew.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from bridge.operator.client import Operator
from sim.scene import sample_scene
from tests.doubles import working_station
from tests.test_console import console_of, free_port

pytest.importorskip("selenium", reason="pip install selenium")
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

ROOT = Path(__file__).parent.parent
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (BROWSER and DRIVER),
        reason="no browser is installed: apt-get install chromium chromium-driver",
    ),
]

WAIT_S = 120.0
# An object near the robot and before it; half the speed leaves a busy machine time to think.
SEED, OBJECT, SPEED = 22, ("yellow", "ball"), 0.5
NEAR_M = 0.9
T = TypeVar("T")

# What the page is asked about itself; elements that are not shown do not count.
_SHOWN = """
const all = (selector) => [...document.querySelectorAll(selector)];
const shown = (selector) => all(selector).filter((e) => e.checkVisibility());
const controls = () => shown("button:enabled, input:enabled, summary, iframe");
const text = (e) => e.textContent.trim();
const called = (e) => e.id || text(e);
const parts = (colour) => colour.match(/[0-9.]+/g).map(Number);
const linear = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
const behind = (e) => {
  const colour = parts(getComputedStyle(e).backgroundColor);
  return colour.length < 4 || colour[3] ? colour : behind(e.parentElement);
};
const contrast = (e) => {
  const both = [light(parts(getComputedStyle(e).color)), light(behind(e))];
  return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
};
const speaks = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
"""
SMALLEST_PX = f"""{_SHOWN}
const sizes = shown("body *").map((e) => parseFloat(getComputedStyle(e).fontSize));
return Math.min(...sizes);"""
OPERABLE = f"{_SHOWN} return controls().map(called);"
NAMELESS = f"""{_SHOWN}
const named = (e) => e.labels?.length || e.ariaLabel || e.title || text(e);
return controls().filter((e) => !named(e)).map(called);"""
# Name, width of the outline, and whether nothing covers the middle of the focused element.
FOCUSED = f"""{_SHOWN}
const e = document.activeElement, box = e.getBoundingClientRect(), style = getComputedStyle(e);
const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
const wide = style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth);
return e === document.body ? ["", 9, true] : [called(e), wide, e.contains(top)];"""
# Texts with less contrast than WCAG 2.2 asks in 1.4.3.
FAINT = f"""{_SHOWN}
const texts = shown("body *:not(:disabled)").filter(speaks);
return texts.filter((e) => contrast(e) < 4.5).map((e) => [called(e), contrast(e)]);"""

# What the mouse of the frame is made to do from now on.
WATCH_MOUSE = """
window.done = [];
const turned = (e) => Math.sign(e.deltaY ?? 0);
const note = (e) => done.push([e.type, e.movementX, e.movementY, e.buttons, turned(e)]);
for (const type of ["mousemove", "mousedown", "mouseup", "wheel"])
  document.getElementById("canvas").addEventListener(type, note, true);"""


class Page:
    """One window of a browser, read and used as a person would."""

    def __init__(self, driver: webdriver.Chrome, place: str) -> None:
        self.driver = driver
        driver.get(place)
        self.wait(lambda: self.text("link") == "connected")

    def text(self, element: str) -> str:
        return self.driver.find_element(By.ID, element).text

    def data(self, element: str, name: str) -> str:
        return self.driver.find_element(By.ID, element).get_attribute(f"data-{name}") or ""

    def wait(self, condition: Callable[[], T], within_s: float = WAIT_S) -> T:
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if found := condition():
                return found
            time.sleep(0.05)
        state = {name: self.text(name) for name in ("link", "level", "cause", "status", "answer")}
        raise AssertionError(f"the page never showed it; it shows {state}")

    def tell(self, text: str) -> None:
        field = self.driver.find_element(By.ID, "text")
        field.send_keys(text, Keys.ENTER)

    def alt(self, letter: str) -> None:
        ActionChains(self.driver).key_down(Keys.ALT).send_keys(letter).key_up(Keys.ALT).perform()

    def level(self, level: str) -> None:
        self.wait(lambda: self.data("level", "level") == level)

    def shot(self, name: str) -> None:
        if folder := os.environ.get("HITOGATA_SCREENSHOTS"):
            time.sleep(1.0)
            self.driver.save_screenshot(str(ROOT / folder / name))


@contextmanager
def a_browser(width: int = 1280, height: int = 900) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--mute-audio"):
        options.add_argument(flag)
    options.add_argument(f"--window-size={width},{height}")
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_script_timeout(WAIT_S)
    driver.set_page_load_timeout(WAIT_S)
    try:
        yield driver
    finally:
        driver.quit()


@contextmanager
def a_commanding_page(
    folder: Path, window: tuple[int, int] = (1280, 900), metrics: Mapping[str, float] | None = None
) -> Iterator[Page]:
    """A console in front of a robot without a scene, and the page that commands it.

    `metrics`, of the browser's device, are what the page sees where no window can be as small.
    """
    port = free_port()
    with (
        working_station(folder) as (_, address),
        console_of(address, folder, port),
        a_browser(*window) as driver,
    ):
        if metrics:
            given = {**metrics, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", given)
        page = Page(driver, f"http://127.0.0.1:{port}/")
        page.wait(lambda: "commands" in page.text("role"))
        yield page


@contextmanager
def started(*command: str) -> Iterator[str]:
    """The last word of the first line of a `hitogata` process."""
    line = [sys.executable, "-m", "hitogata", *command]
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        assert process.wait(WAIT_S) == 0


def test_a_person_talks_to_the_robot(tmp_path: Path) -> None:
    """It walks to the object, changes its mind in mid-action, and stops in mid-walk."""
    robot, box = f"ipc://{tmp_path}/robot.sock", str(tmp_path / "box")
    web = f"http://127.0.0.1:{free_port()}"
    reach = ["--seed", str(SEED), "--address", robot, "--recordings", box, "--speed", str(SPEED)]
    with (
        started("simulate", *reach),
        started("console", "--connect", robot, "--address", web, "--recordings", box) as place,
        a_browser() as driver,
        Operator(robot, "a witness", WAIT_S) as witness,
    ):
        page = Page(driver, place)
        page.level("HOLD")
        page.wait(lambda: page.text("suggestions"))
        driver.find_element(By.ID, "record").click()
        page.tell(f"walk to the {' '.join(OBJECT)}")
        page.level("RUN")
        page.wait(lambda: "yellow ball" in page.text("understood"))
        page.shot("console.png")
        page.wait(lambda: page.data("status", "status") == "done")
        assert _distance_m(witness) < NEAR_M, "the true state"
        driver.find_element(By.ID, "record").click()

        page.tell("walk backward two metres")
        page.wait(lambda: "backward" in page.text("understood"))
        assert _takes_effect_s(witness, page, "turn left", "turn_left") < 1.0
        page.wait(lambda: "turn left" in page.text("understood"))
        page.tell("walk forward three metres")
        page.wait(lambda: _speed_m_s(page) > 0.1)
        driver.find_element(By.TAG_NAME, "body").send_keys(Keys.ESCAPE)
        page.level("SAFE_STAND")
        assert int(page.wait(lambda: page.data("stopped", "ms"))) < 1000
        page.shot("console_stopped.png")
        page.wait(lambda: "recorded" in page.text("film"))
    assert list((tmp_path / "box").glob("console-*.mp4"))


def _distance_m(witness: Operator) -> float:
    told = witness.telemetry(WAIT_S)
    assert told is not None and told.qpos is not None and told.scene == SEED
    scene = sample_scene(np.random.default_rng(SEED))
    index = [(thing.colour, thing.shape) for thing in scene.objects].index(OBJECT)
    objects = np.frombuffer(told.qpos)[-7 * len(scene.objects) :].reshape(-1, 7)
    assert told.base_pose is not None
    return float(np.hypot(*(objects[index, :2] - told.base_pose[:2])))


def _takes_effect_s(witness: Operator, page: Page, words: str, action: str) -> float:
    """Seconds of the robot's own time from an instruction's arrival to a chunk made of it."""
    moments = []

    def understood() -> bool:
        return bool(moments) and moments[-1].understood.get("action") == action

    def watch() -> None:
        deadline = time.monotonic() + WAIT_S
        while not understood() and time.monotonic() < deadline:
            told = witness.telemetry(WAIT_S)
            if told is not None:
                moments.append(told)

    watching = threading.Thread(target=watch)
    watching.start()
    page.tell(words)
    watching.join()
    assert understood()
    return moments[-1].time_s - next(m.time_s for m in moments if m.instruction == words)


def _speed_m_s(page: Page) -> float:
    return float(page.text("speed").split()[0].replace("-", "0"))


def test_a_second_page_watches_and_one_that_comes_back_commands(tmp_path: Path) -> None:
    port = free_port()
    place = f"http://127.0.0.1:{port}/"
    with working_station(tmp_path) as (_, address), a_browser() as driver:
        with console_of(address, tmp_path, port):
            first = Page(driver, place)
            first.wait(lambda: "this page commands" in first.text("role"))
            driver.switch_to.new_window("tab")
            second = Page(driver, place)
            second.wait(lambda: "watches" in second.text("role"))
            assert not driver.find_element(By.ID, "text").is_enabled()
            assert driver.find_element(By.ID, "stop").is_enabled()
            second.shot("console_watching.png")
            driver.close()
            driver.switch_to.window(driver.window_handles[0])
        first.wait(lambda: "trying again" in first.text("link"))
        driver.find_element(By.ID, "stop").click()
        first.wait(lambda: "NOT stopped" in first.text("stopped"))
        with console_of(address, tmp_path, port):
            first.wait(lambda: first.text("link") == "connected")
            first.wait(lambda: "this page commands" in first.text("role"))
            first.tell("walk on")
            first.level("RUN")


def test_bad_input_is_answered_in_words_and_stays_text(tmp_path: Path) -> None:
    with a_commanding_page(tmp_path) as page:
        driver = page.driver
        page.tell("")
        page.wait(lambda: "empty" in page.text("answer"))
        driver.execute_script("document.getElementById('text').value = 'a'.repeat(1 << 20)")
        page.tell("")
        page.wait(lambda: "1024" in page.text("answer"))
        markup = "<img src=x onerror=document.title='bad'>"
        page.tell(markup)
        page.wait(lambda: page.text("instruction") == markup)
        assert driver.title == "Hitogata console"
        page.tell("赤いボールまで歩いて")
        page.wait(lambda: "赤い" in page.text("instruction"))
        page.wait(lambda: "none of these words" in page.text("doubt"))
        page.wait(lambda: page.text("understood") == "it does not say")
        page.tell("walk on")
        page.wait(lambda: not page.text("doubt"))


def test_all_can_be_done_by_keyboard_and_read_on_a_small_screen(tmp_path: Path) -> None:
    telephone = {"width": 400, "height": 1500, "deviceScaleFactor": 1}
    with a_commanding_page(tmp_path, (500, 900), telephone) as page:
        driver = page.driver
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 400
        driver.find_element(By.CSS_SELECTOR, "#keys summary").click()
        page.wait(lambda: "stop, from anywhere" in page.text("keys"))
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 400
        assert driver.execute_script(SMALLEST_PX) >= 14
        reached = set()
        for _ in range(60):
            driver.switch_to.active_element.send_keys(Keys.TAB)
            name, outline_px, seen = driver.execute_script(FOCUSED)
            assert outline_px >= 2 and seen, f"the focus on {name} cannot be seen"
            reached.add(name)
        assert set(driver.execute_script(OPERABLE)) <= reached
        assert driver.execute_script(NAMELESS) == []
        page.tell("walk on")
        page.level("RUN")
        page.wait(lambda: page.text("instruction") == "walk on")
        page.driver.find_element(By.ID, "text").send_keys(Keys.ARROW_UP)
        assert page.driver.find_element(By.ID, "text").get_attribute("value") == "walk on"
        page.driver.find_element(By.ID, "text").send_keys(Keys.ESCAPE)
        page.level("SAFE_STAND")
        page.shot("console_narrow.png")
        assert driver.execute_script(FAINT) == []

        def released() -> bool:
            page.alt("r")  # in the moment of a stop this is refused
            return page.data("level", "level") == "HOLD"

        page.wait(released)
        page.alt("t")
        page.wait(lambda: driver.switch_to.active_element.get_attribute("id") == "text")
        page.alt("c")
        page.wait(lambda: "nobody commands" in page.text("role"))
        assert json.loads(page.data("state", "pose")) == [], "a robot that knows no truth"


def test_the_camera_of_the_3d_scene_has_keys(tmp_path: Path) -> None:
    """They reach MuJoCo's client as the mouse that it knows; Esc in its frame stops the robot."""
    # Without a graphics card each picture takes long, and with it each answer: few, small ones.
    small = {"width": 240, "height": 600, "deviceScaleFactor": 0.5}
    with a_commanding_page(tmp_path, metrics=small) as page:
        driver = page.driver
        page.alt("v")
        frame = page.wait(lambda: driver.find_elements(By.TAG_NAME, "iframe"))[0]
        driver.execute_script("arguments[0].focus()", frame)
        driver.switch_to.frame(frame)
        page.wait(lambda: driver.find_elements(By.ID, "canvas"))
        driver.execute_script(WATCH_MOUSE)
        keys = (Keys.ARROW_LEFT, Keys.ARROW_UP, "+", Keys.PAGE_DOWN, Keys.ESCAPE)
        ActionChains(driver).send_keys(*keys).perform()
        page.wait(lambda: len(driver.execute_script("return done")) >= 10)
        done = driver.execute_script("return done")
        drags, wheels = done[:-2], done[-2:]
        one_drag = ["mousemove", "mousedown", "mousemove", "mouseup"]
        assert [event[0] for event in drags] == one_drag * 2
        assert drags[2][1:4] == [24, 0, 1] and drags[6][1:4] == [0, 24, 1], "left, then up"
        assert wheels == [["wheel", 0, 0, 0, 1], ["wheel", 0, 0, 0, -1]], "closer, then away"
        driver.switch_to.default_content()
        page.level("SAFE_STAND")
