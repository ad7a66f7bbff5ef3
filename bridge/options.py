"""Options kept beside what was made with them: in what another run would differ."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

from bridge.files import read_json


def plain(options: dict[str, Any]) -> dict[str, Any]:
    """Options as they come back from JSON; paths as text."""
    return json.loads(json.dumps(options, default=str))


def differences(path: Path, new: dict[str, Any], free: Collection[str] = ()) -> list[str]:
    """A line for each option in which a file of options differs from `new`.

    `free` ones, by their dotted names or those of the groups they are in, may differ. Empty if
    there is no such file.
    """
    if not path.exists():
        return []
    old = _flat(read_json(path, "choose another --out", dict[str, Any]))
    now = _flat(new)
    return [
        f"{key} ({old.get(key, 'none')}, not {now.get(key, 'none')})"
        for key in {**now, **old}
        if old.get(key) != now.get(key) and not any(f"{key}.".startswith(f"{f}.") for f in free)
    ]


def _flat(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options by their dotted names, as the command line has them."""
    flat: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, dict):
            flat |= _flat(cast(dict[str, Any], value), f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
