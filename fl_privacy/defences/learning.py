"""Defences that learn something on the client, beside its segment of a split model."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from torch import nn

from fl_privacy.checkpoints import under
from fl_privacy.defences.base import Chain, Defence
from fl_privacy.observation import Tensors
from fl_privacy.optimiser_state import load_optimiser_state, optimiser_state
from fl_privacy.seeding import seeded

MODULES, OPTIMISER = "learnt/", "optimiser/"


class LearningDefence(Defence):
    """A defence with a module of its own that the client trains beside its segment, by Adam at `learning_rate`.

    Its hooks find the module in `learnt`: in train mode while it is trained, in eval mode where a trained client
    releases. Without one it has learnt nothing yet. Only split learning trains it.
    """

    learning_rate: float
    # set on the copy that `with_learnt` returns; not a field, because it is no setting
    learnt: ClassVar[nn.Module | None] = None

    @abstractmethod
    def module(self, image_shape: tuple[int, ...], released_shape: tuple[int, ...]) -> nn.Module | None:
        """What it learns, as it begins, for images (N, *image_shape) and what is released of them (N, *released_shape).

        None where these settings learn nothing. Draws from torch's global generator, which is seeded for it.
        """

    def with_learnt(self, module: nn.Module) -> Self:
        """The same defence, with what it learns."""
        made = copy.copy(self)
        object.__setattr__(made, "learnt", module)
        return made


def learns(chain: Chain) -> bool:
    """Whether a member learns something on the client."""
    return any(isinstance(defence, LearningDefence) for defence in chain.defences)


class Companion:
    """What the defences of a chain learn on one client: `chain` are they with it, `optimiser` trains it."""

    def __init__(self, chain: Chain, image_shape: Sequence[int], released_shape: Sequence[int], seed: int = 0) -> None:
        self.modules = nn.ModuleDict()
        defences: list[Defence] = []
        groups = []
        for position, defence in enumerate(chain.defences):
            with seeded(seed, "companion", position):
                shapes = tuple(image_shape), tuple(released_shape)
                made = defence.module(*shapes) if isinstance(defence, LearningDefence) else None
            if isinstance(defence, LearningDefence) and made is not None:
                self.modules[str(position)] = made
                groups.append({"params": list(made.parameters()), "lr": defence.learning_rate})
                defence = defence.with_learnt(made)
            defences.append(defence)
        self.chain = Chain(tuple(defences))
        self.optimiser = torch.optim.Adam(groups) if groups else None

    def step(self) -> None:
        """One step on the gradients that there are."""
        if self.optimiser is not None:
            self.optimiser.step()

    def kept(self) -> Tensors:
        """What was learnt, under 'learnt/', and the optimiser's state, as the client keeps them between messages."""
        learnt = {f"{MODULES}{name}": value.detach().clone() for name, value in self.modules.state_dict().items()}
        return learnt | {f"{OPTIMISER}{name}": value for name, value in optimiser_state(self.optimiser).items()}

    def go_on(self, kept: Tensors) -> None:
        """Take up what `kept` gave."""
        self.modules.load_state_dict(under(MODULES, kept))
        load_optimiser_state(self.optimiser, under(OPTIMISER, kept))


def with_learnt(chain: Chain, learnt: Tensors, image_shape: Sequence[int], released_shape: Sequence[int]) -> Chain:
    """The chain of a trained client, with what its defences have learnt there: the part of `kept` under 'learnt/'."""
    companion = Companion(chain, image_shape, released_shape)
    companion.go_on(learnt)
    companion.modules.eval().requires_grad_(False)
    return companion.chain
