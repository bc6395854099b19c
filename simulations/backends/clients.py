"""What every backend of a simulation shares: its clients by node, what they keep, and how one answers a message."""

from __future__ import annotations

import traceback
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.supercore.task_identity import TaskIdentity  # messages cannot be built without it

from fl_privacy.strategies.grid import KnownClients

FIRST_NODE = 1000


def identify() -> None:
    """Let messages be built in this process."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1


def server_context() -> Context:
    """What a ServerApp is given beside its grid."""
    return Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})


def answer(
    app: ClientApp, message: Message, context: Context, passed: tuple[type[Exception], ...] = ()
) -> tuple[Message, Context | None]:
    """What a client replies, and its state afterwards.

    What the call raises, even SystemExit, becomes an error reply, and the state is None: as before. Errors of the types
    `passed` are raised.
    """
    try:
        reply = app(message, context)
        if not isinstance(reply, Message):
            raise TypeError(f"the client returned {type(reply).__name__}, not a Message")
    except passed:
        raise
    except (Exception, SystemExit) as error:
        reason = f"{traceback.format_exc()}\n{type(error).__name__}: {error}"
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message), None
    return reply, context


class SimulatedGrid(KnownClients):
    """Clients 0 to `supernodes` - 1, none of which costs anything before its first message."""

    def __init__(self, client_app: ClientApp, supernodes: int) -> None:
        identify()
        self.app, self.supernodes = client_app, supernodes
        self._replies: dict[str, Message] = {}
        self._contexts: dict[int, Context] = {}

    def set_run(self, run: object) -> None:
        pass

    @property
    def run(self) -> Any:
        return None

    def create_message(self, *args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError("build messages with flwr.app.Message(content, dst_node_id=..., message_type=...)")

    def get_node_ids(self) -> list[int]:
        return list(range(FIRST_NODE, FIRST_NODE + self.supernodes))

    def clients(self) -> dict[int, int]:
        return {FIRST_NODE + client: client for client in range(self.supernodes)}

    def kept(self) -> dict[int, RecordDict]:
        states = {node - FIRST_NODE: context.state for node, context in self._contexts.items()}
        return {client: state for client, state in sorted(states.items()) if state}

    def give_back(self, states: Mapping[int, RecordDict]) -> None:
        for client, state in states.items():
            self.context(FIRST_NODE + client).state = state

    def context(self, node: int) -> Context:
        """What the client of this node has kept, made when it is first asked for."""
        if node not in self._contexts:
            config = {"partition-id": node - FIRST_NODE, "num-partitions": self.supernodes}
            kept = Context(run_id=1, node_id=node, node_config=config, state=RecordDict(), run_config={})  # type: ignore[arg-type]
            self._contexts[node] = kept
        return self._contexts[node]

    def keep(self, node: int, context: Context | None, message: Message, reply: Message) -> None:
        """Write down a reply, and what its client keeps; None leaves that as it was."""
        if context is not None:
            self._contexts[node] = context
        self._replies[message.metadata.message_id] = reply

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._replies.pop(i) for i in list(message_ids) if i in self._replies]


def numbered(message: Message) -> str:
    """Give a message the id by which its reply names it."""
    message.metadata.__dict__["_message_id"] = uuid.uuid4().hex
    return message.metadata.message_id
