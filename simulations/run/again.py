"""A finished run, opened again: another attack on its observations, or its report once more."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fl_privacy.data import data_root as find_root
from fl_privacy.evaluation import Truth
from fl_privacy.observation import Observation
from fl_privacy.simulations.backends.process import prepare_process
from fl_privacy.simulations.config.build import federation_of
from fl_privacy.simulations.config.load import changed, reconfigure
from fl_privacy.simulations.config.resolve import channel_of
from fl_privacy.simulations.config.saved import read_saved
from fl_privacy.simulations.experiment.spec import Experiment
from fl_privacy.simulations.federation import Federation
from fl_privacy.simulations.progress import Note, shown
from fl_privacy.simulations.report.result import Result
from fl_privacy.simulations.results import files
from fl_privacy.simulations.results.records import Key
from fl_privacy.simulations.run import contents
from fl_privacy.simulations.run.attack import run_here
from fl_privacy.simulations.run.pipeline import resolved_device
from fl_privacy.simulations.run.resume import alone, run_folder, tidy
from fl_privacy.simulations.run.stages import finish, observed, redraw, write_config
from fl_privacy.simulations.scoring import blind_pool

CHANGEABLE = ("attack", "attacks", "attacked_clients", "public")
"""What can be another for a saved run: who attacks it, with what."""


@dataclass(frozen=True)
class Replan:
    """A checked attack on the observations of a finished run, `source`."""

    federation: Federation
    source: Path
    out: Path
    begun: bool = False
    """Whether an earlier process left something of this attack in its folder."""


def plan_again(
    run_dir: str | os.PathLike[str],
    attack: str | None = None,
    changes: Sequence[str] = (),
    out: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    device: str | None = None,
    trust: bool = False,
    resume: bool = False,
) -> Replan:
    """Check another attack on a run and make its folder, below the run's own unless `out` names one.

    Of a run that is not finished, what it has observed so far is attacked. `resume` goes on with the attack in `out`
    where it was killed.

    The run folder is data: code that it names, `module:name`, is refused unless `trust` says so; what `attack` and
    `changes` name is the caller's own word.

    Raises:
        UnknownName, ValueError: not a run, or a setting that does not fit or that only a new run can change.
            Also where the data are no longer those of the run.
        MissingData: the run's data set, which the scores need, is not there.
    """
    folder = Path(run_dir).absolute()
    if resume and out is None:
        raise ValueError("'resume' goes on with the attack in a folder: name it (--out)")
    saved = read_saved(folder, trust)
    source = saved.source
    experiment = _reattack(saved.experiment, attack, changes)
    experiment = reconfigure(experiment, device=resolved_device(device or experiment.device))
    federation = federation_of(experiment.to_json(), find_root(data_root))
    channel_of(experiment).rounds.check_federation(federation)
    blind_pool(channel_of(experiment), federation)
    contents.check(federation, source)
    if not observed(federation, source):  # what is damaged is named before anything is made
        raise ValueError(f"the run in {source} has observed nothing yet: go on with it first (run --resume)")
    below = folder / "attacks" / f"{time.strftime('%Y%m%d-%H%M%S')}_{files.slug(experiment.attacks[0]['name'])}"
    return Replan(federation, source, *run_folder(Path(out) if out else below, federation, resume, source))


def execute_again(checked: Replan, note: Note = print) -> Result:
    """Attack the saved observations, score the guesses, write the report; nothing is simulated."""
    prepare_process()
    with alone(checked.out):
        if checked.begun:
            tidy(checked.out)
            note(f"going on with the attack in {checked.out}")
        else:
            where = files.path_inside(checked.source, checked.out)
            write_config(checked.federation, checked.out, observations=where)
        return finish(checked.federation, checked.out, note, run_here, checked.source)


def attack_again(run_dir: str | os.PathLike[str], *, note: Note | None = None, **choices: Any) -> Result:
    """Attack a finished run once more and return the result; `choices` are those of `plan_again`, `note` as always."""
    checked = plan_again(run_dir, **choices)
    with shown(note) as told:
        return execute_again(checked, told)


def _reattack(experiment: Experiment, attack: str | None, changes: Sequence[str]) -> Experiment:
    fixed = [text for text in changes if text.split("=")[0].split(".")[0] not in CHANGEABLE]
    if fixed:
        raise ValueError(f"a saved run can change its {', '.join(CHANGEABLE)} only, not '{fixed[0]}': run it anew")
    chosen = [f"attack={attack}"] if attack else []
    return changed(asdict(experiment), [*chosen, *changes])


@dataclass(frozen=True)
class FinishedRun:
    """A finished run, opened: its result, and the federation that it ran on. `source` holds what it attacked."""

    result: Result
    federation: Federation
    source: Path

    @cached_property
    def observations(self) -> dict[Key, Observation]:
        """Everything that the adversary saw, by condition, round and client, with all that it holds beside it."""
        return observed(self.federation, self.source)

    def truth(self, client: int, round: int) -> Truth:
        """The private batch that a client put into a round, for the evaluator alone."""
        return channel_of(self.federation.experiment).evaluation.truth(self.federation, client, round)


def open_run(
    run_dir: str | os.PathLike[str], data_root: str | os.PathLike[str] | None = None, trust: bool = False
) -> FinishedRun:
    """A finished run with its data; `trust` lets it name code, `module:name`, which is then imported.

    Raises:
        ValueError: no finished run, or the data are no longer those of the run. UntrustedCode: it names code, and
            `trust` does not allow that. MissingData: its data set is not there.
    """
    folder = Path(run_dir).absolute()
    result, source = Result.read(folder, trust), read_saved(folder, trust).source
    federation = federation_of(result.experiment.to_json(), find_root(data_root))
    contents.check(federation, source)
    return FinishedRun(result, federation, source)


def reopen(
    run_dir: str | os.PathLike[str], data_root: str | os.PathLike[str] | None = None, trust: bool = False
) -> Result:
    """The result of a finished run, with its figures drawn again from its files; raises as `open_run` does."""
    run = open_run(run_dir, data_root, trust)
    redraw(run.federation, run.result.folder, run.source)
    return run.result
