"""Flower's grid over a pool of Ray workers: what a client costs, it costs when it is first sent a message."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

import ray
import torch
from flwr.app import Error, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from fl_privacy.simulations.backends.clients import SimulatedGrid, answer, numbered
from fl_privacy.simulations.backends.pool import Outcome, Pool

PAUSE = 0.05  # seconds that a look for replies waits for the first
STARVED = (torch.OutOfMemoryError,)  # the pool asks again, with fewer clients at a time


class RayGrid(SimulatedGrid):
    """Clients as calls on the workers of `pool`, one at a time each; whoever computes longer than `seconds` is lost."""

    def __init__(self, pool: Pool, client_app: ClientApp, supernodes: int, seconds: float) -> None:
        super().__init__(client_app, supernodes)
        self._pool, self._seconds = pool, seconds
        self._shipped = ray.put(client_app)
        self._queues: dict[int, deque[Message]] = {}  # by node; the first of each is under way
        self._sent: dict[int, Message] = {}  # by ticket

    def greet(self, hello: Message, seconds: float) -> list[Message]:
        """An answer from every worker that is up half of `seconds` from now; one that comes later has to say no hello.

        A worker that does not answer within `seconds` is replaced.

        Raises:
            RuntimeError: a worker cannot start.
        """
        end = time.monotonic() + seconds
        count, node = self._pool.started(seconds / 2), hello.metadata.dst_node_id
        left, words = max(0.0, end - time.monotonic()), (answer, self._shipped, hello, self.context(node))
        tickets = {self._pool.submit(*words, seconds=left, urgent=True) for _ in range(count)}
        ended: dict[int, Outcome] = {}
        while len(ended) < count and time.monotonic() < end:
            ended |= self._pool.take(tickets - ended.keys(), PAUSE)
        self._pool.cancel(tickets - ended.keys())
        return [_reply(outcome, hello) for outcome in ended.values()]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        numbers = []
        for message in messages:
            numbers.append(numbered(message))
            queue = self._queues.setdefault(message.metadata.dst_node_id, deque())
            queue.append(message)
            if len(queue) == 1:
                self._send(message)
        return numbers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        wanted = set(message_ids)
        if not wanted & set(self._replies):
            self._advance()
        return super().pull_messages(wanted)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        waiting, replies, start = set(self.push_messages(messages)), list[Message](), time.monotonic()
        while waiting and (timeout is None or time.monotonic() - start < timeout):
            replies += self.pull_messages(waiting)
            waiting -= {reply.metadata.reply_to_message_id for reply in replies}
        return replies

    def close(self) -> None:
        """Forget the messages that have no reply yet."""
        self._pool.cancel(set(self._sent))

    def _send(self, message: Message) -> None:
        context = self.context(message.metadata.dst_node_id)
        words = (answer, self._shipped, message, context, STARVED)
        ticket = self._pool.submit(*words, seconds=self._seconds, urgent=True)
        self._sent[ticket] = message

    def _advance(self) -> None:
        for ticket, outcome in self._pool.take(self._sent.keys(), PAUSE).items():
            message = self._sent.pop(ticket)
            node = message.metadata.dst_node_id
            context = None if outcome.error else outcome.value[1]
            self.keep(node, context, message, _reply(outcome, message))
            self._queues[node].popleft()
            if self._queues[node]:
                self._send(self._queues[node][0])
            else:
                del self._queues[node]


def _reply(outcome: Outcome, message: Message) -> Message:
    if outcome.error is None:
        reply: Message = outcome.value[0]
        return reply
    reason = f"{type(outcome.error).__name__}: {outcome.error}"
    return Message(Error(ErrorCode.UNKNOWN, reason), reply_to=message)
