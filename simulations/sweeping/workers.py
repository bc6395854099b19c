"""Cells computed one after another here, or in processes of their own, whichever of them fails or dies."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TextIO

import torch

from fl_privacy.simulations.sweeping.cells import Job

if TYPE_CHECKING:
    from fl_privacy.simulations.backends.pool import Pool  # Ray takes seconds to import

HEARTBEAT = 10  # seconds for which the pool is waited for at a time
Told = Callable[[Job, str | None], None]
"""Takes a cell that was computed and the traceback of its failure; None where it went well."""
START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from fl_privacy.simulations.sweeping.workers import serve; serve()"
)


def compute_here(jobs: Sequence[Job], told: Told) -> None:
    """Compute the cells in this process."""
    for job in jobs:
        told(job, _failure(job))


def compute_in_processes(jobs: Sequence[Job], count: int, told: Told, log: TextIO) -> None:
    """Compute the cells in `count` processes, each of which takes the next one when it is free.

    What they write otherwise goes to `log`. A process that dies costs the cell it was at; another takes its place. When
    this process dies, by whatever signal, so do they.
    """
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    workers = [_Worker(log) for _ in range(min(count, len(jobs)))]
    lock = threading.Lock()

    def keep_busy(worker: _Worker) -> None:
        for job in _drained(waiting):
            failure = worker.compute(job)
            with lock:
                told(job, failure)

    try:
        with ThreadPoolExecutor(max(1, len(workers))) as threads:
            try:
                for each in [threads.submit(keep_busy, worker) for worker in workers]:
                    each.result()
            except BaseException:
                for _ in _drained(waiting):  # nothing more is begun, and what is under way ends now
                    pass
                for worker in workers:
                    worker.kill()
                raise
    finally:
        for worker in workers:
            worker.kill()


def compute_in_pool(jobs: Sequence[Job], pool: Pool, told: Told) -> None:
    """Compute the cells as calls on the workers of a pool, each in one process, and tell of each as it comes.

    A worker that dies costs the cell it was at, once another one has died of it too. One that runs out of a GPU's
    memory is computed again with fewer beside it.
    """
    waiting = {pool.submit(_failure_on_worker, job.to_json()): job for job in jobs}
    try:
        while waiting:
            for ticket, outcome in pool.take(waiting, HEARTBEAT).items():
                job = waiting.pop(ticket)
                told(
                    job, outcome.value if outcome.error is None else f"{type(outcome.error).__name__}: {outcome.error}"
                )
    finally:
        pool.cancel(list(waiting))


def _failure_on_worker(text: str) -> str | None:
    """As `_failure_of`; what the pool can help with is raised.

    Raises:
        torch.OutOfMemoryError: a GPU has no room for it beside the others.
    """
    try:
        Job.from_json(text).compute()
    except torch.OutOfMemoryError:
        raise
    except Exception:  # of whatever kind: the other cells are not to be lost
        return traceback.format_exc()
    return None


class _Worker:
    """A process that computes cells, one line of JSON in and one out for each."""

    def __init__(self, log: TextIO) -> None:
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def compute(self, job: Job) -> str | None:
        """The traceback of the cell's failure; None where it went well."""
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-c", START, json.dumps(sys.path)]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._log, text=True)
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(job.to_json() + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if answer:
            failure: str | None = json.loads(answer)
            return failure
        return (
            f"the worker process of this cell ended with code {process.wait()} (-9: killed, most often because memory "
            f"ran out: use fewer workers). What it said last is in {self._log.name}"
        )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def serve() -> None:
    """What a worker process does: compute the cells that stdin names until it ends, which is when the sweep ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever prints must not answer
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)  # at once, in the middle of a cell too: nobody waits for it any more

    threading.Thread(target=listen, daemon=True).start()
    while True:
        failure = _failure_of(lines.get())
        print(json.dumps(failure), file=answers, flush=True)


def _failure_of(text: str) -> str | None:
    try:
        job = Job.from_json(text)
    except Exception:  # the user's own code, imported anew in this process
        return traceback.format_exc()
    return _failure(job)


def _failure(job: Job) -> str | None:
    try:
        job.compute()
    except Exception:  # of whatever kind: the other cells are not to be lost
        return traceback.format_exc()
    return None


def _drained(waiting: queue.SimpleQueue[Job]) -> Iterator[Job]:
    while True:
        try:
            yield waiting.get_nowait()
        except queue.Empty:
            return
