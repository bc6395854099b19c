"""An honest-but-curious server: any Flower strategy, with everything that its clients release written down."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import nn

from fl_privacy.observation import ChannelName, Observation, Spec, Tensors
from fl_privacy.strategies.records import METRICS, unpack
from fl_privacy.weights import load_weights


class HonestButCurious(Strategy):
    """Wraps `inner`, hands an Observation of every valid train reply to `sink`, and changes nothing.

    `model` builds the adversary's copy, with every module in the mode in which the clients run it; it gets the weights
    that were sent, and the observations of a round share it.
    `rounds` limits which rounds are recorded (None: all). On the GRADIENT channel the payload is what the reply holds,
    on UPDATE it is the reply minus what was sent, over the floating-point arrays.
    """

    def __init__(
        self,
        inner: Strategy,
        sink: Callable[[Observation], None],
        model: Callable[[], nn.Module],
        spec: Spec,
        rounds: Collection[int] | None = None,
        channel: ChannelName = ChannelName.GRADIENT,
    ) -> None:
        if channel not in (ChannelName.GRADIENT, ChannelName.UPDATE):
            raise ValueError(f"a strategy's replies are gradients or updates, not {channel}s")
        self.inner, self.sink, self.model, self.spec = inner, sink, model, spec
        self.rounds, self.channel = rounds, channel
        self._sent: dict[int, ArrayRecord] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        messages = list(self.inner.configure_train(server_round, arrays, config, grid))
        self._sent = {m.metadata.dst_node_id: next(iter(m.content.array_records.values())) for m in messages}
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        if self.rounds is None or server_round in self.rounds:
            copies: dict[int, tuple[nn.Module, Tensors]] = {}  # one model for each record sent, as a rule one a round
            for reply in replies:
                if reply.has_content():
                    self.sink(self._observe(server_round, reply, copies))
        return self.inner.aggregate_train(server_round, replies)

    def _observe(self, server_round: int, reply: Message, copies: dict[int, tuple[nn.Module, Tensors]]) -> Observation:
        record = self._sent[reply.metadata.src_node_id]
        if id(record) not in copies:
            sent = unpack(record)
            model = self.model()
            load_weights(model, sent)
            copies[id(record)] = model, sent
        model, sent = copies[id(record)]
        payload = unpack(next(iter(reply.content.array_records.values())))
        if self.channel is ChannelName.UPDATE:
            floating = {name for name, value in model.state_dict().items() if value.is_floating_point()}
            payload = {name: value - sent[name] for name, value in payload.items() if name in floating}
        client = int(reply.content.metric_records[METRICS]["client"])  # type: ignore[arg-type]
        return Observation(
            channel=self.channel, payload=payload, model=model, spec=self.spec, round=server_round, client=client
        )

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return self.inner.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        return self.inner.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        self.inner.summary()
