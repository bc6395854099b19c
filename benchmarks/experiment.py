"""Run a shipped experiment once a seed and keep its summary rows in results/.

python -m benchmarks.experiment gradient_noise --seeds 0 1 2
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.record import write
from simulations.run import simulate
from simulations.settings import load_experiment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--backend", default="ray")
    arguments = parser.parse_args()
    rows = []
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            result = simulate(
                load_experiment(arguments.name, seed=seed),
                out=Path(folder) / "run",
                data_root=arguments.data_root,
                backend=arguments.backend,
            )
            rows += [{"seed": seed, **row} for row in result.summary]
        write(Path("results") / f"{arguments.name}.json", rows, seeds=arguments.seeds)


if __name__ == "__main__":
    main()
