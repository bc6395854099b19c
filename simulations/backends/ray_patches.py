"""Flower's Ray backend, mended: it keeps dead workers for ever, waits for ever for hanging ones, and uses 32 at most.

Written against flwr 1.41 and 1.42, whose backend class is not public; other releases are refused.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
from flwr.server.superlink.fleet.vce import vce_api
from flwr.server.superlink.fleet.vce.backend import raybackend
from ray.exceptions import RayActorError

from fl_privacy.simulations.backends.flower_version import check_flower

MOST_WORKERS = 4096


@contextmanager
def patched_workers(client_seconds: float, over: threading.Event) -> Iterator[None]:
    """Inside, simulations give up a client after `client_seconds`, or once `over` is set, and replace its worker.

    Raises:
        RuntimeError: the installed Flower is none of those that are known from the inside.
    """
    check_flower()

    class PatchedBackend(raybackend.RayBackend):
        pool: Any  # None until `build`

        def process_message(self, message: Any, context: Any) -> tuple[Any, Any]:
            actor = self.pool.pool.pop()
            try:
                call = actor.run.remote(self.app_fn, message, str(context.node_config["partition-id"]), context)
                _wait(call, client_seconds, over)
                _, reply, updated = ray.get(call)
                return reply, updated
            except (RayActorError, TimeoutError):
                ray.kill(actor)
                actor = self.pool.create_actor_fn()
                raise
            finally:
                self.pool.pool.append(actor)

        def terminate(self) -> None:
            for actor in self.pool.pool if self.pool else ():
                ray.kill(actor)  # Flower's way, a call that exits the worker, would be retried, with a warning
            ray.shutdown()

    # Flower waits for each worker in a thread of its own, and has as many threads as this machine has cores, and four
    # more, 32 at most: the other workers of a large machine or a cluster would never get a client
    threads = partial(ThreadPoolExecutor, max_workers=MOST_WORKERS)
    patches: tuple[tuple[Any, str, Any], ...] = (
        (raybackend, "RayBackend", PatchedBackend),
        (vce_api, "ThreadPoolExecutor", threads),
    )
    originals = [getattr(module, name) for module, name, _ in patches]
    for module, name, mended in patches:
        setattr(module, name, mended)
    try:
        yield
    finally:
        for (module, name, _), original in zip(patches, originals, strict=True):
            setattr(module, name, original)


def _wait(call: ray.ObjectRef[Any], seconds: float, over: threading.Event) -> None:
    end = time.monotonic() + seconds
    while not ray.wait([call], timeout=0.2)[0]:
        if over.is_set():
            raise TimeoutError("the run ended before the client did")
        if time.monotonic() > end:
            raise TimeoutError(f"the client computed for more than {seconds:g} s and was given up")
