"""One cell of a sweep: an ordinary run folder that appears whole or not at all, under a name that its settings give."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from fl_privacy.settings import ReadTable, UnknownName
from fl_privacy.simulations.channels import training_cache
from fl_privacy.simulations.config.load import configure
from fl_privacy.simulations.experiment.spec import Experiment
from fl_privacy.simulations.report.result import Result
from fl_privacy.simulations.results import files, layout
from fl_privacy.simulations.run.pipeline import check, simulate
from fl_privacy.simulations.sweeping.grid import Cell

CELLS, FAILURES, MARKER = "cells", "failures", "cell.json"
DRAFT = ".draft-"


@dataclass(frozen=True)
class Job:
    """A checked cell: its experiment, where its run will lie, and the digest of all that decides its numbers."""

    words: str
    experiment: Experiment
    folder: Path
    digest: str
    root: Path | None
    backend: str
    workers: int | None
    address: str | None

    @property
    def finished(self) -> Path | None:
        """The folder of its finished run; None where there is none, or it is of other settings or other code."""
        marker = self.folder / MARKER
        if not marker.is_file() or not (self.folder / layout.RESULTS).is_file():
            return None
        return self.folder if files.read_json(marker).get("digest") == self.digest else None

    @property
    def failure(self) -> Path:
        """Where its error is written, should it fail."""
        return self.folder.parent.parent / FAILURES / f"{self.folder.name}.txt"

    @property
    def result(self) -> Result:
        """The result of its finished run."""
        return Result.of(self.folder, self.experiment)

    def compute(self) -> None:
        """Run it beside its place and move it there when it is whole; other runs of the same cell do no harm.

        Raises:
            Exception: whatever the run raises; nothing is left of it.
        """
        began, used = time.monotonic(), time.process_time()
        draft = self.folder.with_name(f"{DRAFT}{os.getpid()}-{self.folder.name}")
        shutil.rmtree(draft, ignore_errors=True)
        try:
            simulate(
                self.experiment,
                note=_nobody,
                out=draft,
                data_root=self.root,
                backend=self.backend,
                workers=self.workers,
                address=self.address,
                figures=False,  # a third of a small cell's time; `fl-privacy report CELL` draws them
            )
            cost = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - used}
            files.write_json(draft / MARKER, {"digest": self.digest, "cell": self.words, **cost})
            if self.folder.exists():  # a run of other code, or one that is damaged
                shutil.rmtree(self.folder)
            draft.rename(self.folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def to_json(self) -> str:
        """One line, for a worker process."""
        return json.dumps({**vars(self), "experiment": asdict(self.experiment)}, default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The cell whose `to_json` this is."""
        table = json.loads(text)
        root = table["root"] and Path(table["root"])
        experiment = configure(**table["experiment"])
        return cls(**{**table, "experiment": experiment, "folder": Path(table["folder"]), "root": root})


def job_of(
    cell: Cell,
    out: Path,
    root: Path | None = None,
    backend: str = "local",
    workers: int | None = None,
    device: str | None = None,
    address: str | None = None,
) -> Job:
    """The cell with every check that a run makes before it starts, its data loaded once.

    Raises:
        UnknownName, ValueError, MissingData: as `plan` of a run; the message says which cell it is.
    """
    try:
        ready = check(configure(**cell.settings), root, backend, workers, device, address)
    except UnknownName as error:
        raise UnknownName(f"in the cell '{cell.words}': {error}") from error
    except ValueError as error:
        raise ValueError(f"in the cell '{cell.words}': {error}") from error
    experiment = ready.federation.experiment
    digest = _digest(experiment)
    name = f"{files.slug(cell.words)[:60].rstrip('_')}-{digest[:12]}"
    return Job(cell.words, experiment, out / CELLS / name, digest, ready.root, backend, workers, ready.address)


def clear_drafts(out: Path) -> None:
    """Remove what killed workers left half done."""
    for path in (out / CELLS).glob(f"{DRAFT}*"):
        shutil.rmtree(path, ignore_errors=True)


def _digest(experiment: Experiment) -> str:
    """SHA-256 of the settings with the code of this package and of the user's own that they name."""
    settings: ReadTable = json.loads(experiment.to_json())
    return training_cache.key(training_cache.identity(settings))


def _nobody(text: str) -> None:
    """Progress of a cell that nobody reads: the sweep tells its own."""
