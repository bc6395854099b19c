"""What became of every round's messages: one row a round, in the schema of Flower's Result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

from flwr.serverapp.strategy import Result as FlowerResult

from fl_privacy.simulations.channels.base import Row
from fl_privacy.strategies.records import Counts


def summarise_reasons(reasons: Iterable[str]) -> str:
    """The first three different reasons why messages were lost, for a person to read."""
    return "; ".join(list(dict.fromkeys(reasons))[:3]) or "no reason was given"


def round_rows(rounds: int, result: FlowerResult, counts: Sequence[tuple[int, Counts]]) -> list[Row]:
    """One row a round in the schema of Flower's Result, and what became of that round's messages.

    `counts`: (round, counts of one exchange); a round of many exchanges has their sum.
    """
    rows = []
    for round in range(rounds + 1):
        row: Row = {"round": round}
        for key, history in (
            ("train_metrics", result.train_metrics_clientapp),
            ("evaluate_metrics_clientapp", result.evaluate_metrics_clientapp),
            ("evaluate_metrics_serverapp", result.evaluate_metrics_serverapp),
        ):
            row[key] = dict(history[round]) if round in history else None
        row["counts"] = summed([each for number, each in counts if number == round])
        rows.append(row)
    return rows


def summed(exchanges: Sequence[Counts]) -> Row | None:
    """The counts of many exchanges as one, with every reason; None for no exchange."""
    if not exchanges:
        return None
    rows = [asdict(each) for each in exchanges]
    keys = ("expected", "received", "failed", "rejected", "timed_out")
    return {
        **{key: sum(row[key] for row in rows) for key in keys},
        "reasons": [reason for row in rows for reason in row["reasons"]],
        "message_type": ", ".join(dict.fromkeys(row["message_type"] for row in rows)),
    }
