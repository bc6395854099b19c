"""Plain Flower beside the suite: the same faults on a minimal app of Flower's own simulation, FedAvg and settings.

    python -m benchmarks.reliability --plain                   # fills the column `plain` of results/reliability.json
    python -m benchmarks.plain_flower killed_worker FOLDER     # one probe, here

Every probe is a process of its own, which has `SECONDS`. What Flower does not claim to do is 'not offered', and counts
for nobody.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from benchmarks.plain_outcome import Outcome, not_offered

SECONDS = 60.0
RUNS = {
    "killed_worker": (1,),
    "raising_clients": (2,),
    "hanging_client": (5, 6),
    "same_seed": (12,),
    "long_run": (23,),
    "leftovers": (24,),
    "without_network": (27,),
}
"""The probes that need a run, and which checks they answer."""
UNITS = {
    "malformed": (3,),
    "few_replies": (7,),
    "pickles": (11,),
    "streams": (14,),
    "noise_law": (15,),
    "epsilon": (16,),
    "audited": (17,),
    "clips": (18,),
    "settings": (26,),
}
NOT_OFFERED = {
    4: "replies are not judged beyond their keys (3)",
    8: "a run cannot be resumed; a ServerApp may save its model itself",
    9: "no checkpoints",
    10: "no checkpoints",
    13: "no seed of a run",
    19: "nothing is written, and nothing is attacked",
    20: "of these defences it has none; its SecAgg+ is of the older API",
    21: "no attacks",
    22: "clients have the resources that the user names",
    25: "nothing is written",
}
NOT_MEASURED = {28: "`init_args.address` takes a cluster; what the death of a node does there was not tried"}


def outcomes(wanted: Collection[int]) -> Iterator[tuple[int, Outcome]]:
    """What becomes of these checks, one after the other."""
    for number, why in NOT_OFFERED.items():
        if number in wanted:
            yield number, not_offered(why)
    for number, why in NOT_MEASURED.items():
        if number in wanted:
            yield number, Outcome("not measured", why)
    for name, numbers in {**UNITS, **RUNS}.items():
        if not set(numbers).isdisjoint(wanted):
            yield from probe(name, numbers).items()


def probe(name: str, numbers: tuple[int, ...]) -> dict[int, Outcome]:
    """Run a probe in a process of its own; one that does not end in time says nothing of Flower: it was the machine."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.plain_flower", name, folder]
        started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            said, errors = started.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            started.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                started.communicate(timeout=10)
            started.kill()
            return {
                number: Outcome("not measured", f"the probe was not over after {SECONDS:g} s") for number in numbers
            }
    told = re.findall(r"^OUTCOMES (.*)$", said, re.MULTILINE)
    if not told:
        last = " ".join((errors.strip().splitlines() or ["nothing"])[-1].split())[:200]
        return {
            number: Outcome("not measured", f"the process ended with code {started.returncode}: {last}")
            for number in numbers
        }
    return {int(number): Outcome(*each) for number, each in json.loads(told[-1]).items()}


def main() -> None:
    name, folder = sys.argv[1:]
    if name in RUNS:
        from benchmarks import plain_runs as module
    else:
        from benchmarks import plain_units as module  # type: ignore[no-redef]
    print("OUTCOMES", json.dumps(getattr(module, name)(Path(folder))), flush=True)


if __name__ == "__main__":
    main()
