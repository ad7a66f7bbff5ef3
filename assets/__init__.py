"""Robots and shipped models. They travel with the package; `asset_path` finds them."""

from pathlib import Path

ASSETS = Path(__file__).parent


def asset_path(name: str) -> Path:
    """Path of a shipped file or folder, e.g. `asset_path("robots/g1.xml")`; it may not exist."""
    return ASSETS / name
