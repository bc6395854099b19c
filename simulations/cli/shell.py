"""What every command needs around it: exit codes, errors as one message, progress."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console

BAD_INPUT, FAILED = 2, 1


def search_here() -> None:
    """Let the working directory be imported from, where the user's own module:name lies.

    For commands of which the user names code alone: who stands in a stranger's run folder has the stranger's files
    there, and modules that are looked for in vain elsewhere, and entry points, would be taken from these.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last, so that it hides nothing


@contextmanager
def bad_input() -> Iterator[None]:
    """Turn what is wrong with the user's input into one message and exit code 2."""
    try:
        yield
    except (LookupError, ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_INPUT) from error


@contextmanager
def failure(folder: Path) -> Iterator[None]:
    """Turn what goes wrong in a run into one message and exit code 1; the traceback goes to the run folder."""
    try:
        yield
    except Exception as error:
        log = folder / "error.txt"
        log.write_text(traceback.format_exc())
        typer.echo(f"failed: {type(error).__name__}: {error}\ntraceback: {log}", err=True)
        raise typer.Exit(FAILED) from error


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A spinner over the latest lines on a terminal, plain lines elsewhere; each with the seconds so far."""
    start = time.perf_counter()
    if not sys.stdout.isatty():
        yield lambda text: print(f"{time.perf_counter() - start:6.1f} s  {text}", flush=True)
        return
    console = Console()
    with console.status("starting") as status:

        def note(text: str) -> None:
            console.print(f"{time.perf_counter() - start:6.1f} s  {text}", highlight=False, soft_wrap=True)
            status.update("working")

        yield note
