"""A pool of Ray workers for clients and attacks alike.

What dies is replaced and its call repeated, what hangs is ended, what runs out of a GPU's memory is repeated with half
as many calls beside it. Everything happens inside the methods, in the thread of whoever calls them.
"""

from __future__ import annotations

import itertools
import math
import re
import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayError, RayTaskError

MOST_TRIES = 2
MOST_FAILED_STARTS = 3
START_SECONDS = 300.0
RECOUNT_SECONDS = 5.0  # between two looks at which nodes there are
RESOURCES = {"CPU": "num_cpus", "GPU": "num_gpus"}


class LostNode(RuntimeError):
    """The Ray node died to which this process was attached, and nothing that needs Ray goes on here."""


class LostWorker(RuntimeError):
    """A worker died under a call, and another one that repeated the call died too."""


@dataclass
class Call:
    """A function with its arguments, and what has become of it so far."""

    ticket: int
    function: Callable[..., object]
    arguments: tuple[object, ...]
    seconds: float
    urgent: bool
    order: int
    tries: int = 0
    started: float = 0.0
    beside: float = 0
    """How many calls at a time were allowed when it was started; 0: it was alone."""


@dataclass(frozen=True)
class Outcome:
    """What a call returned, or why it did not."""

    value: Any = None
    error: BaseException | None = None


class Worker:
    """A process that calls whatever it is sent; made by Ray."""

    def __init__(self, prepare: Callable[[], object]) -> None:
        prepare()

    def ready(self) -> None:
        """Return, which says that this process is up."""

    def call(self, function: Callable[..., object], *arguments: object) -> object:
        try:
            return function(*arguments)
        finally:
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.empty_cache()  # a neighbour may need what this one has done with


