"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Sets = Annotated[list[str] | None, typer.Option("--set", help="Change a setting, such as attack.iterations=500.")]
Profile = Annotated[str | None, typer.Option(help="Which profile of the experiment, such as full.")]
Out = Annotated[Path | None, typer.Option(help="Run folder; it must be new or empty.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder with data sets; else FL_PRIVACY_DATA.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or auto: where clients, servers and attacks compute.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Import the code (module:name) that the run folder names: only if you know it.")
]
RunDir = Annotated[Path, typer.Argument(help="The folder of a finished run.")]
RayAddress = Annotated[
    str | None, typer.Option(help="HOST:PORT of a running Ray cluster; else RAY_ADDRESS, else this machine.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on in --out where an earlier process was killed; begin where nothing is.")
]
