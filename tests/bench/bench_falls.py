"""How soon falls are noticed, how many walks are taken for one, how many robots get up.

Run it as `python -m tests.bench.bench_falls --n 60`. Prints a line, and one of JSON.
"""

from __future__ import annotations

import json
from dataclasses import asdict

import tyro

from bench.walker.falls import examine_falls, examine_getting_up


def main(n: int = 60, lying: int = 30, seed: int = 0) -> None:
    """Examines `n` robots shoved over, `n` shoved by 0.8 m/s every two seconds, `lying` that lie.

    `lying` 0 or `n` 0 leaves that part out.
    """
    figures = {}
    if n:
        found = examine_falls(n, seed)
        print(found)
        figures |= asdict(found)
    if lying:
        stands = examine_getting_up(lying, seed)
        print(f"{stands.sum()} of {lying} got up; face up {stands[::2].mean():.0%}", flush=True)
        figures["got_up"] = stands.tolist()
    print(json.dumps(figures))


if __name__ == "__main__":
    tyro.cli(main)
