"""The records that the stages share: which message, and what a guess for it was worth."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fl_privacy.evaluation import Score, Truth
from fl_privacy.observation import Reconstruction
from fl_privacy.simulations.results.controls import Control


@dataclass(frozen=True, order=True)
class Key:
    """Which message of a run: the condition, the round, the client."""

    condition: int
    round: int
    client: int

    @property
    def stem(self) -> str:
        return f"{self.condition}_r{self.round}_c{self.client}"


@dataclass(frozen=True)
class Scored:
    """One guess with its score, images in the truth's order; `control` says which it is where nobody attacked.

    `attack` is the label of the attack, or how tables name the control.
    """

    key: Key
    attack: str
    defence: str
    guess: Reconstruction
    truth: Truth
    score: Score
    control: Control | None = None

    @property
    def images(self) -> Tensor:
        """The images (N, C, H, W) that came back.

        Raises:
            ValueError: none did.
        """
        if self.guess.inputs is None:
            raise ValueError(f"'{self.attack}' recovered no images of message {self.key.stem}")
        return self.guess.inputs
