"""A strategy whose rounds are written down as they end, so that another process goes on where one was killed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fl_privacy.checkpoints import State, under
from fl_privacy.observation import Tensors
from fl_privacy.settings import PlainTable
from fl_privacy.strategies.records import Counts, ValidatingGrid, pack, unpack

EVERY_SECONDS = 2.0  # at most so much work is done again, and what the first round released is there at once
MODEL, STATE = "model/", "state/"
Evaluate = Callable[[int, ArrayRecord], MetricRecord | None]
Kept = tuple[Tensors, PlainTable]
"""The tensors and the facts of a checkpoint."""
HISTORIES = ("train_metrics_clientapp", "evaluate_metrics_clientapp", "evaluate_metrics_serverapp")
NOTHING: PlainTable = {"round": -1, "counts": [], **{name: {} for name in HISTORIES}}
"""The facts before the first round."""


class Resumable(Strategy):
    """Runs `inner`, and hands `save` what there is after a round: model, `state`, metrics, counts.

    With `last`, the rounds that it tells of are not played again: their results come from it, and the next round starts
    from its state. `state` is whatever `inner`, and its clients, keep between rounds; None where nobody can tell that,
    and then nothing is saved. `counts`: (round, what became of
    the messages of one exchange), as of the last round that is over.
    """

    def __init__(
        self, inner: Strategy, state: State | None, save: Callable[[Tensors, PlainTable], None], last: Kept | None
    ) -> None:
        self.inner, self.state, self.save = inner, state, save
        self._tensors, self._facts = last or ({}, NOTHING)
        self.counts = counted(self._facts)
        self._done: int = self._facts["round"]
        self._history = history(self._facts)
        self._saved = time.monotonic()

    def start(  # type: ignore[override]
        self,
        grid: ValidatingGrid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Evaluate | None = None,
    ) -> Result:
        """Flower's loop, over the rounds that are left."""
        begun = len(grid.rounds)
        grid.rounds += [each for _, each in self.counts]
        if self.state and self._done >= 0:
            self.state.give(under(STATE, self._tensors), self._facts["state"])

        def evaluate(round: int, arrays: ArrayRecord) -> MetricRecord | None:
            if round <= self._done:
                return self._history.evaluate_metrics_serverapp.get(round)
            self.counts += [(round, each) for each in grid.rounds[begun + len(self.counts) :]]
            measured = evaluate_fn(round, arrays) if evaluate_fn else None
            if measured is not None:
                self._history.evaluate_metrics_serverapp[round] = measured
            asked = round in (max(self._done, 0) + 1, num_rounds)
            if self.state and (asked or time.monotonic() - self._saved >= EVERY_SECONDS):
                self.save(*self._reached(round, arrays, self.state))
                self._saved = time.monotonic()
            return measured

        return super().start(
            grid, initial_arrays, num_rounds, timeout, train_config, evaluate_config, evaluate_fn=evaluate
        )

    def _reached(self, round: int, arrays: ArrayRecord, beside: State) -> Kept:
        state, facts = beside.take()
        tensors = {f"{MODEL}{name}": value for name, value in unpack(arrays).items()}
        tensors |= {f"{STATE}{name}": value for name, value in state.items()}
        told: PlainTable = {"round": round, "names": list(unpack(arrays)), "state": facts}
        told["counts"] = [[played, asdict(each)] for played, each in self.counts]
        for name in HISTORIES:
            told[name] = {str(number): dict(row) for number, row in getattr(self._history, name).items()}
        return tensors, told

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return [] if server_round <= self._done else self.inner.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        if server_round <= self._done:
            model = under(MODEL, self._tensors)
            reached = pack({name: model[name] for name in self._facts["names"]}) if server_round == self._done else None
            return reached, self._history.train_metrics_clientapp.get(server_round)
        arrays, metrics = self.inner.aggregate_train(server_round, replies)
        if metrics is not None:
            self._history.train_metrics_clientapp[server_round] = metrics
        return arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return [] if server_round <= self._done else self.inner.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        if server_round <= self._done:
            return self._history.evaluate_metrics_clientapp.get(server_round)
        metrics = self.inner.aggregate_evaluate(server_round, replies)
        if metrics is not None:
            self._history.evaluate_metrics_clientapp[server_round] = metrics
        return metrics

    def summary(self) -> None:
        self.inner.summary()


def history(facts: PlainTable) -> Result:
    """The metrics of the rounds that a checkpoint tells of."""
    found = Result()
    for name in HISTORIES:
        rows = {int(number): MetricRecord(dict(row)) for number, row in facts[name].items()}
        getattr(found, name).update(rows)
    return found


def counted(facts: PlainTable) -> list[tuple[int, Counts]]:
    """What became of the messages of those rounds: (round, one exchange)."""
    return [(round, Counts(**each)) for round, each in facts["counts"]]
