"""The command that audits a federation of the user's own: audit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fl_privacy.simulations.cli.options import DataRoot, Out
from fl_privacy.simulations.cli.shell import bad_input, failure, search_here
from fl_privacy.simulations.progress import shown


def audit(
    global_weights: Annotated[
        Path | None, typer.Option("--global", help="The weights that the server sent: .safetensors, .npz, .pt.")
    ] = None,
    update: Annotated[Path | None, typer.Option(help="What the client changed: new weights minus old ones.")] = None,
    new_weights: Annotated[
        Path | None, typer.Option("--weights", help="In place of --update: the weights that the client sent back.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="module:Class, or a name of 'list models'.")] = None,
    shape: Annotated[str | None, typer.Option(help="Channels, height, width of an image, such as 3,32,32.")] = None,
    classes: Annotated[int | None, typer.Option(help="How many classes the model tells apart.")] = None,
    local: Annotated[
        str | None, typer.Option(help="How the client trained: '{learning_rate=0.1, batch_size=8}', or module:name.")
    ] = None,
    images: Annotated[int | None, typer.Option(help="How many images entered the update.")] = None,
    public: Annotated[str | None, typer.Option(help="Images an adversary may own: a data set, or module:name.")] = None,
    truth: Annotated[str | None, typer.Option(help="module:name that gives the client's (images, labels).")] = None,
    attacks: Annotated[list[str] | None, typer.Option("--attack", help="Only these attacks.")] = None,
    minutes: Annotated[float, typer.Option(help="The most that the attacks may take.")] = 10.0,
    seed: Annotated[int, typer.Option(help="Every random stream follows from it.")] = 0,
    out: Out = None,
    data_root: DataRoot = None,
) -> None:
    """Say what a saved update of your own federation gives away; nothing is simulated."""
    search_here()
    with bad_input():
        from fl_privacy.simulations.auditing.audit import execute_audit, plan_audit
        from fl_privacy.simulations.auditing.tries import ORDER

        checked = plan_audit(
            global_weights,
            update,
            new_weights=new_weights,
            model=model,
            shape=shape,
            classes=classes,
            local=local,
            images=images,
            public=public,
            truth=truth,
            attacks=attacks or ORDER,
            minutes=minutes,
            seed=seed,
            out=out,
            data_root=data_root,
        )
    with failure(checked.out), shown() as note:
        result = execute_audit(checked, note)
    result.show()
