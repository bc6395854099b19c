"""The wall time of `fl-privacy run quickstart`, from the command to its end, each time in a process of its own.

python -m benchmarks.quickstart [--repeats 5] [--out results/quickstart.json]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.record import options, write
from benchmarks.table_parts import Row

COMMAND = (sys.executable, "-m", "fl_privacy.simulations.cli", "run", "quickstart", "--out")
TARGET = "<= 25 s"


def timed() -> Row:
    """Seconds from start to end, and of processor time: Ray's processes end with it, and are counted where reaped."""
    with tempfile.TemporaryDirectory() as folder:
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([*COMMAND, f"{folder}/run"], check=True, stdout=subprocess.DEVNULL)
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"seconds": seconds, "own_cpu_s": after.ru_utime - before.ru_utime, "target": TARGET}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results/quickstart.json"))
    arguments = parser.parse_args()
    rows = [timed() for _ in range(arguments.repeats)]
    for row in rows:
        print(row)
    write(arguments.out, rows, settings=options(arguments), seeds=[0])


if __name__ == "__main__":
    main()
