"""Private inference: the server hands out a classifier, and every client sends its answers, once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import nn

from fl_privacy.joint_training.pair import OUTPUTS, outputs
from fl_privacy.observation import ChannelName, Observation, Spec
from fl_privacy.seeding import one_thread
from fl_privacy.strategies.mods import TaskOf, task_mod
from fl_privacy.strategies.records import (
    ARRAYS,
    CONFIG,
    METRICS,
    Schema,
    applied_in,
    client_of,
    reply_with,
    round_of,
    unpack,
)

QUERY = "query.outputs"


def outputs_schema(spec: Spec) -> Schema:
    """What the guard should expect of 'query.outputs' replies: one float32 row of `classes` numbers an image."""
    shape = (spec.batch_size, spec.classes)
    metrics = frozenset({"num-examples", "client"})
    return Schema({OUTPUTS: (shape, np.dtype(np.float32))}, metrics, spec.batch_size, 4 * shape[0] * shape[1] + 2**20)


def inference_app(task_of: TaskOf) -> ClientApp:
    """The users: 'query.outputs' answers for the party's private batch, through its defences; 'query.hello'."""
    app = ClientApp(mods=[task_mod(task_of)])

    @app.query("outputs")
    def answer(message: Message, context: Context) -> Message:
        client_task, client = task_of(message, context), client_of(context)
        model = client_task.model()
        model.load_state_dict(unpack(message.content.array_records[ARRAYS]))
        model.to(client_task.device)
        images, _ = client_task.batch(client, round_of(message))
        with one_thread():
            released = outputs(model, images)
        return reply_with(message, {"num-examples": len(images), "client": client}, {OUTPUTS: released})

    @app.query("hello")
    def hello(message: Message, context: Context) -> Message:
        return reply_with(message, {"client": client_of(context)})

    return app


class PrivateInference(Strategy):
    """Asks every client for its outputs once, `clients_per_round` a round in partition order, and trains nothing.

    `sink` gets an Observation of every valid reply. `model` builds the server's own copy of the classifier, with the
    weights that were sent; it comes as `model` and, as a black box would, as `query`.
    """

    def __init__(
        self, clients_per_round: int, sink: Callable[[Observation], None], model: Callable[[], nn.Module], spec: Spec
    ) -> None:
        if clients_per_round < 1:
            raise ValueError(f"clients_per_round must be at least 1, not {clients_per_round}")
        self.clients_per_round, self.sink, self.model, self.spec = clients_per_round, sink, model, spec
        self._own: nn.Module | None = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        if self._own is None:
            self._own = self.model()
            self._own.load_state_dict(unpack(arrays))
            self._own.eval()
        config["server-round"] = server_round
        content = RecordDict({ARRAYS: arrays, CONFIG: config})
        start = (server_round - 1) * self.clients_per_round
        nodes = list(grid.get_node_ids())[start : start + self.clients_per_round]
        return [Message(content, dst_node_id=node, message_type=QUERY) for node in nodes]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        assert self._own is not None
        answered = 0
        for reply in replies:
            if reply.has_content():
                self.sink(self._observe(server_round, reply, self._own))
                answered += 1
        return None, MetricRecord({"answered": answered})

    def _observe(self, server_round: int, reply: Message, own: nn.Module) -> Observation:
        return Observation(
            channel=ChannelName.OUTPUT,
            payload=unpack(reply.content.array_records[ARRAYS]),
            spec=self.spec,
            round=server_round,
            client=int(reply.content.metric_records[METRICS]["client"]),  # type: ignore[arg-type]
            model=own,
            query=partial(outputs, own),
            applied=applied_in(reply.content),
        )

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        return None

    def summary(self) -> None:
        """Flower calls this at the start; there is nothing to add to what the experiment already says."""
