"""Run a ServerApp and its ClientApp in this process, without Ray: for tests, notebooks and debugging."""

from __future__ import annotations

import copy
import traceback
import uuid
from collections.abc import Iterable
from typing import Any, NoReturn

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.task_identity import TaskIdentity  # messages cannot be built without it


class LocalGrid(Grid):
    """Clients 0 to `supernodes` - 1 as plain calls, one after the other, inside `push_messages`.

    What a call raises, even SystemExit, becomes an error reply, and the client's state is then as before the call.
    """

    def __init__(self, client_app: ClientApp, supernodes: int) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        self._app = client_app
        self._replies: dict[str, Message] = {}
        self._contexts = {1000 + i: _context(1000 + i, i, supernodes) for i in range(supernodes)}

    def set_run(self, run: object) -> None:
        pass

    @property
    def run(self) -> Any:
        return None

    def create_message(self, *args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError("build messages with flwr.app.Message(content, dst_node_id=..., message_type=...)")

    def get_node_ids(self) -> list[int]:
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Run the clients; a message's reply is there when this returns."""
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = uuid.uuid4().hex
            self._replies[message.metadata.message_id] = self._answer(message)
            ids.append(message.metadata.message_id)
        return ids

    def _answer(self, message: Message) -> Message:
        context = copy.deepcopy(self._contexts[message.metadata.dst_node_id])
        try:
            reply = self._app(copy.deepcopy(message), context)
            if not isinstance(reply, Message):
                raise TypeError(f"the client returned {type(reply).__name__}, not a Message")
        except (Exception, SystemExit) as error:
            reason = f"{traceback.format_exc()}\n{type(error).__name__}: {error}"
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
        self._contexts[message.metadata.dst_node_id] = context
        return reply

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._replies.pop(i) for i in list(message_ids) if i in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return self.pull_messages(self.push_messages(messages))


def _context(node: int, partition: int, supernodes: int) -> Context:
    config = {"partition-id": partition, "num-partitions": supernodes}
    return Context(run_id=1, node_id=node, node_config=config, state=RecordDict(), run_config={})  # type: ignore[arg-type]


def run_local(server_app: ServerApp, client_app: ClientApp, supernodes: int) -> None:
    """Run the apps in this process; what the ServerApp raises is raised here."""
    grid = LocalGrid(client_app, supernodes)
    server_app(grid, Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={}))
