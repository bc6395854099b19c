"""Run a ServerApp and its ClientApp on Ray by Flower's simulation engine, mended where it hangs or loses work."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fl_privacy.settings import PlainTable

SETTINGS = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_max_direct_call_object_size": "1048576",  # above it a call takes 6 ms instead of 2: no shared memory for 1 MiB
}


def run_ray(
    server_app: ServerApp,
    client_app: ClientApp,
    supernodes: int,
    workers: int | None = None,
    gpus_per_client: float = 0.0,
    client_seconds: float = 600.0,
) -> None:
    """Run the apps on Ray: the cluster at RAY_ADDRESS, else this machine with `workers` processes (None: one a CPU).

    A worker that dies is restarted and its client asked again, once. A client that computes for more than
    `client_seconds` is given up (an error reply) and its worker replaced. Returns or raises when the ServerApp does.

    Raises:
        RuntimeError: Ray could not start or broke down. Otherwise what the ServerApp raised.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    resources = {"num_cpus": 1, "num_gpus": gpus_per_client, "max_restarts": -1, "max_task_retries": 1}
    init: PlainTable = {"log_to_driver": False, "logging_level": "error"}
    if workers is not None and "RAY_ADDRESS" not in os.environ:
        init["num_cpus"] = workers
    over = threading.Event()
    outcome: dict[str, BaseException | None] = {}
    from flwr.simulation import run_simulation  # Flower and Ray read the environment when they are imported

    from fl_privacy.simulations.backends.ray_patches import patched_workers

    with _quiet(), patched_workers(client_seconds, over):
        try:
            run_simulation(
                _stoppable(server_app, over, outcome),
                client_app,
                supernodes,
                backend_config={"client_resources": {**resources}, "init_args": init},
            )
        except Exception as error:
            raise RuntimeError(f"the simulation on Ray broke down: {_root(error)}") from error
        finally:
            over.set()
    ended = outcome.get("error", RuntimeError("Ray stopped before the ServerApp had ended"))
    if ended is not None:
        raise ended


def _stoppable(server_app: ServerApp, over: threading.Event, outcome: dict[str, BaseException | None]) -> ServerApp:
    """`server_app` in a daemon thread of its own, so that a process whose Ray never started can still exit."""
    from flwr.serverapp import ServerApp

    wrapper = ServerApp()

    @wrapper.main()
    def main(grid: Grid, context: Context) -> None:
        def work() -> None:
            try:
                server_app(grid, context)
                outcome["error"] = None
            except SystemExit as error:
                outcome["error"] = RuntimeError(f"the ServerApp called sys.exit({error.code})")
            except BaseException as error:
                outcome["error"] = error

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        while thread.is_alive() and not over.is_set():
            thread.join(0.05)
        over.set()

    return wrapper


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Flower's and Ray's chatter; what goes wrong comes as exceptions and in the grid's counts."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
            yield
    finally:
        logger.setLevel(level)


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
