"""The wall time of `fl-privacy run quickstart`, from the command to its end, each time in a process of its own.

    python -m benchmarks.quickstart [--repeats 5] [--before CHECKOUT] [--out results/quickstart.json]

With another checkout, such as `git worktree add ../before 1f78e47`, its code takes turns with this one: a shared
machine drifts.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.record import options, write
from benchmarks.table_parts import ROOT, Row

COMMAND = (sys.executable, "-m", "fl_privacy.simulations.cli", "run", "quickstart", "--out")
TARGET = "<= 25 s"


def timed(code: Path) -> Row:
    """Seconds from start to end, and of processor time: Ray's processes end with it, and are counted where reaped."""
    with tempfile.TemporaryDirectory() as folder:
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        environment = {**os.environ, "PYTHONPATH": str(code)}
        subprocess.run([*COMMAND, f"{folder}/run"], check=True, stdout=subprocess.DEVNULL, env=environment)
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"seconds": seconds, "own_cpu_s": after.ru_utime - before.ru_utime, "target": TARGET}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--before", type=Path, help="a checkout of another commit, for comparison")
    parser.add_argument("--out", type=Path, default=Path("results/quickstart.json"))
    arguments = parser.parse_args()
    checkouts = {"this": ROOT} | ({"before": arguments.before.resolve()} if arguments.before else {})
    rows = []
    for _ in range(arguments.repeats):
        for name, code in checkouts.items():
            rows.append({"code": name, **timed(code)})
            print(rows[-1], flush=True)
    write(arguments.out, rows, settings=options(arguments), seeds=[0])


if __name__ == "__main__":
    main()
