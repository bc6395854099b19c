"""Flower's Ray backend, mended: its pool keeps dead workers for ever, and waits for ever for hanging ones.

Written against flwr 1.41.0, whose backend class is not public.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from flwr.server.superlink.fleet.vce.backend import raybackend
from ray.exceptions import RayActorError


@contextmanager
def patient_workers(client_seconds: float, over: threading.Event) -> Iterator[None]:
    """Inside, simulations give up a client after `client_seconds`, or once `over` is set, and replace its worker."""

    class PatientBackend(raybackend.RayBackend):
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

    original = raybackend.RayBackend
    raybackend.RayBackend = PatientBackend  # type: ignore[misc]
    try:
        yield
    finally:
        raybackend.RayBackend = original  # type: ignore[misc]


def _wait(call: ray.ObjectRef[Any], seconds: float, over: threading.Event) -> None:
    end = time.monotonic() + seconds
    while not ray.wait([call], timeout=0.2)[0]:
        if over.is_set():
            raise TimeoutError("the run ended before the client did")
        if time.monotonic() > end:
            raise TimeoutError(f"the client computed for more than {seconds:g} s and was given up")
