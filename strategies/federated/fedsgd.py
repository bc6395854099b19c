"""Gradient sharing (FedSGD): every round some clients send one gradient each, and the server takes the step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import nn

from fl_privacy.federated.aggregation import weighted_mean
from fl_privacy.seeding import stream
from fl_privacy.strategies.federated.client import gradient_app
from fl_privacy.strategies.records import ARRAYS, CONFIG, METRICS, Schema, pack, schema_of, unpack
from fl_privacy.weights import trainable, with_tied

__all__ = ["GradientSharing", "gradient_app", "gradient_schema"]


def gradient_schema(model: nn.Module, max_examples: int = 1_000_000) -> Schema:
    """What the guard should expect of 'train.gradient' replies: one array a trained parameter, none for buffers."""
    return schema_of(pack(dict(trainable(model))), max_examples=max_examples)


class GradientSharing(Strategy):
    """FedSGD: averages gradients by their numbers of examples and steps with `learning_rate`; buffers stay as they are.

    Each round asks `clients_per_round` clients, drawn without replacement from the strategy's own seeded stream.
    `tied`: further names of weights that several layers share (`fl_privacy.weights.tied`), which follow the first.

    The running statistics of batch normalisation are no gradients, so no client releases them and the server's stay
    those of the start: calibrate before evaluating (`fl_privacy.federated.client.calibrate`).
    Source: McMahan et al. 2017, section 2 (FedSGD).
    """

    def __init__(
        self, clients_per_round: int, learning_rate: float, seed: int, tied: Mapping[str, str] | None = None
    ) -> None:
        if clients_per_round < 1:
            raise ValueError(f"clients_per_round must be at least 1, not {clients_per_round}")
        self.clients_per_round, self.learning_rate, self.seed = clients_per_round, learning_rate, seed
        self.tied = dict(tied or {})
        self._arrays = ArrayRecord()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._arrays = arrays
        nodes = list(grid.get_node_ids())
        if len(nodes) < self.clients_per_round:
            raise ValueError(f"clients_per_round is {self.clients_per_round}, but there are only {len(nodes)} clients")
        config["server-round"] = server_round
        content = RecordDict({ARRAYS: arrays, CONFIG: config})
        drawn = torch.randperm(len(nodes), generator=stream(self.seed, "sample", server_round))
        chosen = sorted(drawn[: self.clients_per_round].tolist())
        return [Message(content, dst_node_id=nodes[i], message_type="train.gradient") for i in chosen]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        valid = [reply.content for reply in replies if reply.has_content()]
        if not valid:
            return None, None
        metrics = [content.metric_records[METRICS] for content in valid]
        weights = [int(m["num-examples"]) for m in metrics]  # type: ignore[arg-type]
        slope = weighted_mean([unpack(content.array_records[ARRAYS]) for content in valid], weights)
        model = unpack(self._arrays)
        for name, value in slope.items():
            model[name] = model[name] - self.learning_rate * value
        losses = [float(m["train_loss"]) for m in metrics]  # type: ignore[arg-type]
        loss = sum(w * value for w, value in zip(weights, losses, strict=True)) / sum(weights)
        return pack(with_tied(model, self.tied)), MetricRecord({"train_loss": loss})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        return None

    def summary(self) -> None:
        """Flower calls this at the start; there is nothing to add to what the experiment already says."""
