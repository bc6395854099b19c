"""The smallest Flower app there is, on Flower's own simulation with its own FedAvg, and what its clients do wrong."""

from __future__ import annotations

import functools
import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

NODES, SIZE, ROUNDS = 4, 1000, 4
WORKERS: dict[str, Any] = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
"""Two workers on two cores, as ours; by default Flower has one for every two."""
Fault = Callable[[int, int], None]
"""Of a client: (partition, round), before it computes."""


@dataclass
class Played:
    """What a run did: of every round how many messages went out, replies came and were errors; the model at the end."""

    rounds: list[tuple[int, int, int]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    digest: str = ""
    raised: str = ""
    seconds: float = 0.0

    @property
    def lost(self) -> int:
        """Messages that brought no valid reply."""
        return sum(sent - came + errors for sent, came, errors in self.rounds)

    @property
    def words(self) -> str:
        """Valid replies and errors of each round."""
        return ", ".join(f"{came - errors}+{errors} of {sent}" for sent, came, errors in self.rounds) or "none"


class Counted(FedAvg):
    """FedAvg, which tells how many replies came, and calls `after` each round."""

    def __init__(self, played: Played, after: Callable[[int], None], **choices: Any) -> None:
        super().__init__(**choices)
        self.played, self.after, self.sent = played, after, 0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        messages = list(super().configure_train(server_round, arrays, config, grid))
        self.sent = len(messages)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        came = list(replies)
        wrong = [reply for reply in came if reply.has_error()]
        self.played.rounds.append((self.sent, len(came), len(wrong)))
        self.played.reasons += [str(reply.error.reason)[-200:] for reply in wrong]
        found = super().aggregate_train(server_round, came)
        self.after(server_round)
        return found


def nothing(*_: int) -> None:
    """No fault, and nothing to do after a round."""


def die_once(flag: Path, partition: int, round: int) -> None:
    """Client 1 takes its whole process down in round 2, the first time."""
    if (partition, round) == (1, 2) and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def raise_and_exit(partition: int, round: int) -> None:
    """Client 1 raises in round 2, and client 2 calls sys.exit in round 3."""
    if (partition, round) == (1, 2):
        raise RuntimeError("the disk of client 1 is gone")
    if (partition, round) == (2, 3):
        raise SystemExit(3)


def all_raise(partition: int, round: int) -> None:
    raise RuntimeError("no disk anywhere")


def hang(seconds: float, partition: int, round: int) -> None:
    """Client 1 sleeps in round 2."""
    if (partition, round) == (1, 2):
        time.sleep(seconds)


def session() -> Path:
    """Where the Ray of this process lives."""
    import ray

    node: Any = ray._private.worker._global_node
    return Path(node.get_session_dir_path())


def client(fault: Fault) -> ClientApp:
    """Adds noise to the model that is the client's own and the round's."""
    app = ClientApp()

    def reply(message: Message, context: Context, trained: bool) -> Message:
        partition = int(context.node_config["partition-id"])
        content = RecordDict({"metrics": MetricRecord({"num-examples": 20, "loss": 1.0})})
        if trained:
            round = int(message.content.config_records["config"]["server-round"])  # type: ignore[arg-type]
            fault(partition, round)
            model = message.content.array_records["arrays"]["w"].numpy()
            step = np.random.default_rng([partition, round]).normal(size=model.shape)
            content["arrays"] = ArrayRecord({"w": Array((model + step).astype(np.float32))})
        return Message(content, reply_to=message)

    app.train()(functools.partial(reply, trained=True))
    app.evaluate()(functools.partial(reply, trained=False))
    return app


def play(
    fault: Fault = nothing,
    rounds: int = ROUNDS,
    nodes: int = NODES,
    size: int = SIZE,
    timeout: float | None = None,
    after: Callable[[int], None] = nothing,
    **choices: Any,
) -> Played:
    """Run the app by `run_simulation`; `choices` are FedAvg's."""
    from flwr.simulation import run_simulation

    played, server = Played(), ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        initial = ArrayRecord({"w": Array(np.zeros(size, np.float32))})
        if timeout:  # a deadline is for the clients, and not for the start of Ray
            FedAvg(min_available_nodes=nodes).start(grid, initial, 1)
        strategy = Counted(played, after, min_available_nodes=nodes, **choices)  # else it begins with the first two
        result = strategy.start(grid, initial, rounds, timeout=timeout or 3600.0)
        model = result.arrays["w"].numpy() if "w" in result.arrays else np.zeros(0)
        played.digest = hashlib.sha256(model.tobytes()).hexdigest()

    start = time.monotonic()
    try:
        run_simulation(server, client(fault), nodes, backend_config=WORKERS)
    except Exception as error:
        played.raised = f"{type(error).__name__}: {error}"
    played.seconds = time.monotonic() - start
    return played
