"""What every command needs around it: exit codes, errors as one message."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import typer

BAD_INPUT, FAILED = 2, 1
FULL = (errno.ENOSPC, errno.EDQUOT)


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
        with suppress(OSError):  # the disk may be what is wrong
            log.write_text(traceback.format_exc())
        typer.echo(f"failed: {type(error).__name__}: {error}\ntraceback: {log}", err=True)
        if isinstance(error, OSError) and error.errno in FULL:
            told = "what was finished is kept. Make room there, and go on with the same command and --resume"
            typer.echo(f"the disk of {folder} is full; {told}", err=True)
        raise typer.Exit(FAILED) from error
