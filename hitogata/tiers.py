"""The extras of the package and what each brings, as its own metadata says."""

from __future__ import annotations

import re
from importlib import metadata

BARE = ""
# As `av>=14; extra == "sim"`; what every tier has names no extra.
_REQUIREMENT = re.compile(r"([\w.-]+)(?:[^;]*;.*\bextra == [\"']([\w-]+)[\"'])?")


def requirements() -> dict[str, list[str]]:
    """Extra -> names of its distributions, in the order of pyproject.toml; BARE for all tiers."""
    found: dict[str, list[str]] = {BARE: []}
    for line in metadata.requires("hitogata") or ():
        match = _REQUIREMENT.match(line)
        if match and match[1] != "hitogata":  # as `all` does, by the names of other extras
            found.setdefault(match[2] or BARE, []).append(match[1])
    return found


def extra_with(module: str, preferred: str) -> str | None:
    """An extra that brings a module: the preferred one if it does, else the first; None for none.

    A distribution is taken for its module's when it begins with its name: rsl-rl-lib has rsl_rl.
    """
    top = module.split(".")[0].lower() + "_"
    known = [
        extra
        for extra, names in requirements().items()
        if extra and any(f"{re.sub('[-.]', '_', name.lower())}_".startswith(top) for name in names)
    ]
    return preferred if preferred in known else next(iter(known), None)
