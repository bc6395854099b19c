"""A guard for any app's own strategy: what a reply must look like follows from what was sent."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fl_privacy.strategies.guard import Rejected, Schema, check_alike, schema_of
from fl_privacy.strategies.wrapping import Wrapping

WEIGHT = "num-examples"
LOG = logging.getLogger("flwr")  # the app's own log, whose lines its user reads


class Guarded(Wrapping):
    """Wraps `inner`, which gets no train reply whose arrays are not like those that its client was sent.

        strategy = Guarded(FedAvg())

    They must come in the record that was sent, under its names and in its shapes, as plain finite numbers, in no more
    than twice its bytes; metrics must be finite, and the weight of the average above 0 and at most `max_examples`. A
    reply with a fault counts as none: a warning in the log, and (round, node, why) in `rejected`. Element types may
    change, as counters do in an average. Only for strategies whose clients send back what they were sent.

    Raises:
        ValueError: `inner` has a loop of its own, beside which nobody can stand.
    """

    def __init__(self, inner: Strategy, max_examples: int = 1_000_000) -> None:
        if type(inner).start is not Strategy.start:
            raise ValueError(
                f"{type(inner).__name__} has a 'start' of its own, which asks no other strategy for its replies: put "
                "Guarded around the strategy whose aggregate_train averages them"
            )
        self.inner, self.max_examples = inner, max_examples
        self.rejected: list[tuple[int, int, str]] = []
        self._sent: dict[int, tuple[str, Schema]] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        messages, known = list(self.inner.configure_train(server_round, arrays, config, grid)), dict[int, Schema]()
        self._sent = {}
        for message in messages:
            for name, record in message.content.array_records.items():
                if id(record) not in known:  # one model for all, most often
                    known[id(record)] = schema_of(record, None, self.max_examples)
                self._sent.setdefault(message.metadata.dst_node_id, (name, known[id(record)]))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        return self.inner.aggregate_train(server_round, [each for each in replies if self._passes(server_round, each)])

    def _passes(self, server_round: int, reply: Message) -> bool:
        node = reply.metadata.src_node_id
        if reply.has_error() or node not in self._sent:  # for the strategy to judge: there is nothing to be averaged
            return True
        weight = getattr(self.inner, "weighted_by_key", WEIGHT)
        try:
            check_alike(reply, *self._sent[node], weight)
        except Rejected as fault:
            why = f"{type(fault).__name__}: {fault}"
            self.rejected.append((server_round, node, why))
            LOG.warning("round %s: the reply of node %s counts as none: %s", server_round, node, why)
            return False
        return True
