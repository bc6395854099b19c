"""Run a ServerApp and its ClientApp in this process, without Ray: for tests, notebooks and debugging."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from flwr.app import Message
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fl_privacy.simulations.backends.clients import SimulatedGrid, answer, numbered, server_context


class LocalGrid(SimulatedGrid):
    """Clients as plain calls, one after the other, inside `push_messages`."""

    def greet(self, hello: Message, seconds: float) -> list[Message]:
        """Its answer, from this process."""
        return self.send_and_receive([hello])

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Run the clients; a message's reply is there when this returns."""
        return [self._run(message) for message in messages]

    def _run(self, message: Message) -> str:
        number, node = numbered(message), message.metadata.dst_node_id
        # copies, as if it had crossed a wire: a client that fails keeps what it had, the server keeps what it sent
        reply, context = answer(self.app, copy.deepcopy(message), copy.deepcopy(self.context(node)))
        self.keep(node, context, message, reply)
        return number

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return self.pull_messages(self.push_messages(messages))


def run_local(server_app: ServerApp, client_app: ClientApp, supernodes: int) -> None:
    """Run the apps in this process; what the ServerApp raises is raised here."""
    server_app(LocalGrid(client_app, supernodes), server_context())
