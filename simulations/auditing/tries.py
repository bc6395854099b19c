"""The attacks, cheapest and exact first over all messages, within a time."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType

import torch
import torch.nn.functional as F
from torch import Tensor

from fl_privacy.attacks import Attack
from fl_privacy.attacks.gradient.local_steps import matcher_for
from fl_privacy.attacks.gradient.matching import observed_step
from fl_privacy.observation import Observation, Reconstruction
from fl_privacy.seeding import one_thread, stream
from fl_privacy.simulations.config.resolve import attack_of
from fl_privacy.simulations.progress import step

EXACT = 1e-4
"""Below this, what a guess leaves unexplained is rounding."""
ORDER = ("label_counts", "linear_layer", "peeling", "spear", "low_rank", "map")
"""Labels first, then what is solved, then what is searched for."""
SOLVED = frozenset(ORDER) - {"map"}
OVER = "the time was over: raise --minutes"
"""Why there is no guess where the time was over."""


@dataclass(frozen=True)
class Try:
    """What became of one attack: `guess` where it recovered anything, else `reason` says why not.

    `unexplained`: the share of the update, as a norm, that the images and labels of the guess do not reproduce; None
    where there are no images or no labels.
    """

    name: str
    attack: Attack
    guess: Reconstruction | None
    reason: str
    unexplained: float | None
    seconds: float


class OutOfTime(BaseException):  # so that no attack catches it
    """The time of an audit is over."""


def chosen(names: Sequence[str], public: bool) -> dict[str, Attack]:
    """The attacks of these names, with the settings of an audit.

    Raises:
        UnknownName: there is none.
    """
    # no bound of 'map': without a noise that is known its law is not, and the bound would be that of its own floor
    ours = {"map": {"prior": "public"}} if public else {}
    return {name: attack_of({"name": name, **ours.get(name, {})}) for name in names}


def tries(
    messages: Sequence[Observation],
    attacks: dict[str, Attack],
    minutes: float,
    seed: int,
    note: Callable[[str], None],
    device: str,
    known: Mapping[tuple[int, str], Try],
    found: Callable[[int, Try], None],
) -> list[list[Try]]:
    """Every attack on every message, the first attack on all of them first, and a list for each message.

    Each message has an equal share of the time that is left. One that an attack explains is not searched any more; an
    attack that does not apply, or fails, or runs out of time, costs no other. `known`: what an earlier process found,
    by the message's place and the attack; the time that it took is spent. `found` gets each other result as it comes.
    """
    done = [list[Try]() for _ in messages]
    end = time.monotonic() + 60 * minutes - sum(each.seconds for each in known.values())
    for name, attack in attacks.items():
        note(f"trying {name}" + (f" on {len(messages)} messages" if len(messages) > 1 else ""))
        for place, seen in enumerate(messages):
            step(note, "attacks", sum(map(len, done)), len(attacks) * len(messages), f"trying {name}")
            result = known.get((place, name))
            if result is None:
                share = (end - time.monotonic()) / (len(messages) - place)
                result = _one(name, attack, seen, device, share, seed, _explained(done[place]))
                found(place, result)
            done[place].append(result)
    step(note, "attacks", sum(map(len, done)), len(attacks) * len(messages))
    return done


def _one(name: str, attack: Attack, seen: Observation, device: str, seconds: float, seed: int, explained: str) -> Try:
    """One attack on one message, which another one may have explained already."""
    if name not in SOLVED and explained:
        return Try(name, attack, None, f"not tried: {explained} explains the whole message", None, 0.0)
    start = time.monotonic()
    guess, reason, unexplained = _tried(attack, seen, torch.device(device), seconds, seed)
    return Try(name, attack, guess, reason, unexplained, time.monotonic() - start)


def _here(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.cpu()


def _explained(done: Sequence[Try]) -> str:
    """The attack whose images and labels leave rounding errors alone; empty where none has."""
    return next((each.name for each in done if each.unexplained is not None and each.unexplained <= EXACT), "")


def _tried(
    attack: Attack, seen: Observation, device: torch.device, seconds: float, seed: int
) -> tuple[Reconstruction | None, str, float | None]:
    """The guess on the CPU or None, why there is none, and what it leaves unexplained."""
    try:
        with one_thread(), _at_most(seconds):
            moved = seen.to(device)
            (guess,) = attack.prepare([moved], stream(seed, "prepare"))([moved], stream(seed, "attack"))
            if guess.inputs is None and guess.labels is None:
                return None, "it found nothing that it could be sure of", None
            guess = replace(guess, inputs=_here(guess.inputs), labels=_here(guess.labels), bound=_here(guess.bound))
            try:
                return guess, "", _unexplained(seen, guess)
            except (Exception, OutOfTime):  # the model may be anybody's, and the guess stands without it
                return guess, "", None
    except OutOfTime:
        return None, OVER, None
    except ValueError as error:
        return None, f"it does not apply: {error}", None
    except Exception as error:  # another attack may take it
        return None, f"it failed: {type(error).__name__}: {error}", None


def _unexplained(seen: Observation, guess: Reconstruction) -> float | None:
    """||s(x, y) - s|| / ||s||: what a client with these images would send, beside what was sent."""
    if guess.inputs is None or guess.labels is None:
        return None
    sent = observed_step(seen)
    targets = F.one_hot(guess.labels, seen.spec.classes).to(sent)
    found = matcher_for([seen])(guess.inputs.to(sent)[None], targets[None])[0].detach()
    return float((found - sent).norm() / sent.norm().clamp_min(torch.finfo(sent.dtype).tiny))


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the block after that time; where there are no alarms (not the main thread, Windows), at once
    or never.
    """
    if seconds <= 0:
        raise OutOfTime
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def over(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
