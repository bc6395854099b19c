"""The run folder: what each stage leaves on disk for the next one, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from fl_privacy.defences import Chain
from fl_privacy.observation import Channel, Observation, Reconstruction, Spec, Tensors

CONFIG, ROUNDS, RESULTS, SAMPLES = "config.json", "rounds.json", "results.json", "samples.jsonl"
OBSERVATIONS, GUESSES, FIGURES, ORIGINALS = "observations", "reconstructions", "figures", "originals"


def default_folder(name: str, seed: int) -> Path:
    """Where a run goes that names no folder: outputs/NAME/TIME_SEED."""
    return Path("outputs") / name / f"{time.strftime('%Y%m%d-%H%M%S')}_{seed}"


def new_folder(path: Path) -> Path:
    """Make an empty folder for a run and return its absolute path.

    Raises:
        ValueError: it cannot be written, or something is in it: no run is ever overwritten.
    """
    path = path.absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"the run folder {path} cannot be written: {error}") from error
    if any(path.iterdir()):
        raise ValueError(f"the run folder {path} is not empty: choose another --out, or delete it first")
    return path


def write_atomic(path: Path, content: bytes) -> Path:
    """Write a file so that a reader finds the whole of it or none of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        draft.write_bytes(content)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def write_json(path: Path, value: object) -> Path:
    """Write JSON that any reader takes: NaN and infinities, which JSON has not, become null."""
    return write_atomic(path, (json.dumps(_plain(value), indent=2, allow_nan=False) + "\n").encode())


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write one JSON object a line."""
    lines = [json.dumps(_plain(row), allow_nan=False) + "\n" for row in rows]
    return write_atomic(path, "".join(lines).encode())


def read_json(path: Path) -> Any:
    """Read a JSON file of a run folder.

    Raises:
        ValueError: the file is not there or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path.parent} is not a finished run: it has no {path.name}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, types, shapes and bytes of `tensors`, in their order."""
    total = hashlib.sha256()
    for name, value in tensors.items():
        total.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


@dataclass(frozen=True, order=True)
class Key:
    """Which message of a run: the arm, the round, the client."""

    arm: int
    round: int
    client: int

    @property
    def stem(self) -> str:
        return f"{self.arm}_r{self.round}_c{self.client}"


def save_observation(folder: Path, arm: int, seen: Observation) -> Key:
    """Write an observation's payload and facts, and the model's weights once an arm and round."""
    key = Key(arm, seen.round, seen.client)
    if seen.model is not None:
        weights = folder / _weights(key)
        if not weights.exists():
            write_tensors(weights, seen.model.state_dict())
    write_tensors(folder / f"{key.stem}.safetensors", seen.payload)
    facts = {
        **asdict(key),
        "channel": str(seen.channel),
        "spec": asdict(seen.spec),
        "names": list(seen.payload),
        "model": _weights(key) if seen.model is not None else None,
        "sha256": digest(seen.payload),
    }
    write_json(folder / f"{key.stem}.json", facts)
    return key


def load_observations(
    folder: Path, blank: Callable[[Spec], nn.Module], chains: Sequence[Chain]
) -> dict[Key, Observation]:
    """All saved observations by key; those of one arm and round share one model, as the adversary had it.

    `blank` builds the architecture, `chains` are the arms' defences, whose law the adversary knows.

    Raises:
        ValueError: a payload is not the one that was saved.
    """
    models: dict[str, nn.Module] = {}
    observations: dict[Key, Observation] = {}
    for path in folder.glob("*_r*_c*.json"):
        facts = read_json(path)
        key = Key(facts["arm"], facts["round"], facts["client"])
        spec = Spec(**{**facts["spec"], "image_shape": tuple(facts["spec"]["image_shape"])})
        loaded = safetensors.torch.load_file(path.with_suffix(".safetensors"))
        payload = {name: loaded[name] for name in facts["names"]}
        if digest(payload) != facts["sha256"]:
            raise ValueError(f"{path.with_suffix('.safetensors')} is damaged: its SHA-256 is not the one in {path.name}")
        if facts["model"] is not None and facts["model"] not in models:
            models[facts["model"]] = blank(spec)
            models[facts["model"]].load_state_dict(safetensors.torch.load_file(folder / facts["model"]))
        observations[key] = Observation(
            channel=Channel(facts["channel"]),
            payload=payload,
            spec=spec,
            round=key.round,
            client=key.client,
            model=models.get(facts["model"]),
            defence=chains[key.arm],
        )
    return dict(sorted(observations.items()))


def save_guess(folder: Path, key: Key, guess: Reconstruction) -> None:
    """Write a reconstruction and what it cost."""
    tensors = {"inputs": guess.inputs, "trace": guess.trace}
    if guess.labels is not None:
        tensors["labels"] = guess.labels
    write_tensors(folder / f"{key.stem}.safetensors", tensors)
    facts = {**asdict(key), "loss": guess.loss, "iterations": guess.iterations, "seconds": guess.seconds}
    write_json(folder / f"{key.stem}.json", {**facts, "sha256": guess_digest(guess)})


def guess_digest(guess: Reconstruction) -> str:
    """SHA-256 of a reconstruction's images and labels; the time it took is no part of it."""
    labels = {} if guess.labels is None else {"labels": guess.labels}
    return digest({"inputs": guess.inputs, **labels})


def load_guesses(folder: Path) -> dict[Key, Reconstruction]:
    """All saved reconstructions by key."""
    guesses: dict[Key, Reconstruction] = {}
    for path in folder.glob("*_r*_c*.json"):
        facts = read_json(path)
        tensors = safetensors.torch.load_file(path.with_suffix(".safetensors"))
        guess = Reconstruction(
            inputs=tensors["inputs"],
            labels=tensors.get("labels"),
            trace=tensors["trace"],
            iterations=facts["iterations"],
            seconds=facts["seconds"],
        )
        loss = facts["loss"]
        guesses[Key(facts["arm"], facts["round"], facts["client"])] = replace(
            guess, loss=math.nan if loss is None else loss
        )
    return dict(sorted(guesses.items()))


def _weights(key: Key) -> str:
    return f"{key.arm}_r{key.round}_model.safetensors"


def write_tensors(path: Path, tensors: Tensors) -> Path:
    """Write tensors, on any device, as a safetensors file."""
    # clones: safetensors refuses tensors that share memory
    copies = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    return write_atomic(path, safetensors.torch.save(copies))
