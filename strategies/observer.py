"""An honest-but-curious server: any Flower strategy, with everything that its clients release written down."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import nn

from fl_privacy.federated.aggregation import weighted_mean
from fl_privacy.observation import ChannelName, Observation, Spec, Tensors
from fl_privacy.strategies.recorder import Numbered, Recorder
from fl_privacy.strategies.records import METRICS, applied_in, unpack
from fl_privacy.strategies.wrapping import Wrapping
from fl_privacy.weights import load_weights


class HonestButCurious(Wrapping):
    """Wraps `inner`, writes down what its clients release, and changes nothing.

        strategy = HonestButCurious(FedAvg(), out="observations")

    With `out`, the weights sent and the replies received go into that folder (`recorder` says how), of every node of
    any app: `rounds` and `clients` choose (None: all; clients are counted from 0 as they are first sent a model), at
    most `max_bytes` are written, and what fails there is a warning in the log. `model`, the app's own, is written down
    by name and never built; `run_config` (context.run_config) is asked of Flower where it is not given.

    With `sink`, every valid train reply is handed to it as an Observation, and what fails is raised. `model` builds the
    adversary's copy, with every module in the mode in which the clients run it; it gets the weights that were sent, and
    the observations of a round share it. On the GRADIENT channel the payload is what the reply holds, on UPDATE it is
    the reply minus what was sent, over the floating-point arrays. With `sums` it is one observation a round, of the
    mean over all replies, as under secure aggregation, which shows no single one. A client is the partition that its
    reply names as the metric 'client', as this package's own client apps do, else its number as above.

    Raises:
        ValueError: neither or both of `out` and `sink`, or what one of them needs is missing.
    """

    def __init__(
        self,
        inner: Strategy,
        sink: Callable[[Observation], None] | None = None,
        model: Callable[[], nn.Module] | None = None,
        spec: Spec | None = None,
        rounds: Collection[int] | None = None,
        channel: ChannelName = ChannelName.GRADIENT,
        sums: bool = False,
        *,
        out: str | os.PathLike[str] | None = None,
        clients: Collection[int] | None = None,
        max_bytes: int = 10**9,
        run_config: Mapping[str, object] | None = None,
    ) -> None:
        if (out is None) == (sink is None):
            raise ValueError(
                "where shall observations go? Give out='observations', a folder, or sink=..., a function that takes "
                "each of them, and not both"
            )
        self.inner = inner
        self._configure, self._aggregate = inner.configure_train, inner.aggregate_train
        self._nodes: dict[int, int] = {}
        self._run_config = run_config
        self._watch: Recorder | _Observations
        if out is not None:
            about = {
                "strategy": type(inner).__name__,
                "model": _name_of(model),
                "weighted_by": getattr(inner, "weighted_by_key", None),
                "run_config": dict(run_config or {}),
            }
            self._watch = Recorder(Path(out), about, rounds, clients, max_bytes)
        elif sink is None or model is None or spec is None:
            raise ValueError("a sink gets whole observations, which need model=... and spec=...")
        else:
            self._watch = _Observations(sink, model, spec, rounds, channel, sums)

    def start(self, grid: Grid, *args: Any, **kwargs: Any) -> Result:
        """The wrapped strategy's own loop, where it has one, else Flower's."""
        if isinstance(self._watch, Recorder) and self._run_config is None:
            self._watch.about = {**self._watch.about, "run_config": _run_config_of(grid)}
        if type(self.inner).start is Strategy.start:
            return super().start(grid, *args, **kwargs)
        # its loop calls its own hooks, in whose place ours stand meanwhile
        inner, own = vars(self.inner), dict(vars(self.inner))
        inner.update(configure_train=self.configure_train, aggregate_train=self.aggregate_train)
        try:
            return self.inner.start(grid, *args, **kwargs)
        finally:
            for name in ("configure_train", "aggregate_train"):
                del inner[name]
                inner.update({name: own[name]} if name in own else {})

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        messages = list(self._configure(server_round, arrays, config, grid))
        for node in sorted(m.metadata.dst_node_id for m in messages):
            self._number(node)
        self._watch.sent(
            server_round, [(self._number(m.metadata.dst_node_id), m) for m in messages], _record_of(self.inner)
        )
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        self._watch.received(server_round, [(self._number(r.metadata.src_node_id), r) for r in replies])
        return self._aggregate(server_round, replies)

    def _number(self, node: int) -> int:
        return self._nodes.setdefault(node, len(self._nodes))


def _record_of(strategy: Strategy) -> str | None:
    """Under which name a strategy sends the weights, where it says so, itself or the one that it wraps."""
    for each in (strategy, getattr(strategy, "strategy", None)):
        if isinstance(name := getattr(each, "arrayrecord_key", None), str):
            return name
    return None


def _name_of(model: object) -> str | None:
    """How `--model` would name a class or function; None for a lambda and the like."""
    module, name = getattr(model, "__module__", None), str(getattr(model, "__qualname__", ""))
    return f"{module}:{name}" if module and name.replace(".", "").isidentifier() else None


def _run_config_of(grid: Grid) -> dict[str, object]:
    """The app's run config as Flower knows it; empty where it does not, as in a simulation from Python."""
    try:
        from flwr.common.config import get_fused_config  # no public name leads there

        return dict(get_fused_config(grid.run))
    except Exception:  # a note beside the observations, and no more
        return {}


