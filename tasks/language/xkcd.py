"""Writes the colour names of xkcd's survey, each under the basic colour that it looks like.

python -m tasks.language.xkcd    writes tasks/language/en/colours.toml
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from colorsys import rgb_to_hsv
from pathlib import Path

from tasks.language.intent import COLOURS

NAMES_FILE = Path(__file__).parent / "en" / "colours.toml"
# Where each hue ends, in degrees; between purple and red lie the pinks. As measured to serve.
HUE_ENDS = {"red": 14, "orange": 40, "yellow": 68, "green": 165, "blue": 255, "purple": 325}
RED_AGAIN_DEG = 345
# What is less saturated or darker looks grey or black.
LEAST_SATURATION, LEAST_VALUE = 0.2, 0.15
# Dark orange and dark yellow are brown and olive; pale red is pink.
LEAST_VALUE_OF = {"orange": 0.72, "yellow": 0.6}
LEAST_SATURATION_OF = {"red": 0.6}
# Names that call themselves something else, and those not to be said among people.
_NO_NAME = re.compile(
    r"/|\b(?:pink|brown|gr[ae]y|tan|beige)$"
    r"|shit|\bpoop?\b|piss|puke|vomit|barf|snot|sick|booger|diarrhea|bile"
)
# Words that in an order mean a thing, and names that many give to a neighbouring colour.
_AMBIGUOUS = re.compile(
    "apple|bland|camel|cream|dark|desert|mushroom|pear|petrol|pine|royal|sand|sea|sky|slate|squash"
    "|steel|stone|tea|amber|bronze|iris|marigold|melon|periwinkle|violet blue"
)

_NO_BREAK = "\N{NO-BREAK SPACE}"

_HEADER = """\
# Colour names of the English speaking and the basic colour each looks like; the longest name found
# in a sentence counts. Made by `python -m tasks.language.xkcd` from the colours of xkcd's survey
# (https://xkcd.com/color/rgb, CC0): a name that ends in a basic colour is that colour, others go by
# hue; greys, browns, pinks and olives are none of the six and are left out.
"""


def looks_like(name: str, rgb: tuple[float, float, float]) -> str | None:
    """The basic colour of a named colour, `rgb` in 0 to 1; None if it is none of the six."""
    if _NO_NAME.search(name) or _AMBIGUOUS.fullmatch(name):
        return None
    if (last := name.split()[-1]) in COLOURS:
        return last
    hue, saturation, value = rgb_to_hsv(*rgb)
    degrees = 0.0 if hue * 360 > RED_AGAIN_DEG else hue * 360
    colour = next((colour for colour, end in HUE_ENDS.items() if degrees < end), None)
    if colour is None:
        return None
    pale = saturation < LEAST_SATURATION_OF.get(colour, LEAST_SATURATION)
    dark = value < LEAST_VALUE_OF.get(colour, LEAST_VALUE)
    return None if pale or dark else colour


def as_toml(names: Iterable[tuple[str, tuple[float, float, float]]]) -> str:
    """The file of these names with their colours, in alphabetical order."""
    found = {name: colour for name, rgb in names if (colour := looks_like(name, rgb))}
    tables = [_HEADER]
    for colour in COLOURS:
        listed = [f'"{name}"' for name in sorted(found) if found[name] == colour]
        # A line does not end within a name.
        whole = ", ".join(listed).replace(" ", _NO_BREAK).replace(f",{_NO_BREAK}", ", ")
        lines = textwrap.indent(textwrap.fill(whole, 96), "    ").replace(_NO_BREAK, " ")
        tables.append(f"{colour} = [\n{lines},\n]")
    return "\n".join(tables) + "\n"


def main() -> None:
    """Writes the file of names from matplotlib's copy of the survey."""
    from matplotlib.colors import XKCD_COLORS, to_rgb

    names = ((name.removeprefix("xkcd:"), to_rgb(value)) for name, value in XKCD_COLORS.items())
    NAMES_FILE.write_text(as_toml(names), encoding="utf-8")


if __name__ == "__main__":
    main()
