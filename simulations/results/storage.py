"""What the stages leave for each other in a run folder: observations and reconstructions."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, fields
from pathlib import Path

import torch
from torch import nn

from fl_privacy.checkpoints import digest
from fl_privacy.defences import Chain
from fl_privacy.observation import ChannelName, LocalTraining, Observation, Reconstruction, Spec
from fl_privacy.settings import ReadTable, check_settings
from fl_privacy.simulations.results.files import read_object, read_tensors, write_json, write_tensors
from fl_privacy.simulations.results.layout import CONFIG
from fl_privacy.simulations.results.records import Key
from fl_privacy.weights import load_weights

KEY = tuple(field.name for field in fields(Key))


def save_observation(folder: Path, condition: int, seen: Observation) -> Key:
    """Write an observation's payload and facts, and the model's weights once a condition and round."""
    key = Key(condition, seen.round, seen.client)
    if seen.model is not None:
        weights = folder / _weights(key)
        if not weights.exists():
            write_tensors(weights, seen.model.state_dict())
    write_tensors(folder / f"{key.stem}.safetensors", seen.payload)
    facts = {
        **asdict(key),
        "others": list(seen.others),
        "channel": str(seen.channel),
        "spec": asdict(seen.spec),
        "names": list(seen.payload),
        "model": _weights(key) if seen.model is not None else None,
        "training": None if seen.model is None else [name for name, m in seen.model.named_modules() if m.training],
        "applied": seen.applied,
        "sha256": digest(seen.payload),
    }
    write_json(folder / f"{key.stem}.json", facts)
    return key


def load_observations(
    folder: Path,
    blank: Callable[[Spec], nn.Module],
    chains: Sequence[Chain],
    wanted: Callable[[Key], bool] = lambda key: True,
) -> dict[Key, Observation]:
    """The saved observations by key; those of one condition and round share one model, as the adversary had it.

    `blank` builds the architecture, `chains` are the conditions' defences, whose law the adversary knows.

    Raises:
        ValueError: a payload is not the one that was saved.
    """
    models: dict[str, nn.Module] = {}
    observations: dict[Key, Observation] = {}
    for path in folder.glob("*_r*_c*.json"):
        facts = read_object(path, "channel", "spec", "names", "model", "sha256", *KEY)
        key = _key(path, facts)
        if not wanted(key):
            continue
        if key.condition >= len(chains):
            raise ValueError(
                f"{path} is of condition {key.condition}, and the experiment of this run has {len(chains)} conditions"
            )
        spec = _spec(facts["spec"])
        loaded = read_tensors(path.with_suffix(".safetensors"))
        payload = {name: loaded[name] for name in facts["names"] if name in loaded}
        if digest(payload) != facts["sha256"]:
            raise ValueError(
                f"{path.with_suffix('.safetensors')} is damaged: its SHA-256 is not the one in {path.name}"
            )
        weights = None if facts["model"] is None else _weights(key)  # never a path that stands in the file
        if weights is not None and weights not in models:
            models[weights] = model = blank(spec)
            load_own_weights(model, folder / weights)
            _set_modes(model, facts.get("training"))
        observations[key] = Observation(
            channel=ChannelName(facts["channel"]),
            payload=payload,
            spec=spec,
            round=key.round,
            client=key.client,
            others=tuple(facts.get("others", ())),
            model=None if weights is None else models[weights],
            defence=chains[key.condition],
            applied=facts.get("applied"),
        )
    return dict(sorted(observations.items()))


def load_own_weights(model: nn.Module, path: Path) -> None:
    """Give the model the weights of its run that a file holds.

    Raises:
        ValueError: the file is damaged or gone, or holds the weights of another architecture.
    """
    try:
        load_weights(model, read_tensors(path))
    except RuntimeError as error:  # torch names every tensor that does not fit, each in a line of its own
        raise ValueError(
            f"{path} does not fit the model that {CONFIG} names, which is not that of the run: {error}"
        ) from error


def _spec(facts: ReadTable) -> Spec:
    """The public facts that a file holds; those of an older version told one kind of local training alone."""
    local = facts.get("local")
    if local is None:
        mode = "train" if facts["training_mode"] else "eval"
        local = {"learning_rate": facts["learning_rate"], "steps": facts["local_steps"], "mode": mode}
    return Spec(
        image_shape=tuple(facts["image_shape"]),
        classes=facts["classes"],
        batch_size=facts["batch_size"],
        local=LocalTraining(**check_settings("the local training of a saved observation", LocalTraining, local)),
    )


def _set_modes(model: nn.Module, training: Collection[str] | None) -> None:
    """Put the modules of these names into training mode and all others into eval mode; None leaves them as they are."""
    if training is None:  # written before modes were
        return
    for name, module in model.named_modules():
        module.training = name in training


def save_guess(folder: Path, key: Key, guess: Reconstruction) -> None:
    """Write a reconstruction and what it cost."""
    recovered = {"inputs": guess.inputs, "labels": guess.labels, "bound": guess.bound}
    tensors = {name: value for name, value in recovered.items() if value is not None}
    write_tensors(folder / f"{key.stem}.safetensors", {**tensors, "trace": guess.trace})
    facts = {**asdict(key), "loss": guess.loss, "iterations": guess.iterations, "seconds": guess.seconds}
    facts |= {"winner": guess.winner} if guess.winner else {}
    write_json(folder / f"{key.stem}.json", {**facts, "sha256": guess_digest(guess)})


def guess_digest(guess: Reconstruction) -> str:
    """SHA-256 of a reconstruction's images and labels, where it has any; the time it took is no part of it."""
    recovered = {"inputs": guess.inputs, "labels": guess.labels}
    return digest({name: value for name, value in recovered.items() if value is not None})


def has_guess(folder: Path, key: Key) -> bool:
    """Whether the whole reconstruction for this message lies there, with the bytes that were written."""
    try:
        facts = read_object(folder / f"{key.stem}.json", "sha256", *KEY)
        tensors = read_tensors(folder / f"{key.stem}.safetensors")
    except ValueError:
        return False
    return bool(digest({name: tensors[name] for name in ("inputs", "labels") if name in tensors}) == facts["sha256"])


def load_guesses(folder: Path) -> dict[Key, Reconstruction]:
    """All saved reconstructions by key."""
    guesses: dict[Key, Reconstruction] = {}
    for path in folder.glob("*_r*_c*.json"):
        facts = read_object(path, "loss", "iterations", "seconds", *KEY)
        key = _key(path, facts)
        tensors = read_tensors(path.with_suffix(".safetensors"))
        guess = Reconstruction(
            inputs=tensors.get("inputs"),
            labels=tensors.get("labels"),
            bound=tensors.get("bound"),
            trace=tensors.get("trace", torch.empty(0)),
            iterations=facts["iterations"],
            seconds=facts["seconds"],
            loss=math.nan if facts["loss"] is None else facts["loss"],
            winner=facts.get("winner", ""),
        )
        guesses[key] = guess
    return dict(sorted(guesses.items()))


def _key(path: Path, facts: ReadTable) -> Key:
    key = Key(facts["condition"], facts["round"], facts["client"])
    if not all(type(part) is int and part >= 0 for part in asdict(key).values()) or key.stem != path.stem:
        raise ValueError(f"{path} is damaged: it says that it is {key}")
    return key


def _weights(key: Key) -> str:
    return f"{key.condition}_r{key.round}_model.safetensors"
