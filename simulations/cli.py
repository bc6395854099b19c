"""The fl-privacy command. Heavy imports wait until a command needs them, so that --help answers at once."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

BAD_INPUT, FAILED = 2, 1

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _about() -> None:
    """What does your federated-learning setup leak, and which defence is worth its cost?"""


Sets = Annotated[list[str] | None, typer.Option("--set", help="Change a setting, such as attack.iterations=500.")]
Profile = Annotated[str | None, typer.Option(help="Which profile of the experiment, such as full.")]
Out = Annotated[Path | None, typer.Option(help="Run folder; it must be new or empty.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder with data sets; else FL_PRIVACY_DATA.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or auto: where the attack runs.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Import the code (module:name) that the run folder names: only if you know it.")
]
RunDir = Annotated[Path, typer.Argument(help="The folder of a finished run.")]


@app.command()
def run(
    experiment: Annotated[str, typer.Argument(help="A shipped experiment (see 'list experiments') or a TOML file.")],
    changes: Sets = None,
    profile: Profile = None,
    seed: Annotated[int | None, typer.Option(help="Every random stream follows from it.")] = None,
    out: Out = None,
    data_root: DataRoot = None,
    backend: Annotated[str, typer.Option(help="ray, or local for one process.")] = "ray",
    workers: Annotated[int | None, typer.Option(help="Ray workers; one a core by default.")] = None,
    device: Device = None,
    keep_originals: Annotated[bool, typer.Option(help="Also write the private images.")] = False,
) -> None:
    """Run an experiment: collect what clients share, attack it, report what came back."""
    _search_here()
    with _bad_input():
        from fl_privacy.simulations.config.early import check_backend, check_early

        check_early(experiment, changes or (), profile, seed=seed, device=device)
        check_backend(backend, workers)
        from fl_privacy.simulations.config.load import load_experiment
        from fl_privacy.simulations.run.pipeline import execute, plan

        chosen = load_experiment(experiment, changes or (), profile=profile, seed=seed)
        checked = plan(chosen, out, data_root, backend, workers, device, keep_originals)
    with _failure(checked.out), _progress() as note:
        result = execute(checked, note)
    result.show()


@app.command()
def attack(
    run_dir: RunDir,
    attack: Annotated[str | None, typer.Option(help="Another attack than the run's own.")] = None,
    changes: Sets = None,
    out: Out = None,
    data_root: DataRoot = None,
    device: Device = None,
    trust: Trust = False,
) -> None:
    """Attack a run's saved observations again; nothing is simulated."""
    if trust or any(":" in text for text in (attack or "", *(changes or ()))):
        _search_here()
    with _bad_input():
        from fl_privacy.simulations.config.early import check_attack_early, check_run_folder

        check_attack_early(attack, changes or ())
        check_run_folder(run_dir)
        from fl_privacy.simulations.run.again import execute_again, plan_again

        checked = plan_again(run_dir, attack, changes or (), out, data_root, device, trust)
    with _failure(checked.out), _progress() as note:
        result = execute_again(checked, note)
    result.show()


@app.command()
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
    _search_here()
    with _bad_input():
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
    with _failure(checked.out), _progress() as note:
        result = execute_audit(checked, note)
    result.show()


@app.command()
def report(run_dir: RunDir, data_root: DataRoot = None, trust: Trust = False) -> None:
    """Print a finished run's table and draw its figure again, from its files."""
    if trust:
        _search_here()
    with _bad_input():
        from fl_privacy.simulations.config.early import check_run_folder

        check_run_folder(run_dir)
        from fl_privacy.simulations.run.again import reopen

        result = reopen(run_dir, data_root, trust)
    result.show()


@app.command("list")
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(help="channels, attacks, defences, metrics, models, datasets, partitions or experiments."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    data_root: DataRoot = None,
) -> None:
    """List what there is, with its settings and where it comes from: everything, or one kind."""
    with _bad_input():
        from fl_privacy.simulations.config.early import LISTED, check_listed

        check_listed(kind)
        from fl_privacy.data import data_root as find_root
        from fl_privacy.simulations.listing import as_table, entries
        from fl_privacy.simulations.report.table import console

        root = find_root(data_root)
        found = {each: entries(each, root) for each in ([kind] if kind else LISTED)}
    if as_json:
        typer.echo(json.dumps(found[kind] if kind else found, indent=2, default=str))
        return
    for each, listed in found.items():
        console().print(as_table(each, listed))


@app.command()
def doctor(data_root: DataRoot = None) -> None:
    """Say what this machine has: versions, hardware, data sets, settings, ports."""
    from fl_privacy.simulations.doctor import as_table, examine
    from fl_privacy.simulations.report.table import console

    found = examine(data_root)
    console().print(as_table(found))
    if not all(each.well for each in found):
        raise typer.Exit(FAILED)


def _search_here() -> None:
    """Let the working directory be imported from, where the user's own module:name lies.

    For commands of which the user names code alone: who stands in a stranger's run folder has the stranger's files
    there, and modules that are looked for in vain elsewhere, and entry points, would be taken from these.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last, so that it hides nothing


@contextmanager
def _bad_input() -> Iterator[None]:
    """Turn what is wrong with the user's input into one message and exit code 2."""
    try:
        yield
    except (LookupError, ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_INPUT) from error


@contextmanager
def _failure(folder: Path) -> Iterator[None]:
    """Turn what goes wrong in a run into one message and exit code 1; the traceback goes to the run folder."""
    try:
        yield
    except Exception as error:
        log = folder / "error.txt"
        log.write_text(traceback.format_exc())
        typer.echo(f"failed: {type(error).__name__}: {error}\ntraceback: {log}", err=True)
        raise typer.Exit(FAILED) from error


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
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


def main() -> None:
    """The entry point of the fl-privacy command."""
    app()


if __name__ == "__main__":
    main()
