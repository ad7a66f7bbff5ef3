"""`hitogata keys`: makes and lists the keys of a server and its clients."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from bridge.contract import UserError
from bridge.wire.keys import FOLDER, allow, allowed_keys, make_pair, own_pair


def keys(
    action: Positional[Literal["list", "make", "allow"]] = "list",
    subject: Positional[str] = "",
    folder: Path = FOLDER,
) -> None:
    """Makes and lists the keys by which a server and its clients know each other.

    Example: hitogata keys make g1

    Args:
        action: make NAME makes this machine's own pair; allow FILE lets in the client that
            holds that public key; list shows both.
        subject: The NAME or the FILE.
        folder: Where the keys are kept.
    """
    if action != "list" and not subject:
        what = "NAME" if action == "make" else "FILE"
        raise UserError(f"{action} whom? hitogata keys {action} {what}")
    if action == "make":
        print(f"made {make_pair(folder, subject)}: copy it to the other end")
    elif action == "allow":
        print(f"allowed {allow(folder, Path(subject))}: remove the file to forbid it")
    else:
        print(describe(folder))


def describe(folder: Path) -> str:
    """A line for each key of a folder."""
    own = own_pair(folder)
    lines = [f"own      {own.public}  {folder.expanduser() / own.name}.public"]
    allowed = folder.expanduser() / "allowed"
    if allowed.is_dir():
        lines += [f"allowed  {key}  {path}" for path, key in allowed_keys(allowed).items()]
    return "\n".join(lines)
