"""The stages after the rounds: attack what was observed, score it, report it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fl_privacy.attacks import Attack
from fl_privacy.checkpoints import digest
from fl_privacy.observation import Observation, Reconstruction
from fl_privacy.settings import ReadTable
from fl_privacy.simulations.channels.base import Channel
from fl_privacy.simulations.channels.round_log import summarise_reasons
from fl_privacy.simulations.channels.unfinished import rows_so_far
from fl_privacy.simulations.config.resolve import channel_of
from fl_privacy.simulations.federation import Federation
from fl_privacy.simulations.progress import Note
from fl_privacy.simulations.report import write as report
from fl_privacy.simulations.report.gallery import draw
from fl_privacy.simulations.report.result import Result
from fl_privacy.simulations.results import environment, files, layout, storage
from fl_privacy.simulations.results.records import Key, Scored
from fl_privacy.simulations.run import contents
from fl_privacy.simulations.run.attack import Job, Runner, jobs
from fl_privacy.simulations.run.resume import forget_checkpoints
from fl_privacy.simulations.scoring import score_all


class ProtocolMismatch(RuntimeError):
    """Without any defence, the gradient at the truth is not the one that was released: the scores mean nothing."""


def write_config(federation: Federation, folder: Path, **facts: object) -> None:
    """Write config.json: the resolved experiment, what it runs on, and which code and data decide its bits."""
    experiment = federation.experiment
    known = {"code": contents.decides(experiment)["code"], "data": contents.data(federation)}
    content = {"experiment": dataclasses.asdict(experiment), "seed": experiment.seed, **facts, **known}
    content |= environment.describe()
    files.write_json(folder / layout.CONFIG, content)


@dataclass(frozen=True)
class Attacked:
    """What the attacks of a run leave for its report: its rounds, and what was released, by key."""

    conditions: Sequence[ReadTable]
    seen: Mapping[Key, Observation]


def finish(federation: Federation, folder: Path, note: Note, run: Runner, source: Path | None = None) -> Result:
    """Attack the observations in `source` (this folder's own unless given), score the guesses, write the report.

    Raises:
        RuntimeError: there is nothing to attack, because no client's message arrived.
        ProtocolMismatch: the attack was given another protocol than the one that ran; all files are written.
    """
    return conclude(federation, folder, attack(federation, folder, note, run, source))


def attack(federation: Federation, folder: Path, note: Note, run: Runner, source: Path | None = None) -> Attacked:
    """The first half of `finish`: everything that needs a runner.

    Raises:
        RuntimeError: there is nothing to attack.
    """
    if source is None:
        forget_checkpoints(folder)
        contents.write(federation, folder)
    experiment, source = federation.experiment, source or folder
    over = (source / layout.ROUNDS).is_file()
    labels = experiment.condition_labels
    conditions = files.read_json(source / layout.ROUNDS) if over else rows_so_far(source, labels)
    seen = observed(federation, source)
    if over:
        _check_observed(conditions, seen)
    else:
        note(f"the rounds of that run are not over: {len(seen)} observations are there")
    channel, attacks = channel_of(experiment), experiment.resolved.attacks

    asked = jobs(experiment, channel, seen, partial(_bound, federation, source), folder)
    todo = [job for job in asked if not is_done(channel, folder, job)]
    again = f"; {len(asked) - len(todo)} of {len(asked)} groups were done before" if len(todo) < len(asked) else ""
    note(f"attacking {len({key for job in asked for key in job.keys})} observations with {', '.join(attacks)}{again}")
    for job, results in run(todo, note):
        save(channel, folder, job, results)
    shutil.rmtree(folder / layout.UNFINISHED, ignore_errors=True)
    return Attacked(conditions, seen)


def conclude(
    federation: Federation, folder: Path, attacked: Attacked, keep_originals: bool = False, figures: bool = True
) -> Result:
    """The second half of `finish`: score the guesses that lie in the folder, and write the report.

    `figures` False: none is drawn. Raises as `finish` does.
    """
    experiment, seen = federation.experiment, attacked.seen
    guesses = _guesses(folder, experiment.resolved.attacks)
    scored = score_all(channel_of(experiment), federation, seen, guesses)
    if keep_originals:
        _save_originals(folder, scored)
    payloads = {key.stem: digest(each.payload) for key, each in seen.items()}
    shown = keep_originals or experiment.show_originals
    result = report.write(federation, folder, attacked.conditions, seen, scored, payloads, shown, figures)
    if result.not_valid:
        raise ProtocolMismatch(f"{'; '.join(result.not_valid)}. All files are in {folder}, marked as not valid")
    return result


def ready_jobs(federation: Federation, folder: Path, wanted: Callable[[Key], bool]) -> list[Job]:
    """The attacks on these messages of a run that are not done yet."""
    experiment, channel = federation.experiment, channel_of(federation.experiment)
    asked = jobs(experiment, channel, observed(federation, folder, wanted), partial(_bound, federation, folder), folder)
    return [job for job in asked if not is_done(channel, folder, job)]


def _bound(federation: Federation, source: Path, attack: Attack, condition: int) -> Attack | None:
    return channel_of(federation.experiment).adversary.bind_artifacts(federation, attack, condition, source)


def save(channel: Channel, folder: Path, job: Job, results: Sequence[Reconstruction]) -> None:
    """Write the guesses of a job down."""
    for key, guess in zip(job.keys, results, strict=True):
        if channel.grouping.is_scored(key):
            storage.save_guess(files.guesses_folder(folder, job.label), key, guess)
    if job.unfinished is not None:
        shutil.rmtree(job.unfinished, ignore_errors=True)


def is_done(channel: Channel, folder: Path, job: Job) -> bool:
    """Whether all guesses of a job lie in the folder: an earlier process made them, or this one beside the rounds."""
    place = files.guesses_folder(folder, job.label)
    return all(storage.has_guess(place, key) for key in job.keys if channel.grouping.is_scored(key))


def observed(
    federation: Federation, source: Path, wanted: Callable[[Key], bool] = lambda key: True
) -> dict[Key, Observation]:
    """The observations in a run folder, with all that this experiment's adversary holds."""
    experiment = federation.experiment
    channel = channel_of(experiment)
    blank = partial(channel.adversary.blank, experiment)
    return channel.adversary.add_knowledge(
        federation, source, storage.load_observations(source / layout.OBSERVATIONS, blank, experiment.chains, wanted)
    )


def _guesses(folder: Path, labels: Iterable[str]) -> dict[str, dict[Key, Reconstruction]]:
    return {label: storage.load_guesses(files.guesses_folder(folder, label)) for label in labels}


def _check_observed(conditions: Sequence[ReadTable], seen: Mapping[Key, Observation]) -> None:
    for index, condition in enumerate(conditions):
        if not any(key.condition == index for key in seen):
            counts = [row["counts"] for row in condition["rounds"] if row["counts"]]
            raise RuntimeError(
                f"no client's message of the condition '{condition['defence']}' arrived in an attacked round: "
                + summarise_reasons(reason for each in counts for reason in each["reasons"])
            )


def _save_originals(folder: Path, scored: Sequence[Scored]) -> None:
    for each in scored:
        truth = {"inputs": each.truth.inputs, "labels": each.truth.labels}
        name = f"r{each.key.round}_c{each.key.client}.safetensors"
        files.write_tensors(folder / layout.ORIGINALS / name, truth)


def redraw(federation: Federation, folder: Path, source: Path) -> None:
    """Draw the figures of a finished run again, from its files and its data set.

    Private images appear only if the experiment shows them or the run kept them.
    """
    experiment = federation.experiment
    seen, guesses = observed(federation, source), _guesses(folder, experiment.resolved.attacks)
    if not any(guesses.values()):
        raise ValueError(f"{folder / layout.GUESSES} is damaged or gone: it has nothing of what the attacks made")
    if gone := sorted({key.stem for found in guesses.values() for key in found if key not in seen}):
        raise ValueError(
            f"{source / layout.OBSERVATIONS} is damaged: {', '.join(gone)} were attacked, and are not there"
        )
    scored = score_all(channel_of(experiment), federation, seen, guesses)
    originals = experiment.show_originals or (folder / layout.ORIGINALS).is_dir()
    draw(federation, folder, seen, scored, files.read_json(folder / layout.RESULTS)["summary"], originals)
