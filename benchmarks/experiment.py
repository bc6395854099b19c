"""Run an experiment once a seed and keep its summary rows in results/; seeds that are there already are not run again.

python -m benchmarks.experiment gradient_noise --seeds 0 1 2
python -m benchmarks.experiment vicious_table1/mnist --profile full --data-root DATA
python -m benchmarks.experiment secure_sums --cells digits/k1 digits/k2
python -m benchmarks.experiment titcombe_table1/b00 --data-root DATA --set rounds=2 --out results/titcombe_short.json
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.record import write
from fl_privacy.simulations.config.load import load_experiment, reconfigure
from fl_privacy.simulations.config.published import beside
from fl_privacy.simulations.experiment.spec import Experiment
from fl_privacy.simulations.results.layout import RESULTS
from fl_privacy.simulations.run.pipeline import simulate


def chosen(name: str, cells: list[str], changes: list[str], profile: str | None) -> dict[str, Experiment]:
    """The experiments of a measurement by cell of the matrix of `name`; one without a cell under ''."""
    named = {cell: f"{name}/{cell}" for cell in cells} or {"": name}
    return {cell: load_experiment(address, changes, profile=profile) for cell, address in named.items()}


def shared_settings(experiments: Mapping[str, Experiment]) -> dict[str, Any]:
    """What the seeds of a measurement share: every setting but the seed, as plain values; by cell where it has any."""
    plain = {cell: json.loads(experiment.to_json()) for cell, experiment in experiments.items()}
    shared = {cell: {k: v for k, v in each.items() if k not in ("seed", "published")} for cell, each in plain.items()}
    found: dict[str, Any] = shared.get("", shared)
    return found


def kept(path: Path, changes: list[str], settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of an earlier call with the same changes and, where it wrote them down, the same settings.

    Raises:
        ValueError: the file holds another experiment's rows.
    """
    if not path.exists():
        return []
    record = json.loads(path.read_text())
    if record.get("changes", []) != changes:
        raise ValueError(f"{path} was made with --set {record.get('changes', [])}: name another --out, or delete it")
    was = record.get("settings", settings)
    if differing := sorted(key for key in was.keys() | settings.keys() if was.get(key) != settings.get(key)):
        raise ValueError(f"{path} was made with another {', '.join(differing)}: name another --out, or delete it")
    rows: list[dict[str, Any]] = record["rows"]
    return rows


def new_run(folder: Path) -> Path:
    """`folder`, without what a run that was interrupted left there."""
    if folder.exists() and not (folder / RESULTS).exists():
        shutil.rmtree(folder)
    return folder


def of_cell(cell: str, row: dict[str, Any]) -> dict[str, Any]:
    """The row, which says of which cell of a matrix it is, where there are several."""
    return {"cell": cell, **row} if cell else row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="a shipped experiment or a TOML file")
    parser.add_argument("--cells", nargs="+", default=[], help="several of its matrix, which go into one file")
    parser.add_argument("--profile", help="one of the experiment's; else its default one")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", dest="changes", action="append", default=[])
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--backend", default="ray")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--out", type=Path, help="results/NAME.json unless given")
    parser.add_argument("--keep", type=Path, help="keep the run folders below this one")
    arguments = parser.parse_args()
    experiments = chosen(arguments.name, arguments.cells, arguments.changes, arguments.profile)
    first = arguments.name if arguments.cells else experiments[""].name
    path = arguments.out or Path("results") / f"{first}.json"
    settings = shared_settings(experiments)
    rows = kept(path, arguments.changes, settings)
    published = [of_cell(cell, row) for cell, experiment in experiments.items() for row in beside(experiment)]
    done = {(row.get("cell", ""), row["seed"]) for row in rows}
    for (cell, experiment), seed in product(experiments.items(), sorted(set(arguments.seeds))):
        if (cell, seed) in done:
            continue
        start = time.perf_counter()
        folder = "_".join(filter(None, (path.stem, cell.replace("/", "_"), str(seed))))
        with tempfile.TemporaryDirectory() as scratch:
            result = simulate(
                reconfigure(experiment, seed=seed),
                out=new_run((arguments.keep or Path(scratch)) / folder),
                data_root=arguments.data_root,
                backend=arguments.backend,
                workers=arguments.workers,
            )
        spent = {"seed": seed, "run_seconds": time.perf_counter() - start}
        rows += [of_cell(cell, {**spent, **row}) for row in result.summary]
        seeds = sorted({row["seed"] for row in rows})
        facts = {"cells": arguments.cells, "profile": arguments.profile, "changes": arguments.changes}
        write(path, rows, settings=settings, seeds=seeds, published=published, **facts)


if __name__ == "__main__":
    main()
