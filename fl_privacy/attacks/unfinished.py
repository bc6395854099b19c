"""Long loops of an attack call, which go on with the same bits where an earlier process was killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from fl_privacy import checkpoints
from fl_privacy.checkpoints import State, under
from fl_privacy.observation import Tensors
from fl_privacy.optimiser_state import load_optimiser_state, optimiser_state
from fl_privacy.settings import PlainTable

EVERY_SECONDS = 30.0
LEAST_BETWEEN = 20
"""Checkpoints are at least so many times as far apart as one takes to write, which for a large model may be seconds."""
STATE, OWN, GLOBAL = "state/", "rng/own", "rng/torch"


@dataclass
class _Call:
    folder: Path
    loops: int = 0

    def next(self) -> Path:
        """The file of the next loop: a call that is made again has the same loops in the same order."""
        self.loops += 1
        return self.folder / f"{self.loops}.safetensors"


_call: ContextVar[_Call | None] = ContextVar("attack call", default=None)


@contextmanager
def kept_in(folder: Path | None) -> Iterator[None]:
    """Inside is one attack call, whose loops write down in `folder` how far they are, and go on from what lies there.

    None writes nothing. The folder is for the same call with the same code alone; whoever gives it sees to that.
    """
    token = _call.set(None if folder is None else _Call(folder))
    try:
        yield
    finally:
        _call.reset(token)


def steps(iterations: int, state: State, rng: torch.Generator | None = None) -> Iterator[int]:
    """The numbers of a loop's iterations, from 0, or from where an earlier process was killed, to `iterations` - 1.

    `state` is all that an iteration changes and a later one, or what follows the loop, reads; `rng` what it draws from,
    beside torch's own generator. A loop that is left early is repeated from its last checkpoint.

    Raises:
        ValueError: the checkpoint is damaged.
    """
    call = _call.get()
    if call is None:
        yield from range(iterations)
        return
    path = call.next()
    first = _gone_on(path, iterations, state, rng)
    began = saved = time.monotonic()
    wait = EVERY_SECONDS
    for iteration in range(first, iterations):
        yield iteration
        now = time.monotonic()
        over = iteration == iterations - 1 and now - began >= EVERY_SECONDS
        if over or now - saved >= wait:
            _save(path, iterations, iteration + 1, state, rng)
            saved = time.monotonic()
            wait = max(EVERY_SECONDS, LEAST_BETWEEN * (saved - now))


def _save(path: Path, iterations: int, done: int, state: State, rng: torch.Generator | None) -> None:
    tensors, facts = state.take()
    named = {f"{STATE}{name}": value for name, value in tensors.items()} | {GLOBAL: torch.get_rng_state()}
    if rng is not None:
        named[OWN] = rng.get_state()
    checkpoints.save(path, named, {"iterations": iterations, "done": done, "state": facts})


def _gone_on(path: Path, iterations: int, state: State, rng: torch.Generator | None) -> int:
    """How many iterations are done, with all put back as it was after them."""
    if not path.is_file():
        return 0
    tensors, facts = checkpoints.load(path)
    if facts["iterations"] != iterations:
        raise ValueError(
            f"{path} is of another attack: its loop has {facts['iterations']} iterations, and this one {iterations}. "
            "Delete it, and that call begins anew"
        )
    state.give(under(STATE, tensors), facts["state"])
    torch.set_rng_state(tensors[GLOBAL])
    if rng is not None:
        rng.set_state(tensors[OWN])
    done: int = facts["done"]
    return done


@dataclass(frozen=True)
class Training:
    """A network that an attack trains, with its optimiser, whose learning rate and momenta a schedule may move."""

    network: nn.Module
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None

    def take(self) -> tuple[Tensors, PlainTable]:
        tensors = {f"network/{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"optimiser/{name}": value for name, value in optimiser_state(self.optimiser).items()}
        if self.schedule is None:
            return tensors, {}
        groups = [{name: group[name] for name in ("lr", "betas")} for group in self.optimiser.param_groups]
        return tensors, {"groups": groups, "epoch": self.schedule.last_epoch}

    def give(self, tensors: Tensors, facts: PlainTable) -> None:
        self.network.load_state_dict(under("network/", tensors))
        load_optimiser_state(self.optimiser, under("optimiser/", tensors))
        if self.schedule is not None:
            for group, told in zip(self.optimiser.param_groups, facts["groups"], strict=True):
                group.update(lr=told["lr"], betas=tuple(told["betas"]))
            self.schedule.last_epoch = facts["epoch"]
