"""Ray for one run: a session of its own, or a cluster that is there, and a pool of workers on it."""

from __future__ import annotations

import logging
import os
import platform
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fl_privacy.settings import PlainTable
from fl_privacy.simulations.backends.addresses import check_address, is_loopback, ray_address
from fl_privacy.simulations.backends.clients import identify, server_context
from fl_privacy.simulations.backends.leftovers import session_folder, sweep
from fl_privacy.simulations.backends.pool import Pool
from fl_privacy.simulations.backends.process import prepare_process
from fl_privacy.simulations.backends.ray_grid import RayGrid

MOST_INLINE = ("RAY_max_direct_call_object_size", "1048576")
"""Above it a call takes 6 ms instead of 2: no shared memory for 1 MiB. Ray reads it when it is imported."""


SHUTDOWN_SECONDS = 20.0


@contextmanager
def ray_pool(
    workers: int | None = None,
    address: str | None = None,
    gpus_per_worker: float = 0.0,
    needs: Callable[[], object] = dict,
    ending: ExitStack | None = None,
) -> Iterator[Pool]:
    """Inside, Ray is up, with a pool of workers: those of the cluster at `address` (or RAY_ADDRESS), else `workers` of
    this machine (None: one a CPU). A Ray that was up before is used, and left up. Every worker calls `needs` first,
    which raises where its node lacks code or data: the pool then says which node lacks what. With `ending` nobody waits
    here until Ray is down, which takes a second or two: that stack does, when it is closed.

    Raises:
        ValueError: nobody serves the address. RuntimeError: Ray could not start.
    """
    os.environ.setdefault(*MOST_INLINE)
    import ray

    own = not ray.is_initialized()
    address = ray_address(address)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
        if own:
            _start(workers, address)
        pool = None
        try:
            pool = Pool(partial(prepare_worker, needs), None if address else workers, gpus_per_worker)
            yield pool
        finally:
            if pool is not None:
                pool.close()
            if own:
                down = _ending(ray.shutdown)
                ending.callback(down) if ending else down()


def run_ray(
    server_app: ServerApp,
    client_app: ClientApp,
    supernodes: int,
    workers: int | None = None,
    gpus_per_client: float = 0.0,
    client_seconds: float = 600.0,
) -> None:
    """Run the apps on Ray, in a `ray_pool`.

    The call of a worker that dies is repeated on another one, once. A client that computes for more than
    `client_seconds` is given up (an error reply) and its worker replaced. Returns or raises when the ServerApp does.

    Raises:
        RuntimeError: Ray could not start or broke down. Otherwise what the ServerApp raised.
    """
    with ray_pool(workers, gpus_per_worker=gpus_per_client) as pool:
        run_in_pool(pool, server_app, client_app, supernodes, client_seconds)


def run_in_pool(
    pool: Pool, server_app: ServerApp, client_app: ClientApp, supernodes: int, client_seconds: float
) -> None:
    """Run the apps on the workers of a pool, which is afterwards as free as before."""
    grid = RayGrid(pool, client_app, supernodes, client_seconds)
    try:
        server_app(grid, server_context())
    except SystemExit as error:
        raise RuntimeError(f"the ServerApp called sys.exit({error.code})") from error
    finally:
        grid.close()


def prepare_worker(needs: Callable[[], object]) -> None:
    """What every worker does first.

    Raises:
        RuntimeError: `needs` does, on this node.
    """
    import ray

    prepare_process()
    identify()
    try:
        needs()
    except Exception as error:
        address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        place = f"{platform.node()}, {address}, {ray.get_runtime_context().get_node_id()[:8]}"
        raise RuntimeError(
            f"the Ray node ({place}) lacks what this run needs ({type(error).__name__}: {error}): every node must find "
            "the user's own modules and the data under the paths that they have here"
        ) from error


def _start(workers: int | None, address: str | None) -> None:
    import ray

    settings: PlainTable = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    path = os.pathsep.join(filter(None, sys.path))  # where this process finds the user's own modules
    if address:
        check_address(address)
        settings |= {"address": address, "runtime_env": {"env_vars": {"PYTHONPATH": path}}}
        told, what = {}, f"{address} took no connection: where that cluster asks for a token, RAY_AUTH_MODE=token and "
        what += "RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH, must be set here as there"
    else:
        sweep()
        settings |= {"address": "local", "num_cpus": workers, "_temp_dir": str(session_folder())}
        told, what = {"PYTHONPATH": path}, "Ray could not start"
    try:
        with _on_loopback(not address or is_loopback(address)), environment(told):
            ray.init(**settings)
    except Exception as error:
        raise RuntimeError(f"{what}: {error}") from error


def _ending(end: Callable[[], object]) -> Callable[[], None]:
    """Call it, beside whatever follows; what waits for it, for so long and no longer, and tidies up.

    Ray waits for ever for a node that is dead.
    """
    beside = threading.Thread(target=end, daemon=True)
    beside.start()

    def wait() -> None:
        beside.join(SHUTDOWN_SECONDS)
        sweep()

    return wait


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Inside, these environment variables have these values."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _on_loopback(wanted: bool) -> Iterator[None]:
    """Inside, where that is `wanted`, Ray listens at 127.0.0.1 alone, as it does on macOS: else on every network."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    if wanted:
        ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        with environment({ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"} if wanted else {}):
            yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
