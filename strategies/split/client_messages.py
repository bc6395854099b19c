"""One message of a client's turn in split learning, over a link or by the messages themselves."""

from __future__ import annotations

from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from torch import Tensor

from fl_privacy.defences.base import Chain
from fl_privacy.defences.learning import learns
from fl_privacy.observation import Tensors
from fl_privacy.optimiser_state import load_optimiser_state, optimiser_state
from fl_privacy.split.loop import mean_loss, state_of, step_seed
from fl_privacy.split.rules import SplitClientTask
from fl_privacy.split.segments import ACTIVATION, ClientSegment, client_step, segments
from fl_privacy.strategies.records import ARRAYS, CONFIG, client_of, condition_of, pack, reply_with, round_of, unpack
from fl_privacy.strategies.split.transport import connect

LABELS, GRADIENT, OUTPUTS = "labels", "gradient", "outputs"
# where a client's state lies between messages
SEGMENT, OPTIMISER, CONDITION, LEARNT = "split.segment", "split.optimiser", "split.arm", "split.learnt"


def learnt_by(chain: Chain) -> str:
    """Where a client keeps what the defences of a chain learn beside its segment."""
    return f"{LEARNT} {chain.label}"


def accompanied(segment: ClientSegment, chain: Chain, context: Context, x: Tensor, seed: int) -> Chain:
    """The chain with what its defences have learnt on this client so far; the chain itself where none learns."""
    bound = segment.accompanied(chain, x, seed)
    if segment.companion is not None and learnt_by(chain) in context.state:
        segment.companion.go_on(unpack(context.state.array_records[learnt_by(chain)]))
    return bound


class ClientMessages:
    """One message of a client's turn: segment and optimiser come from the message and from Flower's client state."""

    def __init__(self, message: Message, context: Context, client_task: SplitClientTask) -> None:
        self.message, self.context, self.client_task = message, context, client_task
        self.client, self.round = client_of(context), round_of(message)
        self.config: dict[str, Any] = dict(message.content.config_records[CONFIG])
        self.step: int = self.config["step"]
        self.place = torch.device(client_task.device)
        self.segment = self._resume()
        self.chain = client_task.chain
        if learns(self.chain):
            x, _, seed = self._batch(self.step)
            self.chain = accompanied(self.segment, self.chain, context, x, seed)

    def _resume(self) -> ClientSegment:
        kept = self.context.state
        if CONDITION in kept and kept.config_records[CONDITION]["condition"] != condition_of(self.message):
            kept.clear()  # another experiment's optimiser
        kept[CONDITION] = ConfigRecord({"condition": condition_of(self.message)})
        segment, _ = segments(self.client_task.model().to(self.place), self.client_task.rules)
        opens = self.step == 0 and self.message.metadata.message_type in ("train.split", "train.split_forward")
        record = self.message.content.array_records[ARRAYS] if opens else kept.array_records[SEGMENT]
        segment.owned.load_state_dict(unpack(record))
        load_optimiser_state(segment.optimiser, unpack(kept.array_records.get(OPTIMISER, ArrayRecord())))
        return segment

    def _keep(self) -> None:
        self.context.state[SEGMENT] = pack(state_of(self.segment.owned))
        self.context.state[OPTIMISER] = pack(optimiser_state(self.segment.optimiser))
        if self.segment.companion is not None:
            self.context.state[learnt_by(self.client_task.chain)] = pack(self.segment.companion.kept())

    def _reply(self, examples: int, loss: float, arrays: Tensors | None = None) -> Message:
        metrics = {"client": self.client, "num-examples": examples, "train_loss": loss}
        return reply_with(self.message, metrics, arrays)

    def _finish(self, examples: int, loss: float, end: int) -> Message:
        """Keep the state for the next message; the last one of a turn hands the segment back instead."""
        self._keep()
        if end < self.client_task.steps(self.client):
            return self._reply(examples, loss)
        del self.context.state[SEGMENT]
        return self._reply(examples, loss, state_of(self.segment.owned))

    def over_the_link(self) -> Message:
        """Mini-batches 'step' to 'end' (excluded), each over the link that the config gives the address of."""
        end = int(self.config["end"])
        losses: list[tuple[int, float]] = []
        with connect(self.config) as visit:
            for step in range(self.step, end):
                x, y, seed = self._batch(step)
                loss = client_step(self.segment, x, y, self.chain, visit((self.client, step)), seed)
                losses.append((len(y), loss))
        return self._finish(sum(count for count, _ in losses), mean_loss(losses), end)

    def _batch(self, step: int) -> tuple[Tensor, Tensor, int]:
        x, y = self.client_task.batch(self.client, self.round, step)
        return x.to(self.place), y.to(self.place), step_seed(self.client_task, self.client, self.round, step)

    def forward(self) -> Message:
        """Messages, first leg: release a mini-batch. Nothing of the pass is kept; the last leg repeats it."""
        if self.step == 0:
            self._keep()
        x, y, seed = self._batch(self.step)
        _, released = self.segment.release(x, self.chain, seed)
        arrays = {ACTIVATION: released.detach()}
        if self.client_task.rules.labels == "server":
            arrays[LABELS] = y
        return self._reply(len(y), 0.0, arrays)

    def respond(self) -> Message:
        """Messages, U-shape only: the server's outputs in, their gradient out."""
        self.context.state[OUTPUTS] = self.message.content.array_records[ARRAYS]
        _, y, seed = self._batch(self.step)
        outputs = unpack(self.context.state.array_records[OUTPUTS])[OUTPUTS].to(self.place)
        gradient, loss = self.segment.respond(outputs, y, seed)
        return self._reply(len(y), loss, {GRADIENT: gradient})

    def backward(self) -> Message:
        """Messages, last leg: the gradient of the released activations in; the client steps."""
        x, y, seed = self._batch(self.step)
        loss = float(self.config.get("loss", 0.0))
        self.segment.forget()
        clean, released = self.segment.release(x, self.chain, seed)
        if self.client_task.rules.labels == "client":
            outputs = unpack(self.context.state.array_records[OUTPUTS])[OUTPUTS].to(self.place)
            _, loss = self.segment.respond(outputs, y, seed)
            del self.context.state[OUTPUTS]
        gradient = unpack(self.message.content.array_records[ARRAYS])[GRADIENT].to(self.place)
        self.segment.descend(x, clean, released, gradient, self.chain)
        return self._finish(len(y), loss, self.step + 1)
