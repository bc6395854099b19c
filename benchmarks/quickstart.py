"""The wall time of `fl-privacy run quickstart`, from the command to its end, each time in a process of its own.

    python -m benchmarks.quickstart [--repeats 5] [--before COMMAND --commit C] [--out results/quickstart.json]

With the `fl-privacy` command of another installation, such as that of an older commit in an environment of its own, the
two take turns: a shared machine drifts within minutes, and a ratio does not.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.record import options, write
from benchmarks.table_parts import ROOT, Row

COMMAND = (sys.executable, "-m", "fl_privacy.simulations.cli")
TARGET = "<= 25 s where the code before takes 35: a ratio of .71"


def timed(command: Sequence[str], path: str) -> Row:
    """Seconds from start to end, and of processor time: Ray's processes end with it, and are counted where reaped."""
    with tempfile.TemporaryDirectory() as folder:
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        whole = [*command, "run", "quickstart", "--out", f"{folder}/run"]
        environment = {**os.environ, "PYTHONPATH": path}
        subprocess.run(whole, check=True, stdout=subprocess.DEVNULL, cwd=folder, env=environment)
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"seconds": seconds, "own_cpu_s": after.ru_utime - before.ru_utime}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--before", type=Path, help="the fl-privacy command of another installation")
    parser.add_argument("--commit", help="what that is an installation of")
    parser.add_argument("--out", type=Path, default=Path("results/quickstart.json"))
    arguments = parser.parse_args()
    commands: dict[str, tuple[Sequence[str], str]] = {"this": (COMMAND, str(ROOT))}
    if arguments.before:
        commands["before"] = ((str(arguments.before.absolute()),), "")
    rows: list[Row] = []
    for _ in range(arguments.repeats):
        for name, (command, path) in commands.items():
            rows.append({"code": name, **timed(command, path)})
            print(rows[-1], flush=True)
    medians = {name: statistics.median(row["seconds"] for row in rows if row["code"] == name) for name in commands}
    whole: Row = {f"median_{name}": value for name, value in medians.items()} | {"target": TARGET}
    if arguments.before:
        whole["ratio"] = medians["this"] / medians["before"]
    print(whole)
    write(arguments.out, rows, settings={**options(arguments), "before": arguments.commit}, seeds=[0], summary=whole)


if __name__ == "__main__":
    main()
