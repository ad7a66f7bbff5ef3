"""The commands of the front door, by the words that call them."""

from __future__ import annotations

import sys

from bridge.process import follow_parent
from hitogata.commandline import Command, dispatch, guarded, raise_on_signals


def main() -> None:
    """Runs the command line; a user's fault is one line on stderr and exit status 2."""
    raise_on_signals()
    follow_parent()
    guarded(lambda: dispatch(COMMANDS, sys.argv[1:]))


COMMANDS = {
    "run": Command("carry out an instruction in simulation, and leave a video", "run:run"),
    "evaluate": Command("measure success over many scenes", "evaluate:evaluate"),
    "gallery": Command("make the animations and plots of the README", "gallery:gallery"),
    "collect": Command("record demonstrations of the experts", "collect:collect"),
    "train": Command("train the policy on demonstrations", "train:train"),
    "export": Command("write a trained policy as an 8-bit ONNX bundle", "export:export"),
    "serve": Command("serve a bundle over ZeroMQ or WebSocket", "serve:serve"),
    "console": Command("talk to the robot in a browser, and see what it sees", "console:console"),
    "simulate": Command("run a simulated robot that waits for its operators", "simulate:simulate"),
    "walk": Command("train the walker", "walk:walk"),
    "bench": Command("measure how fast the policy answers", "bench.policy:bench"),
    "bench console": Command(
        "measure what open pages cost the robot's loop", "bench.console:bench_console"
    ),
    "bench walker": Command("examine walkers, ours and others'", "bench.walker:bench_walker"),
    "bench bridge": Command(
        "measure round trips and stops against raw ZeroMQ", "bench.bridge:bench_bridge"
    ),
    "keys": Command("make and list the keys of a server and its clients", "keys:keys"),
    "replay": Command("show what a recording of the black box holds", "replay:replay"),
    "doctor": Command("show what this machine has and what is missing", "doctor:doctor"),
}

if __name__ == "__main__":
    main()
