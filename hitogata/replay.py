"""`hitogata replay`: shows what a recording of the black box holds."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from tyro.conf import Positional

from bridge.blackbox.recording import read_recording
from bridge.blackbox.replay import draw, tables
from bridge.contract import UserError
from bridge.files import write_bytes
from policy.runtime.legacy import release_0_1


def replay(recording: Positional[Path], out: Path = Path("out/replay.png")) -> None:
    """Shows what a recording of the black box holds, and draws it.

    Example: hitogata replay out/recordings/recording-000001.npz

    Args:
        recording: A recording, or the folder of one whose process was killed.
        out: The plot, a PNG.
    """
    if out.suffix != ".png":
        raise UserError(f"{out} is no PNG: choose a name that ends in .png")
    found = read_recording(recording, unnamed=release_0_1())
    console = Console()
    spanned_s = found.time_s[-1] - found.time_s[0]
    console.print(
        f"{recording}: {len(found.time_s)} periods in {spanned_s:.2f} s,"
        f" {len(found.pngs)} images, written {found.written_at}",
        markup=False,
        highlight=False,
    )
    for table in tables(found):
        console.print(table)
    write_bytes(out, draw(found))
    print(out)
