"""A grid that keeps order: clients by partition, sorted replies, a deadline for every exchange, a guard."""

from __future__ import annotations

import re
import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fl_privacy.strategies.guard import EVALUATE_METRICS, METRICS, Rejected, Schema, WrongClient, check_reply, schema_of

POLL, SLOWEST_POLL = 0.005, 0.05  # seconds between two looks for replies, at first and after a long wait


@dataclass(frozen=True)
class Counts:
    """What became of the messages of one exchange: expected == received + failed + rejected + timed_out."""

    expected: int
    received: int
    failed: int
    rejected: int
    timed_out: int
    reasons: list[str] = field(default_factory=list)
    message_type: str = ""


class KnownClients(Grid):
    """A grid that knows which client each of its nodes is, so that none has to be asked."""

    @abstractmethod
    def clients(self) -> dict[int, int]:
        """The client (partition) of every node."""

    @abstractmethod
    def kept(self) -> dict[int, RecordDict]:
        """What the clients keep in their contexts from one message to the next, as far as they keep anything."""

    @abstractmethod
    def give_back(self, states: Mapping[int, RecordDict]) -> None:
        """Let these clients have kept this."""

    @abstractmethod
    def greet(self, hello: Message, seconds: float) -> list[Message]:
        """One answer to `hello` from each process that runs clients, as far as they come within `seconds`."""


class ValidatingGrid(Grid):
    """Any grid, with its clients and replies in partition order, a deadline for every exchange, and a guard.

    `clients` nodes must register within `start_deadline` seconds and answer 'query.hello': every one of them, or, on a
    grid of KnownClients, one in each process, however many there are. An exchange ends after `deadline` seconds.
    `schemas` says by message type what replies must look like; without an entry, a train reply must have the arrays
    that were sent. An exchange with fewer than `min_replies` valid replies yields none: the strategy then keeps its
    model. `rounds` counts what became of every message.
    """

    def __init__(
        self,
        inner: Grid,
        clients: int,
        *,
        deadline: float = 600.0,
        start_deadline: float = 300.0,
        min_replies: int = 1,
        schemas: Mapping[str, Schema] | None = None,
    ) -> None:
        self.inner, self.clients = inner, clients
        self.deadline, self.start_deadline, self.min_replies = deadline, start_deadline, min_replies
        self.schemas = dict(schemas or {})
        self.rounds: list[Counts] = []
        self._client: dict[int, int] = {}  # node id -> client, in client order

    def set_run(self, run: Any) -> None:
        self.inner.set_run(run)

    @property
    def run(self) -> Any:
        return self.inner.run

    def create_message(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("build messages with flwr.app.Message(content, dst_node_id=..., message_type=...)")

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self.inner.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self.inner.pull_messages(message_ids)

    def get_node_ids(self) -> list[int]:
        """The node ids in partition order, so that position i is client i; greets once."""
        if not self._client:
            self._client = self._hello()
        return list(self._client)

    def _hello(self) -> dict[int, int]:
        end = time.monotonic() + self.start_deadline
        while len(nodes := list(self.inner.get_node_ids())) < self.clients:
            if time.monotonic() > end:
                raise TimeoutError(f"{len(nodes)} of {self.clients} clients registered in {self.start_deadline:g} s")
            time.sleep(POLL)
        if isinstance(self.inner, KnownClients):
            if not _check_greeting(self.inner.greet(_hello_to(nodes[0]), end - time.monotonic())):
                raise TimeoutError(f"no process that runs clients came up in {self.start_deadline:g} s")
            found = self.inner.clients()
        else:
            hellos = [_hello_to(node) for node in nodes]
            replies = _check_greeting(self._exchange(hellos, end - time.monotonic()))
            if len(replies) < len(hellos):
                raise TimeoutError(f"{len(replies)} of {len(hellos)} clients said hello in {self.start_deadline:g} s")
            found = {r.metadata.src_node_id: int(r.content[METRICS]["client"]) for r in replies}  # type: ignore[arg-type]
        return dict(sorted(found.items(), key=lambda pair: pair[1]))

    def _exchange(self, messages: list[Message], limit: float) -> list[Message]:
        start = time.monotonic()
        pending = set(self.inner.push_messages(messages))
        replies: list[Message] = []
        while pending:
            got = list(self.inner.pull_messages(pending))
            replies += got
            pending -= {reply.metadata.reply_to_message_id for reply in got}
            waited = time.monotonic() - start
            if waited > limit:
                break
            if pending and not got:
                time.sleep(min(POLL + waited / 50, SLOWEST_POLL))
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send, wait until all have answered or the deadline is over, and return the valid replies in client order."""
        sent = list(messages)
        if not sent:
            return []
        self.get_node_ids()
        replies = self._exchange(sent, self.deadline if timeout is None else min(timeout, self.deadline))
        valid, counts = self._judge(sent, replies)
        if skip := len(valid) < self.min_replies:
            counts.reasons.append(f"round skipped: {len(valid)} valid replies, at least {self.min_replies} needed")
        self.rounds.append(counts)
        return [] if skip else valid

    def _judge(self, sent: list[Message], replies: list[Message]) -> tuple[list[Message], Counts]:
        request = {message.metadata.message_id: message for message in sent}
        valid: list[tuple[int, Message]] = []
        failed = rejected = 0
        reasons = []
        for reply in replies:
            asked = request.pop(reply.metadata.reply_to_message_id)
            client = self._client[asked.metadata.dst_node_id]
            if reply.has_error():
                failed += 1
                reasons.append(f"client {client} failed: {_cause(reply)}")
                continue
            try:
                self._guard(asked, reply, client)
                valid.append((client, reply))
            except Rejected as fault:
                rejected += 1
                reasons.append(f"client {client} rejected: {type(fault).__name__}: {fault}")
        late = sorted(self._client[message.metadata.dst_node_id] for message in request.values())
        reasons += [f"client {client} timed out" for client in late]
        kind = sent[0].metadata.message_type
        counts = Counts(len(sent), len(valid), failed, rejected, len(late), sorted(reasons), kind)
        return [reply for _, reply in sorted(valid, key=lambda pair: pair[0])], counts

    def _guard(self, asked: Message, reply: Message, client: int) -> None:
        check_reply(reply, self._schema(asked))
        claimed = reply.content[METRICS].get("client", client)
        if claimed != client:
            raise WrongClient(f"says that it is client {str(claimed)[:40]}")

    def _schema(self, asked: Message) -> Schema:
        kind = asked.metadata.message_type
        if kind in self.schemas:
            return self.schemas[kind]
        if kind.startswith("train"):
            return schema_of(next(iter(asked.content.array_records.values())))
        return Schema(metrics=EVALUATE_METRICS if kind == "evaluate" else None)


def _hello_to(node: int) -> Message:
    return Message(RecordDict(), dst_node_id=node, message_type="query.hello")


def _check_greeting(replies: list[Message]) -> list[Message]:
    for reply in replies:
        if reply.has_error():
            raise RuntimeError(f"a client could not start: {_cause(reply)}")
    return replies


def _cause(reply: Message) -> str:
    """The first exception in an error reply's reason, without the tracebacks that Python and Ray put around it."""
    reason = str(reply.error.reason)
    first = reason.split("\nThe above exception was the direct cause")[0]
    raised = re.findall(r"^([A-Za-z_][\w.]*: .*?)(?=\n[A-Za-z_][\w.]*: |\Z)", first, re.MULTILINE | re.DOTALL)
    return " ".join((raised[-1] if raised else reason).split())[:300] or f"error code {reply.error.code}"
