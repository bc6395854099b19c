"""What a joint training has reached, on disk: weights, best weights, optimiser and history in one safetensors file."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fl_privacy import checkpoints
from fl_privacy.checkpoints import under
from fl_privacy.joint_training.pair import Pair, PairSpec, build_pair
from fl_privacy.joint_training.scores import Scores
from fl_privacy.models import MODELS
from fl_privacy.models.decoders import DECODERS
from fl_privacy.observation import Tensors
from fl_privacy.settings import PlainTable


@dataclass(frozen=True)
class EpochReport:
    """One epoch: the mean training loss, the validation scores, and the criterion by which the best epoch is chosen."""

    epoch: int
    epochs: int
    seconds: float
    train_loss: float
    scores: Scores
    criterion: float
    best: bool


class Run:
    """A training under way. `identity` says which: a checkpoint of another one is refused, not silently continued."""

    def __init__(
        self, pair: Pair, optimiser: torch.optim.Optimizer, spec: PairSpec, identity: dict[str, Any], path: Path | None
    ) -> None:
        self.pair, self.optimiser, self.spec, self.path = pair, optimiser, spec, path
        self.identity = json.loads(json.dumps(identity))
        self.history: list[EpochReport] = []
        self.best: dict[str, Tensor] = _copy(pair)
        if path is not None and path.exists():
            self._restore(path)

    def best_criterion(self, start: int) -> float:
        """The least criterion of the epochs from `start` on; infinite before any."""
        return min((r.criterion for r in self.history[start:] if r.criterion == r.criterion), default=float("inf"))

    def record(self, report: EpochReport) -> None:
        """Take in a finished epoch, and write it down."""
        if report.best:
            self.best = _copy(self.pair)
        self.history.append(report)
        if self.path is not None:
            self._save(self.path)

    def _save(self, path: Path) -> None:
        tensors = {f"last.{name}": value for name, value in self.pair.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": value for name, value in state.items()}
        facts = {"identity": self.identity, "spec": asdict(self.spec), "history": [asdict(r) for r in self.history]}
        checkpoints.save(path, tensors, facts)

    def _restore(self, path: Path) -> None:
        tensors, facts = _read(path)
        different = [key for key in self.identity if facts["identity"].get(key) != self.identity[key]]
        if different:
            raise ValueError(
                f"{path} is the checkpoint of another training (different: {', '.join(different)}). "
                "Give this one another file, or delete that one."
            )
        self.pair.load_state_dict(under("last.", tensors))
        self.best = under("best.", tensors)
        self.history = [EpochReport(**{**r, "scores": Scores(**r["scores"])}) for r in facts["history"]]
        state = self.optimiser.state_dict()
        for index, parameter in enumerate(self.pair.parameters()):
            saved = under(f"adam.{index}.", tensors)
            if saved:
                # laid out as the parameter is: the fused step wants equal strides
                state["state"][index] = {
                    name: value if name == "step" else torch.empty_like(parameter).copy_(value)
                    for name, value in saved.items()
                }
        self.optimiser.load_state_dict(state)


def load_pair(path: str | os.PathLike[str], trusted: Collection[str] = ()) -> Pair:
    """The pair of a checkpoint, built anew with the weights of its best epoch, on the CPU in eval mode.

    A checkpoint is data: a network that it calls `module:function` is imported only if that name is in `trusted`.

    Raises:
        FileNotFoundError: no such file. ValueError: it is not a whole checkpoint of a joint training, or it names code
            that is not trusted.
    """
    tensors, facts = _read(Path(path))
    spec = facts["spec"]
    for key, registry in (("classifier", MODELS), ("decoder", DECODERS)):
        if spec[key] not in registry and spec[key] not in trusted:
            raise ValueError(
                f"the checkpoint {path} asks for the {registry.kind} {spec[key]!r}, which is code of somebody's own: "
                "loading it would run that. Name it in 'trusted' if you trust it"
            )
    pair = build_pair(PairSpec(**{**spec, "image_shape": tuple(spec["image_shape"])}), seed=0)
    pair.load_state_dict(under("best.", tensors))
    return pair.eval()


def _read(path: Path) -> tuple[Tensors, PlainTable]:
    tensors, facts = checkpoints.load(path)
    if not {"identity", "spec", "history"} <= facts.keys():
        raise ValueError(f"{path} is not a checkpoint of a joint training: delete it, or name another file")
    return tensors, facts


def _copy(pair: Pair) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in pair.state_dict().items()}
