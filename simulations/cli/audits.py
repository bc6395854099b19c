"""The command that audits a federation of the user's own: audit."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

from fl_privacy.simulations.cli.options import DataRoot, Device, Out, Resume
from fl_privacy.simulations.cli.shell import bad_input, failure, search_here
from fl_privacy.simulations.progress import shown

Chosen = Annotated[str | None, typer.Option(help="Only these, such as 1,3 or 0..4.")]
Observations = Annotated[
    Path | None, typer.Argument(help="A folder that HonestButCurious wrote; else --global and a message.")
]
Global = Annotated[
    Path | None, typer.Option("--global", help="The weights that the server sent: .safetensors, .npz, .pt.")
]
Update = Annotated[Path | None, typer.Option(help="What the client changed: new weights minus old ones.")]
NewWeights = Annotated[
    Path | None, typer.Option("--weights", help="In place of --update: the weights that the client sent back.")
]
Gradient = Annotated[Path | None, typer.Option(help="In place of --update: the client's gradient.")]
Model = Annotated[str | None, typer.Option(help="module:Class, or a name of 'list models'.")]
Shape = Annotated[str | None, typer.Option(help="Channels, height, width of an image, such as 3,32,32.")]
Classes = Annotated[int | None, typer.Option(help="How many classes the model tells apart.")]
Local = Annotated[
    str | None, typer.Option(help="How the client trained: '{learning_rate=0.1, batch_size=8}', or module:name.")
]
ImageCount = Annotated[int | None, typer.Option(help="How many images entered the update.")]
Public = Annotated[str | None, typer.Option(help="Images an adversary may own: a data set, or module:name.")]
Truth = Annotated[str | None, typer.Option(help="module:name that gives the client's (images, labels).")]
Defence = Annotated[str | None, typer.Option(help="What clients ran, such as 'clip(norm=1.0)'.")]
Attacks = Annotated[list[str] | None, typer.Option("--attack", help="Only these attacks.")]
Minutes = Annotated[float, typer.Option(help="The most that the attacks may take, over all messages.")]
Seed = Annotated[int, typer.Option(help="Every random stream follows from it.")]


def audit(
    observations: Observations = None,
    global_weights: Global = None,
    update: Update = None,
    new_weights: NewWeights = None,
    gradient: Gradient = None,
    model: Model = None,
    shape: Shape = None,
    classes: Classes = None,
    local: Local = None,
    images: ImageCount = None,
    rounds: Chosen = None,
    clients: Chosen = None,
    public: Public = None,
    truth: Truth = None,
    defence: Defence = None,
    attacks: Attacks = None,
    minutes: Minutes = 10.0,
    seed: Seed = 0,
    device: Device = None,
    out: Out = None,
    data_root: DataRoot = None,
    resume: Resume = False,
) -> None:
    """Say what your own federation gives away: a folder of observations, or one saved message; nothing is simulated."""
    search_here()
    with bad_input():
        from fl_privacy.simulations.auditing.audit import execute_audit, plan_audit
        from fl_privacy.simulations.auditing.tries import ORDER
        from fl_privacy.simulations.auditing.wishes import Wishes

        wishes = Wishes(
            model=model,
            shape=shape,
            classes=classes,
            local=local,
            images=images,
            public=public,
            truth=truth,
            defence=defence,
            attacks=attacks or ORDER,
            minutes=minutes,
            seed=seed,
            device=device or "cpu",
            out=out,
            data_root=data_root,
            resume=resume,
        )
        checked = plan_audit(
            _source(observations, global_weights),
            {"update": update, "weights": new_weights, "gradient": gradient},
            numbers("--rounds", rounds),
            numbers("--clients", clients),
            wishes,
        )
    with failure(checked.out), shown() as note:
        result = execute_audit(checked, note)
    result.show()


def _source(observations: Path | None, global_weights: Path | None) -> Path | None:
    """What is audited, a folder or the weights beside one message.

    Raises:
        ValueError: both, or what should be a folder is none.
    """
    if observations is None:
        return global_weights
    if global_weights is not None:
        raise ValueError("give a folder of observations, or --global with a message, not both")
    if not observations.is_dir():
        raise ValueError(f"{observations} is no folder: HonestButCurious(..., out=...) makes one; look into its log")
    return observations


def numbers(option: str, text: str | None) -> Collection[int] | None:
    """Whole numbers from '1,3,5..8', both ends included; None for none.

    Raises:
        ValueError: it is no such list.
    """
    if text is None:
        return None
    found: set[int] = set()
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d+)\s*(?:\.\.\s*(\d+)\s*)?", part)
        if not ends:
            raise ValueError(f"{option} is a list such as 1,3 or 0..4, not '{text}'")
        found.update(range(int(ends[1]), int(ends[2] or ends[1]) + 1))
    return found
