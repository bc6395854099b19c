"""What stands around any app's strategy, and leaves to it all that it has no word in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy


class Wrapping(Strategy):
    """A strategy around `inner`: evaluation, summary and other attributes are those of `inner`."""

    inner: Strategy

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # while it is unpickled or copied
            raise AttributeError(name)
        return getattr(self.inner, name)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return self.inner.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        return self.inner.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        self.inner.summary()
