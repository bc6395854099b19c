"""Run a shipped sweep, or go on with it, and keep its points in results/ with the picture beside them.

python -m benchmarks.sweep which_defence --workers 2 --keep outputs/which_defence --out results/sweep_digits.json
"""

import argparse
import json
import shutil
from pathlib import Path

from benchmarks.record import options, write
from fl_privacy.simulations import sweep
from fl_privacy.simulations.results.environment import describe
from fl_privacy.simulations.sweeping.cells import MARKER


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="a shipped sweep or a TOML file")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--keep", type=Path, required=True, help="the sweep's folder; finished cells in it are kept")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    result = sweep(arguments.name, out=arguments.keep, workers=arguments.workers)
    marks = [json.loads((result.folder / each["folder"] / MARKER).read_text()) for each in result.found["cells"]]
    first = json.loads((result.folder / result.found["cells"][0]["folder"] / "config.json").read_text())
    settings = {key: value for key, value in first["experiment"].items() if key not in ("seed", "training_defences")}
    facts = {
        "seeds": result.found["seeds"],
        "interval": result.found["interval"],
        "grid": result.found["grid"],
        "controls": [each["controls"] for each in result.found["settings"]],
        "findings": [each["findings"] for each in result.found["settings"]],
        "failed": result.failed,
        "cell_seconds": sum(mark["seconds"] for mark in marks),
        "cell_cpu_seconds": sum(mark["cpu_seconds"] for mark in marks),
        "options": options(arguments),
        "ran_on": describe()["hardware"],
    }
    write(arguments.out, result.points, settings=settings, **facts)
    for figure in result.figures[:1]:
        shutil.copy(figure, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
