"""What a Flower strategy keeps between its rounds, as named tensors and JSON, and back, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy

from fl_privacy.checkpoints import State, under
from fl_privacy.observation import Tensors
from fl_privacy.settings import PlainTable
from fl_privacy.strategies.grid import KnownClients
from fl_privacy.strategies.records import pack, unpack

SERVER, CLIENTS = "server/", "clients/"
RECORDS: Mapping[str, Callable[[Any], Any]] = {
    "array_records": lambda record: record,
    "metric_records": MetricRecord,
    "config_records": ConfigRecord,
}
"""What a client's context holds, and how each kind is made again."""


@dataclass(frozen=True)
class StrategyState:
    """That of a strategy: its attributes."""

    strategy: Strategy

    def take(self) -> tuple[Tensors, PlainTable]:
        return strategy_state(self.strategy)

    def give(self, tensors: Tensors, facts: PlainTable) -> None:
        load_strategy_state(self.strategy, tensors, facts)


@dataclass(frozen=True)
class StateWithClients:
    """That of a strategy which tells it itself, and of all that the clients keep in their Flower contexts."""

    server: State
    clients: KnownClients

    def take(self) -> tuple[Tensors, PlainTable]:
        tensors, facts = self.server.take()
        named = {f"{SERVER}{name}": value for name, value in tensors.items()}
        told = {}
        for client, content in self.clients.kept().items():
            records = {kind: dict(getattr(content, kind).items()) for kind in RECORDS}
            told[str(client)] = _taken(records, f"{CLIENTS}{client}", named)
        return named, {"server": facts, "clients": told}

    def give(self, tensors: Tensors, facts: PlainTable) -> None:
        self.server.give(under(SERVER, tensors), facts["server"])
        states = {}
        for client, told in facts["clients"].items():
            kinds = _given(told, tensors)
            made = {name: RECORDS[kind](each) for kind, records in kinds.items() for name, each in records.items()}
            states[int(client)] = RecordDict(made)
        self.clients.give_back(states)


PLAIN = (bool, int, float, str, type(None))


def strategy_state(strategy: Strategy) -> tuple[Tensors, PlainTable]:
    """The attributes of a strategy that are numbers, texts, arrays, or lists and tables of these: momenta, for one.

    What is none of these (a function, an object) is a setting, which whoever builds the strategy gives it again.
    """
    tensors: Tensors = {}
    facts: PlainTable = {}
    for name, value in vars(strategy).items():
        own: Tensors = {}
        try:
            facts[name] = _taken(value, name, own)
        except TypeError:
            continue
        tensors |= own
    return tensors, facts


def load_strategy_state(strategy: Strategy, tensors: Tensors, facts: PlainTable) -> None:
    """Give a strategy, built as the first one was, what `strategy_state` took."""
    for name, value in facts.items():
        setattr(strategy, name, _given(value, tensors))


def _taken(value: object, name: str, tensors: Tensors) -> PlainTable:
    """`value` as JSON, in which tensors are names.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(value, PLAIN):
        return {"plain": value}
    if isinstance(value, np.ndarray | np.generic):
        tensors[name] = torch.from_numpy(np.array(value))
        return {"array": name}
    if isinstance(value, torch.Tensor):
        tensors[name] = value.detach().clone()
        return {"tensor": name}
    if isinstance(value, ArrayRecord):
        return {"record": _taken(unpack(value), name, tensors)}
    if isinstance(value, Mapping):
        pairs = enumerate(value.items())
        return {"table": [[_taken(k, "", {}), _taken(v, f"{name}/{index}", tensors)] for index, (k, v) in pairs]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_taken(each, f"{name}/{index}", tensors) for index, each in enumerate(value)]}
    raise TypeError(f"'{name}' is a {type(value).__name__}")


def _given(told: PlainTable, tensors: Tensors) -> Any:
    ((kind, value),) = told.items()
    if kind == "plain":
        return value
    if kind in ("array", "tensor"):
        return tensors[value].numpy() if kind == "array" else tensors[value]
    if kind == "record":
        return pack(_given(value, tensors))
    if kind == "table":
        return {_given(key, tensors): _given(each, tensors) for key, each in value}
    found = [_given(each, tensors) for each in value]
    return found if kind == "list" else tuple(found)
