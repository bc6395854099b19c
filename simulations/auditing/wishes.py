"""What a user asks of an audit, beside the messages themselves."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fl_privacy.defences import Chain
from fl_privacy.observation import Images
from fl_privacy.settings import ReadTable
from fl_privacy.simulations.auditing.asked import Local, Model
from fl_privacy.simulations.auditing.granted import Pair
from fl_privacy.simulations.auditing.tries import ORDER


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """The arguments of `audit`, by its names.

    Raises:
        ValueError: no time is given, or no folder to resume in.
    """

    model: Model | None = None
    shape: str | tuple[int, ...] | None = None
    classes: int | None = None
    local: Local | None = None
    images: int | None = None
    public: str | Images | None = None
    truth: str | Pair | Callable[..., Pair] | None = None
    defence: Chain | str | Sequence[ReadTable] | None = None
    attacks: Sequence[str] = ORDER
    minutes: float = 10.0
    seed: int = 0
    device: str = "cpu"
    out: str | os.PathLike[str] | None = None
    data_root: str | os.PathLike[str] | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.minutes < math.inf:
            raise ValueError(f"--minutes must be above 0 and finite, not {self.minutes}")
        if self.resume and self.out is None:
            raise ValueError("'resume' goes on with the audit in a folder: name it (--out)")
