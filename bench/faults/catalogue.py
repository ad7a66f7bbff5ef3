"""The catalogue of faults: what may go wrong around a robot, each tried on a simulated one."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from bench.faults.cases import (
    body,
    clients,
    disk,
    driver,
    instructions,
    listeners,
    network,
    numbers,
    orders,
    parents,
    process,
    security,
    server,
    values,
)
from bench.faults.rig import FaultTrial, new_trial
from bench.faults.trace import FaultOutcome
from bridge.contract import UserError

GROUPS = (
    *(server, network, values, security, body, disk, instructions, process),
    *(parents, listeners, clients, driver, orders, numbers),
)
FAULTS: dict[str, Callable[[FaultTrial], FaultOutcome]] = {
    name: fault for group in GROUPS for name, fault in group.FAULTS.items()
}


def choose(names: Sequence[str]) -> tuple[str, ...]:
    """These faults, or all of none; UserError for a name that is not in the catalogue."""
    for name in names:
        if name not in FAULTS:
            near = difflib.get_close_matches(name, FAULTS, n=3, cutoff=0.3) or list(FAULTS)
            raise UserError(f"no fault {name!r}: use one of {', '.join(near)}")
    return tuple(names) or tuple(FAULTS)


def try_fault(name: str, hitogata: Sequence[str]) -> FaultOutcome:
    """Tries one fault; what never happens is an outcome too, and so is a try that breaks.

    `hitogata` is the command line that starts the program.
    """
    try:
        with new_trial(hitogata) as trial:
            return FAULTS[name](trial)
    except (UserError, TimeoutError) as error:
        return FaultOutcome(False, f"BUT {error}", "", "unknown")
    except Exception as error:  # unforeseen, and yet the first try
        return FaultOutcome(False, f"BUT {error!r}", "", "unknown")


def purpose(name: str) -> str:
    """What a fault is, in a line."""
    fault = getattr(FAULTS[name], "func", FAULTS[name])  # of a partial function
    return (fault.__doc__ or name).strip().splitlines()[0]
