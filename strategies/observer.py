"""An honest-but-curious server: any Flower strategy, with everything that its clients release written down."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import nn

from fl_privacy.federated.aggregation import weighted_mean
from fl_privacy.observation import ChannelName, Observation, Spec, Tensors
from fl_privacy.strategies.records import METRICS, applied_in, unpack
from fl_privacy.weights import load_weights


class HonestButCurious(Strategy):
    """Wraps `inner`, hands an Observation of every valid train reply to `sink`, and changes nothing.

    `model` builds the adversary's copy, with every module in the mode in which the clients run it; it gets the weights
    that were sent, and the observations of a round share it.
    `rounds` limits which rounds are recorded (None: all). On the GRADIENT channel the payload is what the reply holds,
    on UPDATE it is the reply minus what was sent, over the floating-point arrays. With `sums` it is one observation a
    round, of the mean over all replies, as under secure aggregation, which shows no single one.

    A client is the partition that its reply names as the metric 'client', as this package's own client apps do. Those
    of any other Flower app are numbered in the order in which they are first sent a model, by node id within a round.
    """

    def __init__(
        self,
        inner: Strategy,
        sink: Callable[[Observation], None],
        model: Callable[[], nn.Module],
        spec: Spec,
        rounds: Collection[int] | None = None,
        channel: ChannelName = ChannelName.GRADIENT,
        sums: bool = False,
    ) -> None:
        if channel not in (ChannelName.GRADIENT, ChannelName.UPDATE):
            raise ValueError(f"a strategy's replies are gradients or updates, not {channel}s")
        self.inner, self.sink, self.model, self.spec = inner, sink, model, spec
        self.rounds, self.channel, self.sums = rounds, channel, sums
        self._sent: dict[int, ArrayRecord] = {}
        self._nodes: dict[int, int] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        messages = list(self.inner.configure_train(server_round, arrays, config, grid))
        for node in sorted(m.metadata.dst_node_id for m in messages):
            self._nodes.setdefault(node, len(self._nodes))
        self._sent = {m.metadata.dst_node_id: next(iter(m.content.array_records.values())) for m in messages}
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        if self.rounds is None or server_round in self.rounds:
            copies: dict[int, tuple[nn.Module, Tensors]] = {}  # one model for each record sent, as a rule one a round
            seen = [self._observe(server_round, reply, copies) for reply in replies if reply.has_content()]
            for observation in [summed(seen)] if self.sums and seen else seen:
                self.sink(observation)
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
        spec = replace(self.spec, batch_size=_examples(reply)) if self.sums else self.spec
        return Observation(
            channel=self.channel,
            payload=payload,
            model=model,
            spec=spec,
            round=server_round,
            client=self._client(reply),
            applied=applied_in(reply.content),
        )

    def _client(self, reply: Message) -> int:
        records = reply.content.metric_records
        said = records[METRICS].get("client") if METRICS in records else None
        return self._nodes[reply.metadata.src_node_id] if said is None else int(said)  # type: ignore[arg-type]

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return self.inner.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        return self.inner.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        self.inner.summary()


def _examples(reply: Message) -> int:
    """How many examples a client says that its reply is made of.

    Raises:
        ValueError: it does not say.
    """
    found = [each["num-examples"] for each in reply.content.metric_records.values() if "num-examples" in each]
    if not found:
        raise ValueError(
            "a sum over clients needs to know of how many examples each reply is made, and a client did not say: let "
            "its app send the metric 'num-examples', as Flower's own strategies ask of it"
        )
    return int(found[0])  # type: ignore[arg-type]


def summed(seen: Sequence[Observation]) -> Observation:
    """One observation of the mean over clients that got one model: what secure aggregation leaves to see.

    Where they ran several chains of defences, `applied` names them all.

    Raises:
        ValueError: the clients' numbers of examples differ.
    """
    first, *rest = seen
    if len({each.spec.batch_size for each in seen}) > 1:
        raise ValueError(
            "a mean over clients with unequal numbers of examples weighs them unequally, which an observation cannot "
            "hold yet: give every client as many"
        )
    applied = sorted({each.applied or "unsaid" for each in seen})
    return replace(
        first,
        applied=first.applied if len(applied) == 1 else " or ".join(applied),
        payload=weighted_mean([each.payload for each in seen], [1.0] * len(seen)),
        others=tuple(each.client for each in rest),
        spec=replace(first.spec, batch_size=len(seen) * first.spec.batch_size),
    )
