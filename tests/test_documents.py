"""The documents for newcomers: every command has its section, and what they name exists."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hitogata import commandline
from hitogata.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## hitogata ([\w ]+)\n(.*?)(?=^## |\Z)", GUIDE, re.M | re.S))
OPTION = re.compile(r"(?<=[`\s])--[a-z][\w.-]*")
# Sections that speak of the options of other commands as well.
ALSO_ABOUT = {"keys": ("serve", "run")}
DOCUMENTS = (
    "README.md",
    "docs/commands.md",
    "docs/gymnasium.md",
    "docs/tutorial.md",
    "docs/model_card.md",
)


def _commands_of(document: str) -> list[tuple[str, list[str]]]:
    """The commands in a document's fenced blocks: name, and the options that they are given."""
    blocks = re.findall(
        r"^```(?:sh|console)\n(.*?)^```$",
        (ROOT / document).read_text(encoding="utf-8"),
        re.M | re.S,
    )
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words[:1] == ["hitogata"]:
            name = " ".join(words[1:3])
            name = name if name in COMMANDS else words[1]
            found.append((name, [word for word in words if word.startswith("--")]))
    return found


def _help(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        commandline.dispatch(COMMANDS, [*name.split(), "--help"])
    return capsys.readouterr().out


def test_every_command_has_a_section_and_no_other() -> None:
    assert set(SECTIONS) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_section_has_purpose_example_and_trouble(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = SECTIONS[name]
    assert re.search(rf"^(\$ )?hitogata {name}\b", text, re.M)
    assert "can go wrong" in text
    told = "".join(_help(other, capsys) for other in (name, *ALSO_ABOUT.get(name, ())))
    assert set(OPTION.findall(text)) <= set(OPTION.findall(told))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_examples_have_commands_and_options_that_exist(
    document: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, options in _commands_of(document):
        assert name in COMMANDS, f"{document}: hitogata {name}"
        if options:
            valid = _help(name, capsys)
            assert all(option in valid for option in options), f"{document}: {name} {options}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_anchors_lead_to_headings(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors


def test_documents_speak_of_nothing_left_to_do() -> None:
    for document in DOCUMENTS:
        assert not re.search(
            r"\b(TODO|FIXME|TBD|lorem)\b", (ROOT / document).read_text(encoding="utf-8")
        )


@pytest.mark.slow
def test_pages_of_the_api_are_built(tmp_path: Path) -> None:
    """As `make docs` does, of the rooms that import quickly."""
    command = [sys.executable, "-m", "pdoc", "--docformat", "google", "bridge", "robots"]
    done = subprocess.run(
        [*command, "--output-directory", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "bridge" / "control" / "safety.html").read_text(encoding="utf-8")
    assert "stopping_rate" in page
