"""What an audit has found so far: each attack's result is written as it is found, and a killed audit goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from fl_privacy.attacks import Attack
from fl_privacy.checkpoints import digest
from fl_privacy.observation import Images, Reconstruction
from fl_privacy.settings import PlainTable, ReadTable
from fl_privacy.simulations.auditing.messages import Message
from fl_privacy.simulations.auditing.told import write_guess
from fl_privacy.simulations.auditing.tries import OVER, Try
from fl_privacy.simulations.auditing.wishes import Wishes
from fl_privacy.simulations.channels import training_cache
from fl_privacy.simulations.results import files, layout
from fl_privacy.simulations.run.resume import forget_first_draft

LIBRARIES = ("torch", "torchvision", "fl_privacy")
"""Packages whose code is in an audit's identity by other ways: their version, or the hash of this one."""


def audit_folder(wishes: Wishes, about: ReadTable) -> tuple[Path, bool]:
    """The folder of an audit that `about` identifies, and whether one is begun there, which only `resume` allows.

    Raises:
        ValueError: it cannot be written, holds anything without `resume`, or holds another audit than this one.
    """
    path = files.default_folder("audit", wishes.seed) if wishes.out is None else Path(wishes.out)
    path = path.absolute()
    begun = (path / layout.AUDIT_BEGUN).is_file()
    if begun and wishes.resume:
        _check_same(path, about)
        return path, True
    if begun and not (path / layout.AUDIT).is_file():
        raise ValueError(
            f"{path} holds an audit that is not finished: go on with it (--resume; resume=True in Python), or choose "
            "another --out"
        )
    if wishes.resume:
        forget_first_draft(path, layout.AUDIT_BEGUN)
    return files.new_folder(path), False


def identity(
    messages: Sequence[Message], attacks: Mapping[str, Attack], public: Images | None, wishes: Wishes, device: str
) -> PlainTable:
    """All that decides the bits of every guess, as JSON holds it; the truth and the time are no part of it."""
    named = [each for each in (wishes.model, wishes.local, wishes.public) if isinstance(each, str)]
    parts = [*attacks.values(), *(part for each in messages[:1] for part in _own_parts(each))]
    found = {
        "seed": wishes.seed,
        "device": device,
        "attacks": {name: vars(attack) for name, attack in attacks.items()},
        "messages": {each.place: _identity(each) for each in messages},
        "public": None if public is None else digest(_tensors(public)),
    }
    code = training_cache.identity({"named": named}, parts)
    settings: PlainTable = json.loads(json.dumps(files.plain(found), default=str))
    return {**settings, "code": code["code"], "versions": code["versions"]}


def begin(folder: Path, about: ReadTable) -> None:
    """Write down which audit lies in a new folder."""
    files.write_json(folder / layout.AUDIT_BEGUN, about)


def keep(folder: Path, found: Try) -> None:
    """Write an attack's guess, and then what it says: without the last there is no result."""
    if found.guess is not None:
        write_guess(folder, found.name, found.guess)
    facts = {
        "attack": found.name,
        "reason": found.reason,
        "unexplained": found.unexplained,
        "loss": None if found.guess is None else found.guess.loss,
        "seconds": found.seconds,
        "sha256": None if found.guess is None else _digest(found.guess),
    }
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(_record(folder, found.name), facts)


def kept(folder: Path, name: str, attack: Attack) -> Try | None:
    """The finished result of an attack; None where there is none, it is damaged, or its time was over."""
    path = _record(folder, name)
    if not path.is_file():
        return None
    try:
        facts = files.read_object(path, "attack", "reason", "unexplained", "loss", "seconds", "sha256")
        guess = None if facts["sha256"] is None else _guess(folder, name, facts["loss"])
    except ValueError:
        return None
    if facts["reason"] == OVER or facts["attack"] != name or (guess and _digest(guess) != facts["sha256"]):
        return None
    return Try(name, attack, guess, facts["reason"], facts["unexplained"], facts["seconds"])


def _guess(folder: Path, name: str, loss: float | None) -> Reconstruction:
    found = files.read_tensors(folder / f"{files.slug(name)}.safetensors")
    return Reconstruction(
        inputs=found.get("images"),
        labels=found.get("labels"),
        bound=found.get("bound"),
        loss=math.nan if loss is None else loss,
    )


def _record(folder: Path, name: str) -> Path:
    return folder / f"{files.slug(name)}.json"


def _digest(guess: Reconstruction) -> str:
    found = {"images": guess.inputs, "labels": guess.labels, "bound": guess.bound}
    return digest({key: value for key, value in found.items() if value is not None})


def _identity(message: Message) -> PlainTable:
    seen = message.case.seen
    return {
        "message": digest(seen.payload),
        "model": "" if seen.model is None else digest(seen.model.state_dict()),
        "facts": asdict(seen.spec),
        "defence": None if seen.defence is None else str(getattr(seen.defence, "label", seen.defence)),
    }


def _own_parts(message: Message) -> list[object]:
    """The parts of the model that are of the user's own code."""
    model = message.case.seen.model
    return [] if model is None else [m for m in model.modules() if type(m).__module__.split(".")[0] not in LIBRARIES]


def _tensors(public: Images) -> dict[str, Tensor]:
    return {name: value for name, value in vars(public).items() if value is not None}


def _check_same(folder: Path, about: ReadTable) -> None:
    before = files.read_object(folder / layout.AUDIT_BEGUN, *about)
    changed = [name for name, value in about.items() if before[name] != value]
    if changed:
        raise ValueError(
            f"the audit in {folder} is another one (not the same: {', '.join(changed)}), and one report would be of "
            "two: take its arguments, files, code and versions, or another --out"
        )
