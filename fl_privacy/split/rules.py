"""What every party of split learning knows, and the published choices under their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fl_privacy.defences.base import Chain
from fl_privacy.metrics.distance_correlation import Estimator
from fl_privacy.models.split_cnn import PUBLISHED_CUT


@dataclass(frozen=True, kw_only=True)
class SplitRules:
    """How a split model is trained, known to every party.

    `cut`: the client's last stage; a second name gives the stages after it back to the client as its head, which is the
    U-shape and needs `labels='client'`. `penalise`: whether NoPeek's term sees the activations before the noise
    ('clean', the code of Titcombe et al.) or after it ('released', their algorithm 1). `train_client=False` trains the
    server segment alone, on what the fixed client segment releases; with `train_server=False` too, nothing is trained
    but what the clients' defences learn. Each party has an optimiser of its own; a client keeps its own between rounds.
    """

    cut: tuple[str, ...]
    labels: Literal["server", "client"] = "server"
    optimiser: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 1e-3
    penalise: Literal["clean", "released"] = "clean"
    train_client: bool = True
    train_server: bool = True

    def __post_init__(self) -> None:
        if len(self.cut) not in (1, 2):
            raise ValueError(f"cut takes one stage, or two for the U-shape, not {self.cut!r}")
        if len(self.cut) == 2 and self.labels == "server":
            raise ValueError("a client that holds the head computes the loss: two cuts need labels='client'")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be finite and above 0, not {self.learning_rate}")

    def stepper(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer | None:
        """A fresh optimiser, or None for a party without parameters."""
        if not parameters:
            return None
        kind = torch.optim.Adam if self.optimiser == "adam" else torch.optim.SGD
        return kind(parameters, lr=self.learning_rate)


@dataclass(frozen=True, kw_only=True)
class SplitClientTask:
    """The clients of a split simulation, as functions of public names.

    `model()` builds the whole architecture; `batch(client, round, step)` gives inputs (B, C, H, W) in [0, 1] and labels
    (B,), `held_out(client)` the same for evaluation and inference; `steps(client)` mini-batches make one turn. `chain`
    defends training, `serving` inference and evaluation; `tells_learnt` hands out what their defences learnt, which a
    simulation's evaluator asks for. `seed` names the clients' random streams. They compute on `device`, and draw on the
    CPU.
    """

    model: Callable[[], nn.Module]
    rules: SplitRules
    batch: Callable[[int, int, int], tuple[Tensor, Tensor]]
    steps: Callable[[int], int]
    held_out: Callable[[int], tuple[Tensor, Tensor]]
    chain: Chain = field(default_factory=Chain)
    serving: Chain = field(default_factory=Chain)
    tells_learnt: bool = False
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class SplitPreset:
    """The settings of one published experiment: what the model is built with, how it is trained, how it is scored.

    `batch_size_nopeek` is the batch of runs with NoPeek; `dcor_rows` the rows of one distance correlation in tables.
    """

    model: Mapping[str, Any]
    rules: SplitRules
    batch_size: int
    batch_size_nopeek: int
    epochs: int
    estimator: Estimator
    dcor_rows: int


# The paper's text and its code disagree in most of these; the published numbers came from the code.
# Source: Titcombe et al. 2021, appendix D ('paper'); TTitcombe/Model-Inversion-SplitNN, main.sh ('as-published')
TITCOMBE: Mapping[str, SplitPreset] = {
    "as-published": SplitPreset(
        model={"softmax": True},
        rules=SplitRules(cut=(PUBLISHED_CUT,), learning_rate=1e-4, penalise="clean"),
        batch_size=128,
        batch_size_nopeek=32,
        epochs=10,
        estimator="squared",
        dcor_rows=32,
    ),
    "paper": SplitPreset(
        model={"softmax": False},
        rules=SplitRules(cut=(PUBLISHED_CUT,), learning_rate=1e-3, penalise="released"),
        batch_size=32,
        batch_size_nopeek=32,
        epochs=10,
        estimator="euclidean",
        dcor_rows=32,
    ),
}
