"""How soon falls are noticed, and how many walks are taken for one.

Run it as `python -m tests.bench.bench_falls --n 60`. Prints a line, and one of JSON.
"""

from __future__ import annotations

import json
from dataclasses import asdict

import tyro

from sim.fall_exam import examine_falls


def main(n: int = 60, seed: int = 0) -> None:
    """Examines `n` robots shoved over and `n` shoved by 0.8 m/s every two seconds."""
    found = examine_falls(n, seed)
    print(found)
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    tyro.cli(main)
