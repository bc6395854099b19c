"""Attacks that begin while the rounds are still going, on workers that no client needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fl_privacy.attacks import Attack
from fl_privacy.simulations.config.resolve import channel_of
from fl_privacy.simulations.federation import Federation
from fl_privacy.simulations.results.records import Key
from fl_privacy.simulations.run.attack import Job
from fl_privacy.simulations.run.stages import ready_jobs, save

if TYPE_CHECKING:
    from fl_privacy.simulations.backends.pool import Pool  # Ray takes seconds to import


class Streaming:
    """Attacks messages as soon as they are there to stay, and writes guesses as they come; `begun` are under way.

    It leaves as many workers to the clients as these cannot do without. Its jobs are those that would run later, one
    attack call a group, so that no bit depends on when.
    """

    def __init__(self, federation: Federation, folder: Path, pool: Pool) -> None:
        self._federation, self._folder, self._pool = federation, folder, pool
        self._channel, self._reached = channel_of(federation.experiment), dict[int, float]()
        self.begun: dict[int, Job] = {}
        pool.reserved = self._channel.rounds.workers_at_once(federation.experiment)

    def over(self, condition: int, round: float) -> None:
        """Begin with what a condition has released up to this round, and write down what is done by now."""
        before = self._reached.get(condition, 0)
        self._reached[condition] = round
        if before < round:
            for job in ready_jobs(
                self._federation, self._folder, lambda key: key.condition == condition and before < key.round <= round
            ):
                if self._is_of_one_condition(job.attack):
                    self.begun[self._pool.submit(job, order=job.order)] = job
        self._write()

    def ended(self) -> dict[int, Job]:
        """Let the attacks have all workers, because the rounds are over; those that are under way, by ticket."""
        self._pool.reserved = 0
        self._write()
        return self.begun

    def _write(self) -> None:
        for ticket, outcome in self._pool.take(list(self.begun), 0).items() if self.begun else ():
            job = self.begun.pop(ticket)
            if outcome.error is None:  # else it is made again, and fails, when the rounds are over
                save(self._channel, self._folder, job, outcome.value)

    def _is_of_one_condition(self, attack: Attack) -> bool:
        """Whether no call of this attack takes the messages of several conditions together."""
        experiment = self._federation.experiment
        conditions = range(len(experiment.conditions))
        groups = {self._channel.grouping.group(experiment, attack, Key(each, 1, 0)) for each in conditions}
        return len(groups) == len(conditions)