class _Observations:
    """What a sink gets: an Observation of each valid reply."""

    def __init__(
        self,
        sink: Callable[[Observation], None],
        model: Callable[[], nn.Module],
        spec: Spec,
        rounds: Collection[int] | None,
        channel: ChannelName,
        sums: bool,
    ) -> None:
        if channel not in (ChannelName.GRADIENT, ChannelName.UPDATE):
            raise ValueError(f"a strategy's replies are gradients or updates, not {channel}s")
        self.sink, self.model, self.spec = sink, model, spec
        self.rounds, self.channel, self.sums = rounds, channel, sums
        self._sent: dict[int, ArrayRecord] = {}

    def sent(self, server_round: int, messages: Numbered, record: str | None) -> None:
        self._sent = {m.metadata.dst_node_id: next(iter(m.content.array_records.values())) for _, m in messages}

    def received(self, server_round: int, replies: Numbered) -> None:
        if self.rounds is None or server_round in self.rounds:
            copies: dict[int, tuple[nn.Module, Tensors]] = {}  # one model for each record sent, as a rule one a round
            valid = [(number, reply) for number, reply in replies if reply.has_content()]
            seen = [self._observe(server_round, number, reply, copies) for number, reply in valid]
            for observation in [summed(seen)] if self.sums and seen else seen:
                self.sink(observation)

    def _observe(
        self, server_round: int, number: int, reply: Message, copies: dict[int, tuple[nn.Module, Tensors]]
    ) -> Observation:
        record = self._sent[reply.metadata.src_node_id]
        if id(record) not in copies:
            sent = unpack(record)
            model = self.model()
            load_weights(model, sent)
            copies[id(record)] = model, sent
        model, sent = copies[id(record)]
        payload = unpack(next(iter(reply.content.array_records.values())))
        if self.channel is ChannelName.UPDATE:
            kinds = {name: value.dtype for name, value in model.state_dict().items() if value.is_floating_point()}
            # some strategies send float64, and a client loads that into the types of its model before it trains
            payload = {n: v.to(kinds[n]) - sent[n].to(kinds[n]) for n, v in payload.items() if n in kinds}
        spec = replace(self.spec, batch_size=_examples(reply)) if self.sums else self.spec
        return Observation(
            channel=self.channel,
            payload=payload,
            model=model,
            spec=spec,
            round=server_round,
            client=_client(number, reply),
            applied=applied_in(reply.content),
        )


def _client(number: int, reply: Message) -> int:
    records = reply.content.metric_records
    said = records[METRICS].get("client") if METRICS in records else None
    return number if said is None else int(said)  # type: ignore[arg-type]


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
