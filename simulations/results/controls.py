"""The controls by type: guesses that no attack made, against which every attack is read."""

from __future__ import annotations

from enum import StrEnum

from fl_privacy.settings import ReadTable

PREFIX = "control: "


class Control(StrEnum):
    """What is guessed without any observation, or with no more than the label: as `evaluation.controls` has it.

    The grey image is that of an audit without public images.
    """

    RANDOM_GUESS = "random guess"
    MEAN_IMAGE = "mean image"
    CLASS_MEAN = "class mean"
    GREY_IMAGE = "grey image"

    @property
    def heading(self) -> str:
        """How tables name it, where an attack's name stands: 'control: mean image'."""
        return f"{PREFIX}{self}"

    @property
    def kind(self) -> str:
        """How blind it is, in words."""
        return "guess from the label" if self is Control.CLASS_MEAN else "blind guess"


def control_of(row: ReadTable) -> Control | None:
    """Which control a row of a summary or of samples is; None for an attack's."""
    name = str(row["attack"])
    return Control(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
