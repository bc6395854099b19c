"""The records that the stages share: which message, and what a guess for it was worth."""

from __future__ import annotations

from dataclasses import dataclass

from fl_privacy.evaluation import Score, Truth
from fl_privacy.observation import Reconstruction


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
    """One guess with its score; `attack` is a control's name where nobody attacked; images in the truth's order."""

    key: Key
    attack: str
    defence: str
    guess: Reconstruction
    truth: Truth
    score: Score
