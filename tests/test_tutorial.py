"""The tutorial, carried out: its file is written, its commands are given, in miniature."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
# What is changed so that it takes a minute: the tutorial's text, and what stands in its place.
MINIATURE = {
    "--episodes 20": "--episodes 1 --processes 1",
    "--episodes 500": "--episodes 2 --processes 1 --most-s 3 --labels.wordings 2 --sentences 100",
    "--minutes 60": "--steps 3 --batch-size 8 --threads 1 --evaluate-steps 3",
    "--out runs/wings_bundle": "--out runs/wings_bundle --samples 4",
    "--families wings gesture": "--families wings",
    "--episodes 50": "--episodes 1 --processes 1 --no-clips",
    "--seed 7": "--seed 7 --time-limit-s 1",
}


def _blocks(language: str) -> list[str]:
    """The fenced blocks of a language; those in `console` are for people alone."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL)


def _in_miniature(commands: str) -> str:
    for text, small in MINIATURE.items():
        assert text in commands, f"the tutorial no longer says {text!r}"
        commands = commands.replace(text, small)
    return commands


def test_every_stage_has_a_command() -> None:
    names = re.findall(r"^hitogata (\w+)", "".join(_blocks("sh")), re.MULTILINE)
    stages = ["evaluate", "collect", "train", "export", "evaluate", "evaluate", "run"]
    assert names == stages


@pytest.mark.slow
def test_its_commands_lead_from_one_file_to_a_policy(tmp_path: Path) -> None:
    (file,) = _blocks("python")
    (tmp_path / "spread_arms.py").write_text(file, encoding="utf-8")
    script = (
        "set -euo pipefail\n"
        f'hitogata() {{ "{sys.executable}" -m hitogata "$@"; }}\n'
        + _in_miniature("\n".join(_blocks("sh")))
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (shown,) = json.loads((tmp_path / "out/expert/episodes.json").read_text(encoding="utf-8"))
    assert shown["success"] and shown["meaning"] == {"action": "spread_arms"}
    manifest = json.loads(
        (tmp_path / "runs/wings_bundle/manifest.json").read_text(encoding="utf-8")
    )
    assert manifest["slots"]["action"][-1] == "spread_arms"
    figures = json.loads((tmp_path / "out/wings.json").read_text(encoding="utf-8"))["figures"]
    assert figures["wings_success_episodes"] == figures["heldout_wings_success_episodes"] == 1
    report = (tmp_path / "out/wings_heldout/report.html").read_text(encoding="utf-8")
    assert "wings, train" in report and "wings, heldout" in report
    assert "spread arms" in done.stdout.splitlines()[-4]
    assert (tmp_path / "out/wings.mp4").stat().st_size > 1000
