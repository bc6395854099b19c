"""How the rounds of split learning run, and what the guard lets through in them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from fl_privacy.strategies.guard import EVALUATE_METRICS, Schema
from fl_privacy.strategies.split.transport import LinkKind


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """How the rounds run.

    `link`: 'ray', 'messages' or 'local'; the weights are the same. `parallel=False` hands the segment from client to
    client; True starts all from one segment and averages (SplitFed), `together` of them taking turns at once: on Ray
    each of these needs a worker of its own, or is given up when the server has waited `patience` seconds for it.
    `observed_rounds` (None: all): rounds in which the server keeps every client's first mini-batch.
    `adversary_knowledge` of {'query', 'model'} come with the observations: the client segment as a black box or
    whole. `evaluate` adds an evaluation on held-out inputs to every round. The server segment is on `device`.
    """

    link: LinkKind = "ray"
    clients_per_round: int = 1
    parallel: bool = False
    together: int = 1
    seed: int = 0
    observed_rounds: Collection[int] | None = ()
    adversary_knowledge: frozenset[str] = frozenset({"query"})
    evaluate: bool = False
    patience: float = 120.0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.clients_per_round < 1 or self.together < 1:
            raise ValueError("clients_per_round and together must be at least 1")


def split_schemas() -> Mapping[str, Schema]:
    """What the guard should expect of the replies, by message type; segments are checked where they are used."""
    loose = Schema(arrays=None, metrics=None)
    trained = ("train.split", "train.split_forward", "train.split_respond", "train.split_backward")
    kinds = (*trained, "query.activation", "query.learnt")
    return {kind: loose for kind in kinds} | {"evaluate.split_outputs": Schema(metrics=EVALUATE_METRICS)}
