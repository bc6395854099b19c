"""What a curious server writes down of an ordinary Flower app: a folder that says by itself what was seen.

    observations/
        about.json                 layout, strategy, weighted_by (a metric's name), model, run_config, limits, versions
        round_1/
            global.safetensors     the weights that were sent, once a round
            client_0.safetensors   the arrays that this client sent back, under the names that they had
            round.json             written last: a round without it is no whole one

`round.json` is {"round", "record", "config", "global", "replies", "left_out"}: the name of the record of arrays, the
config records that went out with the weights ({record: {key: value}}), and of each reply

    {"client", "node", "global", "file", "metrics", "applied", "further", "error"}

where `client` counts nodes in the order in which they were first sent a model, by node id within a round, and `node` is
Flower's own id, as text, because it has more digits than JSON readers keep. `global` and `file` are file names in this
folder (`file` is null for an error, or what was left out). `metrics` is {record: {key: number}}. `applied` is the chain
of defences that the client says it ran, null where it says nothing. `further` names arrays of other records, which are
not kept. `left_out` says of each client what was not written, and why. Where a strategy sends several models in one
round, all but the first are global_2.safetensors and so on.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import safetensors.numpy
from flwr.app import ArrayRecord, Message

from fl_privacy.atomic import write_atomic
from fl_privacy.strategies.records import applied_in

LAYOUT = 1
ABOUT, ROUND, GLOBAL = "about.json", "round.json", "global"
LONGEST = 2000  # characters of an error, from its end: it may be a whole traceback
LOG = logging.getLogger("flwr")  # the app's own log, whose lines its user reads
Numbered = Sequence[tuple[int, Message]]
"""Messages with the numbers of the clients that they go to or come from."""


@dataclass
class Recorder:
    """Writes rounds into `out` (the module says how) until `max_bytes` are written; an `out` in use gets a successor.

    `rounds`, `clients`: which of them, None for all. Nothing that fails here reaches the caller: a line in the log
    says so, and what was being written is missing from the folder.

    Raises:
        ValueError: at construction alone, for limits that allow nothing.
    """

    out: Path
    about: Mapping[str, Any]
    rounds: Collection[int] | None = None
    clients: Collection[int] | None = None
    max_bytes: int = 10**9
    _folder: Path | None = None
    _written: int = 0
    _round: dict[str, Any] = field(default_factory=dict)
    _sent: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.out = Path(self.out).absolute()  # the app may change its working directory
        if self.max_bytes <= 0:
            raise ValueError(f"max_bytes must be above 0, so that anything is recorded, not {self.max_bytes}")

    def sent(self, server_round: int, messages: Numbered, record: str | None) -> None:
        """Take in what goes out; `record` is the name of the record of arrays, None for the first there is."""
        self._quietly(lambda: self._take_sent(server_round, messages, record), server_round)

    def received(self, server_round: int, replies: Numbered) -> None:
        """Take in what came back, and end the round."""
        self._quietly(lambda: self._take_received(server_round, replies), server_round)

    def _quietly(self, work: Callable[[], None], server_round: int) -> None:
        try:
            work()
        except Exception as error:  # the user's training is worth more than our notes
            LOG.warning(
                "round %s was not recorded, training goes on: %s: %s", server_round, type(error).__name__, error
            )
            self._round = {}

    def _take_sent(self, server_round: int, messages: Numbered, record: str | None) -> None:
        self._round, self._sent = {}, {}
        if (self.rounds is not None and server_round not in self.rounds) or self._written >= self.max_bytes:
            return
        if self._folder is not None and (self._folder / f"round_{server_round}").exists():
            self._folder = None  # the app starts its strategy a second time, and counts from 1 again
        chosen = [(client, message) for client, message in messages if self._wanted(client)]
        if not chosen:
            return
        first = chosen[0][1].content
        named = record is not None and record in first.array_records
        name = str(record) if named else next(iter(first.array_records))
        config = {key: _plain(each) for key, each in first.config_records.items()}
        self._round = {
            "round": server_round,
            "record": name,
            "config": config,
            "global": f"{GLOBAL}.safetensors",
            "replies": [],
            "left_out": [],
        }
        files: dict[object, str] = {}  # by content, which costs little where one object goes to all
        for client, message in chosen:
            arrays = message.content.array_records[name]
            content = tuple((key, array.data) for key, array in arrays.items())
            if content not in files:
                stem = GLOBAL if not files else f"{GLOBAL}_{len(files) + 1}"
                if not self._write_arrays(f"{stem}.safetensors", arrays):
                    self._round = {}
                    return
                files[content] = f"{stem}.safetensors"
            self._sent[client] = files[content]

    def _take_received(self, server_round: int, replies: Numbered) -> None:
        if self._round.get("round") != server_round:
            return
        for client, reply in sorted(replies, key=lambda pair: pair[0]):
            if not self._wanted(client):
                continue
            try:
                self._round["replies"].append(self._reply(client, reply))
            except Exception as error:  # one odd reply costs no other
                self._leave_out(client, f"{type(error).__name__}: {error}")
        content = json.dumps(self._round, indent=2, allow_nan=False) + "\n"
        self._write(f"round_{server_round}/{ROUND}", content.encode())

    def _reply(self, client: int, reply: Message) -> dict[str, Any]:
        told = {"client": client, "node": str(reply.metadata.src_node_id), "global": self._sent[client]}
        if not reply.has_content():
            return {
                **told,
                "file": None,
                "metrics": {},
                "applied": None,
                "further": [],
                "error": str(reply.error.reason)[-LONGEST:],
            }
        content = reply.content
        name = self._round["record"]
        if name not in content.array_records:  # Flower's strategies take whatever name a client gives
            name = next(iter(content.array_records), None)
        arrays = content.array_records.get(name)
        file = f"client_{client}.safetensors"
        return {
            **told,
            "file": file if arrays is not None and self._write_arrays(file, arrays, client) else None,
            "metrics": {key: _plain(each) for key, each in content.metric_records.items()},
            "applied": applied_in(content),
            "further": [key for key in content.array_records if key != name],
            "error": None,
        }

    def _wanted(self, client: int) -> bool:
        return self.clients is None or client in self.clients

    def _write_arrays(self, file: str, arrays: ArrayRecord, client: int | None = None) -> bool:
        """Whether they were written: not, where they would pass `max_bytes`."""
        data = safetensors.numpy.save({name: array.numpy() for name, array in arrays.items()})
        if self._written + len(data) > self.max_bytes:
            owner = "the global weights" if client is None else f"client {client}"
            LOG.warning("round %s: %s left out, because max_bytes (%d) is reached", self._number, owner, self.max_bytes)
            if client is not None:
                self._leave_out(client, f"max_bytes ({self.max_bytes}) is reached")
            return False
        self._write(f"round_{self._number}/{file}", data)
        return True

    @property
    def _number(self) -> int:
        return int(self._round["round"])

    def _leave_out(self, client: int, reason: str) -> None:
        self._round["left_out"].append({"client": client, "reason": reason})

    def _write(self, name: str, content: bytes) -> None:
        if self._folder is None:
            self._folder = self._start()
        write_atomic(self._folder / name, content)
        self._written += len(content)

    def _start(self) -> Path:
        """The folder of this run, which no other has written into, with its about.json."""
        folder, number = self.out, 1
        while folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            number += 1
            folder = self.out.with_name(f"{self.out.name}-{number}")
        limits = {
            "rounds": _limit(self.rounds),
            "clients": _limit(self.clients),
            "max_bytes": self.max_bytes,
        }
        about = {
            "layout": LAYOUT,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **self.about,
            "limits": limits,
            "versions": {name: _version(name) for name in ("fl-privacy", "flwr", "torch")},
        }
        write_atomic(folder / ABOUT, (json.dumps(about, indent=2, default=str) + "\n").encode())
        LOG.info("an honest-but-curious server writes what it sees to %s", folder)
        return folder


def _limit(chosen: Collection[int] | None) -> object:
    if chosen is None:
        return None
    return str(chosen) if isinstance(chosen, range) else sorted(chosen)  # a range may be endless


def _plain(record: Mapping[str, Any]) -> dict[str, object]:
    """A record as JSON holds it: bytes as hexadecimal text, NaN and infinities, which JSON lacks, as their names."""
    return {key: _value(value) for key, value in record.items()}


def _value(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return [_value(each) for each in value] if isinstance(value, list) else value


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
