"""Split learning as a Flower strategy: sequential or parallel clients, one server segment, a choice of link."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor, nn

from fl_privacy.federated.aggregation import weighted_mean
from fl_privacy.observation import ChannelName, Observation, Spec, Tensors
from fl_privacy.seeding import stream
from fl_privacy.settings import PlainTable
from fl_privacy.split.loop import mean_loss, turns
from fl_privacy.split.rules import SplitRules
from fl_privacy.split.segments import ACTIVATION, BlackBox, ClientSegment, segments
from fl_privacy.strategies.records import ARRAYS, METRICS, applied_in, pack, unpack
from fl_privacy.strategies.split.client import split_app
from fl_privacy.strategies.split.evaluation import evaluate
from fl_privacy.strategies.split.link import ServerTransport
from fl_privacy.strategies.split.round import Asker, CohortRound, Trained
from fl_privacy.strategies.split.settings import SplitSettings, split_schemas
from fl_privacy.strategies.split.transport import open_transport

__all__ = ["SplitLearning", "SplitSettings", "split_app", "split_schemas"]

Sink = Callable[[Observation], None]


class SplitLearning(Strategy):
    """The computational server. It holds the architecture and the rules, and of the clients only what they release.

    The model's weights travel as one record: the clients' part goes on to the clients, the server's part stays on the
    server for the run. `sink` gets the observations, `spec` describes them.

    Source: Gupta and Raskar 2018 (sequential); Thapa et al. 2022, SplitFedV2 (parallel, one server segment).
    """

    def __init__(
        self,
        model: Callable[[], nn.Module],
        rules: SplitRules,
        settings: SplitSettings,
        spec: Spec,
        sink: Sink | None = None,
    ) -> None:
        self.model, self.rules, self.settings, self.spec, self.sink = model, rules, settings, spec, sink
        self._transport: ServerTransport | None = None
        self._begun: tuple[Tensors, int] = {}, 0
        self._steps: dict[int, int] = {}
        self._trained: tuple[ArrayRecord | None, MetricRecord | None] = None, None
        self._evaluated: MetricRecord | None = None

    def start(self, *args: Any, **kwargs: Any) -> Result:
        """Flower's loop; the server is closed at its end, however it ends."""
        try:
            return super().start(*args, **kwargs)
        finally:
            self.close()

    def close(self) -> None:
        """End the server segment, where another loop than `start` has run the rounds."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def take(self) -> tuple[Tensors, PlainTable]:
        """What the server keeps between rounds beside the model: its optimiser's state, and what it has counted."""
        optimiser, served = self._begun if self._transport is None else self._transport.kept()
        return optimiser, {"served": served, "steps": {str(client): steps for client, steps in self._steps.items()}}

    def give(self, tensors: Tensors, facts: PlainTable) -> None:
        """Begin with what `take` gave, before the first round."""
        self._begun = tensors, facts["served"]
        self._steps = {int(client): steps for client, steps in facts["steps"].items()}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Run the whole round: it takes many exchanges, and Flower's loop has room for one."""
        asker, chosen = self._asker(server_round, config, grid)
        state, server = self._parts(unpack(arrays))
        if self._transport is None:
            _, module = segments(self.model(), self.rules)
            module.load_state_dict(server)
            its = self.settings
            self._transport = open_transport(
                its.link, module, self.rules, its.seed, its.patience, its.together, its.device
            )
            self._transport.go_on(*self._begun)
        state, done = self._round(asker, self._transport, self._ready(asker, chosen), state, server_round)
        if done:
            loss = mean_loss([(trained.examples, trained.loss) for trained in done])
            metrics = MetricRecord({"train_loss": loss, "clients": len(done)})
        self._trained = self._joined(state, self._transport.state()), metrics if done else None
        return []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        return self._trained

    def _asker(self, server_round: int, config: ConfigRecord, grid: Grid) -> tuple[Asker, list[int]]:
        nodes, count = list(grid.get_node_ids()), self.settings.clients_per_round
        if len(nodes) < count:
            raise ValueError(f"clients_per_round is {count}, but there are only {len(nodes)} clients")
        drawn = torch.randperm(len(nodes), generator=stream(self.settings.seed, "sample", server_round))
        asker = Asker(grid, nodes, {**config, "server-round": server_round})
        return asker, sorted(drawn[:count].tolist())

    def _ready(self, asker: Asker, chosen: Sequence[int]) -> list[int]:
        """The clients that say, or have said, how many mini-batches make a turn of theirs."""
        unknown: dict[int, dict[str, Any]] = {client: {} for client in chosen if client not in self._steps}
        if unknown:
            for client, content in asker.ask("query.split_steps", unknown).items():
                self._steps[client] = int(content.metric_records[METRICS]["steps"])  # type: ignore[arg-type]
        return [client for client in chosen if client in self._steps]

    def _round(
        self, asker: Asker, transport: ServerTransport, chosen: Sequence[int], state: Tensors, server_round: int
    ) -> tuple[Tensors, list[Trained]]:
        parallel = self.settings.parallel
        observed = self.settings.observed_rounds
        tapped_step = 0 if self.sink is not None and (observed is None or server_round in observed) else None
        done: list[Trained] = []
        together = self.settings.together if parallel else 1
        for order in turns({client: self._steps[client] for client in chosen}, together):
            transport.begin(order, tapped_step)
            finished = self._run(CohortRound(asker, transport, order, state))
            self._observe(transport, server_round, state)
            done += finished
            if finished and not parallel:
                state = finished[-1].state
        if done and parallel:
            state = weighted_mean([trained.state for trained in done], [float(trained.examples) for trained in done])
        return state, done

    def _run(self, cohort: CohortRound) -> list[Trained]:
        if self.settings.link == "messages":
            done = cohort.by_messages(self.rules)
        elif self.settings.link == "local" and len(cohort.steps) > 1:
            done = cohort.step_by_step()
        else:
            done = cohort.over_link()
        return [done[client] for client in sorted(done)]

    def _observe(self, transport: ServerTransport, server_round: int, state: Tensors) -> None:
        if self.sink is None:
            return
        for tapped in sorted(transport.tapped(), key=lambda kept: kept.client):
            seen = self._observation(tapped.activation, state, server_round, tapped.client, training=True)
            self.sink(replace(seen, labels=tapped.labels))

    def _observation(
        self, activation: Tensor, state: Tensors, server_round: int, client: int, training: bool
    ) -> Observation:
        front = self._client(state).front if self.settings.adversary_knowledge else None
        local = replace(self.spec.local, mode="train" if training else "eval")
        return Observation(
            channel=ChannelName.ACTIVATION,
            payload={ACTIVATION: activation},
            spec=replace(self.spec, batch_size=len(activation), local=local),
            round=server_round,
            client=client,
            model=front if "model" in self.settings.adversary_knowledge else None,
            query=BlackBox(front) if front is not None and "query" in self.settings.adversary_knowledge else None,
        )

    def infer(
        self, grid: Grid, arrays: ArrayRecord, server_round: int, config: ConfigRecord | None = None
    ) -> list[Observation]:
        """An inference round over a trained model: what this round's clients release for their held-out inputs.

        Every call of another `server_round` draws fresh noise for the same inputs. `sink` gets the observations too.
        """
        asker, chosen = self._asker(server_round, config or ConfigRecord(), grid)
        state, _ = self._parts(unpack(arrays))
        replies = asker.ask("query.activation", {client: {} for client in chosen}, state)
        seen = []
        for client, content in replies.items():
            released = unpack(content.array_records[ARRAYS])[ACTIVATION]
            made = self._observation(released, state, server_round, client, training=False)
            seen.append(replace(made, applied=applied_in(content)))
        for observation in seen if self.sink is not None else ():
            self.sink(observation)  # type: ignore[misc]
        return seen

    def learnt(self, grid: Grid, server_round: int, config: ConfigRecord) -> dict[int, Tensors]:
        """What the serving defences of this round's clients have learnt, by client, of those that tell."""
        asker, chosen = self._asker(server_round, config, grid)
        replies = asker.ask("query.learnt", {client: {} for client in chosen})
        return {client: unpack(content.array_records[ARRAYS]) for client, content in replies.items()}

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        if self.settings.evaluate:
            asker, chosen = self._asker(server_round, config, grid)
            self._evaluated = evaluate(asker, chosen, self.model(), unpack(arrays), self.rules)
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        return self._evaluated

    def summary(self) -> None:
        """Flower calls this at the start; there is nothing to add to what the experiment already says."""

    def _client(self, state: Tensors) -> ClientSegment:
        client, _ = segments(self.model(), self.rules)
        client.owned.load_state_dict(state)
        return client

    def _parts(self, whole: Tensors) -> tuple[Tensors, Tensors]:
        client, module = segments(self.model(), self.rules)
        return {n: whole[n] for n in client.owned.state_dict()}, {n: whole[n] for n in module.state_dict()}

    def _joined(self, client: Tensors, server: Tensors) -> ArrayRecord:
        both = {**client, **server}
        return pack({name: both[name] for name in self.model().state_dict()})
