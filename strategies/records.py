"""Tensors as Flower records; and, from their own files, the grid that keeps order and the guard that it sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from fl_privacy.observation import Tensors
from fl_privacy.strategies.grid import Counts, ValidatingGrid
from fl_privacy.strategies.guard import (
    APPLIED,
    ARRAYS,
    CONFIG,
    LONGEST_LABEL,
    METRICS,
    RELEASE,
    BadWeight,
    DtypeMismatch,
    KeysMismatch,
    NonFinite,
    Rejected,
    Schema,
    ShapeMismatch,
    TooLarge,
    Undecodable,
    WrongClient,
    check_reply,
    schema_of,
)

__all__ = [
    "ARRAYS",
    "CONFIG",
    "LONGEST_LABEL",
    "METRICS",
    "RELEASE",
    "applied_in",
    "state_release",
    "BadWeight",
    "Counts",
    "DtypeMismatch",
    "KeysMismatch",
    "NonFinite",
    "ValidatingGrid",
    "Rejected",
    "Schema",
    "ShapeMismatch",
    "TooLarge",
    "Undecodable",
    "WrongClient",
    "condition_of",
    "check_reply",
    "client_of",
    "pack",
    "reply_with",
    "round_of",
    "schema_of",
    "unpack",
]


def pack(tensors: Tensors) -> ArrayRecord:
    """Tensors, on any device, as a Flower record: order kept, every bit kept.

    Raises:
        TypeError: a bfloat16 tensor, a type that NumPy and so Flower's records lack.
    """
    for name, value in tensors.items():
        if value.dtype == torch.bfloat16:
            raise TypeError(f"'{name}' is bfloat16, which Flower's records cannot carry: cast it to float32 first")
    return ArrayRecord({name: Array(value.detach().cpu().contiguous().numpy()) for name, value in tensors.items()})


def unpack(record: ArrayRecord) -> Tensors:
    """The tensors of a record, on the CPU, in its order."""
    return {name: torch.from_numpy(array.numpy()) for name, array in record.items()}


def client_of(context: Context) -> int:
    """Which client this is: its partition."""
    return int(context.node_config["partition-id"])


def round_of(message: Message) -> int:
    """The server round of a message; 0 where it has none."""
    return int(_config(message).get("server-round", 0))


def condition_of(message: Message) -> int:
    """The condition (which chain of defences) of a message; 0 where it has none."""
    return int(_config(message).get("condition", 0))


def _config(message: Message) -> Mapping[str, Any]:
    return message.content.config_records.get(CONFIG, {})


def state_release(reply: Message, label: str) -> None:
    """Write into a reply which chain of defences its arrays went through; of a very long label its beginning."""
    reply.content[RELEASE] = ConfigRecord({APPLIED: label[:LONGEST_LABEL]})


def applied_in(content: RecordDict) -> str | None:
    """The label of the chain that a client says it ran, in a reply's content; None where it says nothing."""
    record = content.config_records.get(RELEASE)
    return None if record is None else str(record[APPLIED])


def reply_with(message: Message, metrics: Mapping[str, int | float], arrays: Tensors | None = None) -> Message:
    """The reply to `message` with these metrics ('client' and 'num-examples' among them) and arrays."""
    content = RecordDict({METRICS: MetricRecord(dict(metrics))})
    if arrays is not None:
        content[ARRAYS] = pack(arrays)
    return Message(content, reply_to=message)