class Pool:
    """As many workers as have room, each with `cpus` and `gpus` of its node, at most `most` of them.

    `prepare` runs first in every worker. Ray must be up. A call whose worker died is made once more, on another one.
    One that raises torch.OutOfMemoryError is made again when half as many are under way, and so on until it was alone:
    `starved` counts these, `together` is how many calls run at a time. `reserved` workers take urgent calls alone.

    Raises:
        RuntimeError: no node has room for a single worker. LostNode, from any method: this process's own has died.
    """

    def __init__(self, prepare: Callable[[], object], most: int | None = None, gpus: float = 0.0) -> None:
        self._prepare, self._most, self._share, self._unprepared = prepare, most, {"CPU": 1.0, "GPU": gpus}, False
        self._tickets = itertools.count()
        self._urgent: deque[Call] = deque()
        self._queue: deque[Call] = deque()
        self._ended: dict[int, Outcome] = {}
        self._idle: list[Any] = []
        self._starting: dict[Any, Any] = {}
        self._running: dict[Any, tuple[Any, Call]] = {}
        self.together, self.starved, self.reserved = math.inf, 0, 0
        self._room, self._counted = 0, -math.inf
        self._node = ray.get_runtime_context().get_node_id()
        self._failed_starts, self._cause, self._waits_since = 0, "no reason is known", math.inf
        self._fill()

    @property
    def size(self) -> int:
        """How many workers there are, those that are still starting included."""
        return len(self._idle) + len(self._starting) + len(self._running)

    def submit(
        self,
        function: Callable[..., object],
        *arguments: object,
        seconds: float = math.inf,
        urgent: bool = False,
        order: int = 0,
    ) -> int:
        """Queue a call, before those not `urgent` or of higher `order`; its ticket. It is given up after `seconds`."""
        call = Call(next(self._tickets), function, arguments, seconds, urgent, order)
        insort(self._urgent if urgent else self._queue, call, key=attrgetter("order"))
        self._dispatch()
        return call.ticket

    def take(self, tickets: Collection[int], seconds: float) -> dict[int, Outcome]:
        """Those of these calls that have ended, by ticket, each once; waits at most `seconds` for any call to end.

        Raises:
            RuntimeError: no worker is left, and none can be started.
        """
        if not any(ticket in self._ended for ticket in tickets):
            self._step(seconds)
        return {ticket: self._ended.pop(ticket) for ticket in tickets if ticket in self._ended}

    def cancel(self, tickets: Collection[int]) -> None:
        """Forget these calls; a worker that is at one of them is replaced."""
        self._urgent = deque(call for call in self._urgent if call.ticket not in tickets)
        self._queue = deque(call for call in self._queue if call.ticket not in tickets)
        for reference, (actor, call) in list(self._running.items()):
            if call.ticket in tickets:
                del self._running[reference]
                ray.kill(actor)
        for ticket in tickets:
            self._ended.pop(ticket, None)

    def started(self, seconds: float) -> int:
        """Wait until every worker is up, for at most `seconds`; how many are by then.

        One whose node died before it ran is started again, where there is room.

        Raises:
            RuntimeError: one cannot start, and on which node, and why.
        """
        end = time.monotonic() + seconds
        while self._starting and time.monotonic() < end:
            self._start(ray.wait(list(self._starting), timeout=0.2)[0])
            if self._unprepared or self._failed_starts >= MOST_FAILED_STARTS:
                raise RuntimeError(f"a Ray worker could not start: {self._cause}")
            self._fill()
        return self.size - len(self._starting)

    def close(self) -> None:
        """End every worker; the calls that they are at are lost."""
        for actor in (*self._idle, *self._starting.values(), *(actor for actor, _ in self._running.values())):
            ray.kill(actor)
        self._forget()

    def _forget(self) -> None:
        self._idle, self._starting, self._running = [], {}, {}
        self._urgent.clear()
        self._queue.clear()

    def _step(self, seconds: float) -> None:
        watched = [*self._running, *self._starting]
        ready, _ = ray.wait(watched, num_returns=len(watched), timeout=0) if watched else ([], [])
        if not ready and watched:
            ready, _ = ray.wait(watched, timeout=seconds)
        self._start(ready)
        self._collect(ready)
        self._give_up()
        self._fill()
        self._dispatch()
        self._check_alive()

    def _start(self, ready: list[Any]) -> None:
        for reference in ready:
            actor = self._starting.pop(reference, None)
            if actor is None:
                continue
            try:
                ray.get(reference)
                self._idle.append(actor)
                self._failed_starts = 0
            except RayError as error:
                self._unprepared = isinstance(error, RayActorError) and error.actor_init_failed
                self._lost(_raised(str(error)) if self._unprepared else str(error))
                self._failed_starts += 1

    def _collect(self, ready: list[Any]) -> None:
        for reference in ready:
            if reference not in self._running:
                continue
            actor, call = self._running.pop(reference)
            try:
                self._ended[call.ticket] = Outcome(ray.get(reference))
                self._idle.append(actor)
            except RayTaskError as error:
                self._idle.append(actor)
                if not isinstance(error.cause, torch.OutOfMemoryError) or not self._halved(call):
                    self._ended[call.ticket] = Outcome(error=error.cause or error)
            except RayError as error:
                self._lost(str(error))
                ray.kill(actor)
                self._repeat(call)

    def _halved(self, call: Call) -> bool:
        """Queue a call again that ran out of memory beside others, of which there will be half; False: it was alone."""
        if not call.beside:
            return False
        if self.together >= call.beside:  # the first that starved of those that ran together
            self.together = max(1, min(call.beside, len(self._running) + 1) // 2)
        self.starved, call.tries = self.starved + 1, call.tries - 1
        self._urgent.appendleft(call)
        return True

    def _repeat(self, call: Call) -> None:
        if call.tries < MOST_TRIES:
            self._urgent.appendleft(call)
            return
        why = f"its worker died, and so did the one that repeated the call: {self._cause}"
        self._ended[call.ticket] = Outcome(error=LostWorker(why))

    def _give_up(self) -> None:
        now = time.monotonic()
        for reference, (actor, call) in list(self._running.items()):
            if now - call.started > call.seconds:
                del self._running[reference]
                ray.kill(actor)
                self._counted = -math.inf
                error = TimeoutError(f"the client computed for more than {call.seconds:g} s and was given up")
                self._ended[call.ticket] = Outcome(error=error)

    def _dispatch(self) -> None:
        while self._idle and len(self._running) < self.together and (queue := self._next()):
            call, actor = queue.popleft(), self._idle.pop()
            call.tries, call.started = call.tries + 1, time.monotonic()
            call.beside = self.together if self._running or self.together > 1 else 0
            self._running[actor.call.remote(call.function, *call.arguments)] = (actor, call)

    def _next(self) -> deque[Call]:
        """The queue whose turn it is; an empty one for none."""
        others = sum(not call.urgent for _, call in self._running.values())
        return self._urgent or (self._queue if others < self.size - self.reserved else self._urgent)

    def _lost(self, why: str) -> None:
        self._cause, self._counted = " ".join(why.split())[:500], -math.inf

    def _fill(self) -> None:
        """Start workers until no node that is alive has room for another, unless they cannot start."""
        if time.monotonic() - self._counted > RECOUNT_SECONDS:
            nodes = ray.nodes()  # type: ignore[no-untyped-call]
            if not any(node["Alive"] and node["NodeID"] == self._node for node in nodes):
                self._forget()
                raise LostNode(
                    "the Ray node died to which this process was attached, and Ray's own log says why. What was done "
                    "is kept: go on with it (--resume), here or on another node"
                )
            self._room, self._counted = capacity(nodes, self._share), time.monotonic()
        room = self._room if self._most is None else min(self._room, self._most)
        if not self.size and (not room or self._failed_starts >= MOST_FAILED_STARTS):
            wanted = ", ".join(f"{amount:g} {name}" for name, amount in self._share.items() if amount)
            raise RuntimeError(
                f"no Ray worker is left: there is room for {room}, each of which needs {wanted}; the last was lost "
                f"because of this: {self._cause}"
            )
        for reference in list(self._starting)[room - self.size :] if room < self.size else ():
            ray.kill(self._starting.pop(reference))  # no node is left on which it could begin
        options = {RESOURCES[name]: amount for name, amount in self._share.items()}
        for _ in range(room - self.size if self._failed_starts < MOST_FAILED_STARTS else 0):
            remote: Any = ray.remote(Worker)  # here, because it takes milliseconds, and this is asked in every step
            actor = remote.options(**options, max_restarts=0, max_task_retries=0).remote(self._prepare)
            self._starting[actor.ready.remote()] = actor

    def _check_alive(self) -> None:
        now = time.monotonic()
        self._waits_since = math.inf if self._idle or self._running else min(self._waits_since, now)
        if now - self._waits_since > START_SECONDS:
            raise RuntimeError(f"no Ray worker came up within {START_SECONDS:g} s: {self._cause}")


def _raised(text: str) -> str:
    """The last exception of a text, without the tracebacks that Ray puts around it; all of it where there is none."""
    found = re.findall(r"^[A-Za-z_][\w.]*: .*?(?=\n\S|\Z)", text, re.MULTILINE | re.DOTALL)
    return str(found[-1]) if found else text


def capacity(nodes: Iterable[Mapping[str, Any]], share: Mapping[str, float]) -> int:
    """How many workers with this share of a node's resources fit into those of `ray.nodes()` that are alive."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    return sum(min(int(has.get(name, 0) / amount + 1e-9) for name, amount in share.items() if amount) for has in alive)
