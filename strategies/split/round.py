"""One wave of split training, driven from the server: whole turns over a link, single steps over one, or messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fl_privacy.observation import Tensors
from fl_privacy.split.loop import mean_loss
from fl_privacy.split.rules import SplitRules
from fl_privacy.split.segments import ACTIVATION
from fl_privacy.strategies.records import ARRAYS, CONFIG, METRICS, pack, unpack
from fl_privacy.strategies.split.client_messages import GRADIENT, LABELS, OUTPUTS
from fl_privacy.strategies.split.link import ServerTransport
from fl_privacy.strategies.split.server import ClientStep
from fl_privacy.strategies.split.transport import LocalServerTransport


@dataclass(frozen=True)
class Trained:
    """What a client's turn came to: its segment, its number of examples, their mean loss."""

    state: Tensors
    examples: int
    loss: float


@dataclass(frozen=True)
class Asker:
    """Sends split-learning messages to clients by number; `config` goes with every one of them."""

    grid: Grid
    nodes: Sequence[int]
    config: Mapping[str, Any]

    def ask(
        self, kind: str, clients: Mapping[int, Mapping[str, Any]], arrays: Tensors | None = None
    ) -> dict[int, RecordDict]:
        """Send each client its config and all the same arrays; the valid replies by client, without those that fail."""
        asked = {self.nodes[client]: client for client in clients}
        record = None if arrays is None else pack(arrays)
        messages = []
        for client, config in clients.items():
            content = RecordDict({CONFIG: ConfigRecord({**self.config, **config})})
            if record is not None:
                content[ARRAYS] = record
            messages.append(Message(content, dst_node_id=self.nodes[client], message_type=kind))
        replies = self.grid.send_and_receive(messages)
        found = {asked[r.metadata.src_node_id]: r.content for r in replies if r.has_content()}
        return dict(sorted(found.items()))


class CohortRound:
    """Clients that take turns in `order` from one starting state, by `over_link`, `step_by_step` or `by_messages`."""

    def __init__(self, asker: Asker, transport: ServerTransport, order: Sequence[ClientStep], state: Tensors) -> None:
        self.asker, self.transport, self.order, self.state = asker, transport, order, state
        self.steps = {client: 1 + max(s for c, s in order if c == client) for client, _ in order}
        self.lost: set[int] = set()
        self.losses: dict[int, list[tuple[int, float]]] = {client: [] for client in self.steps}
        self.done: dict[int, Trained] = {}

    def over_link(self) -> dict[int, Trained]:
        """All clients at once, a whole turn each; they wait for each other at the server."""
        asked = {c: {"step": 0, "end": steps, **self.transport.address} for c, steps in self.steps.items()}
        for client, content in self.asker.ask("train.split", asked, self.state).items():
            self._note(client, content)
        return self.done

    def step_by_step(self) -> dict[int, Trained]:
        """Clients that cannot wait for each other, because they run one after the other: a message a mini-batch."""
        for client, step in self.order:
            if client not in self.lost:
                self._one_step(client, step)
        return self.done

    def _one_step(self, client: int, step: int) -> None:
        config = {"step": step, "end": step + 1, **self.transport.address}
        content = self._ask("train.split", client, config, self.state if step == 0 else None)
        if content is not None:
            self._note(client, content)

    def by_messages(self, rules: SplitRules) -> dict[int, Trained]:
        """Every mini-batch as two messages, three in the U-shape."""
        for client, step in self.order:
            if client not in self.lost:
                self._one_exchange(rules, client, step)
        return self.done

    def _one_exchange(self, rules: SplitRules, client: int, step: int) -> None:
        config: dict[str, Any] = {"step": step}
        released = self._ask("train.split_forward", client, config, self.state if step == 0 else None)
        if released is None:
            return
        arrays = unpack(released.array_records[ARRAYS])
        if rules.labels == "server":
            answer = self._serve((client, step), "step", arrays, ACTIVATION, LABELS)
            config |= {"loss": float(answer[1])} if answer else {}
        else:
            answer = self._u_shaped((client, step), arrays)
        if answer is None:
            return
        content = self._ask("train.split_backward", client, config, {GRADIENT: answer[0]})
        if content is not None:
            self._note(client, content)

    def _u_shaped(self, turn: ClientStep, arrays: Tensors) -> list[Tensor] | None:
        outputs = self._serve(turn, "forward", arrays, ACTIVATION)
        if outputs is None:
            return None
        reply = self._ask("train.split_respond", turn[0], {"step": turn[1]}, {OUTPUTS: outputs[0]})
        if reply is None:
            return None
        return self._serve(turn, "backward", unpack(reply.array_records[ARRAYS]), GRADIENT)

    def _serve(self, turn: ClientStep, call: str, arrays: Tensors, *names: str) -> list[Tensor] | None:
        assert isinstance(self.transport, LocalServerTransport)
        try:
            return self.transport.server.serve(turn, call, [arrays[name] for name in names])
        except (KeyError, RuntimeError, ValueError, IndexError):  # what a malformed release can cause in the segment
            self._lose(turn[0])
            return None

    def _ask(self, kind: str, client: int, config: Mapping[str, Any], arrays: Tensors | None) -> RecordDict | None:
        content = self.asker.ask(kind, {client: config}, arrays).get(client)
        if content is None:
            self._lose(client)
        return content

    def _lose(self, client: int) -> None:
        self.lost.add(client)
        self.transport.drop(client)

    def _note(self, client: int, content: RecordDict) -> None:
        metrics: Any = content.metric_records[METRICS]
        self.losses[client].append((int(metrics["num-examples"]), float(metrics["train_loss"])))
        if ARRAYS not in content.array_records:
            return
        state = unpack(content.array_records[ARRAYS])
        if not _alike(state, self.state):
            self._lose(client)
            return
        examples = sum(count for count, _ in self.losses[client])
        self.done[client] = Trained(state, examples, mean_loss(self.losses[client]))


def _alike(state: Tensors, sent: Tensors) -> bool:
    """Whether a returned segment has the names, shapes and types of the one that was sent."""
    return list(state) == list(sent) and all(
        value.shape == sent[name].shape and value.dtype == sent[name].dtype for name, value in state.items()
    )
