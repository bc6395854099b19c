"""What a run's names stood for: digests of the truths, the weights and the user's own code, and their check."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from fl_privacy import checkpoints
from fl_privacy.settings import PlainTable
from fl_privacy.simulations.channels import training_cache
from fl_privacy.simulations.config.resolve import channel_of
from fl_privacy.simulations.config.saved import named_code
from fl_privacy.simulations.experiment.spec import Experiment
from fl_privacy.simulations.federation import Federation
from fl_privacy.simulations.results import files, layout
from fl_privacy.simulations.scoring import truth_of

CONTENTS = "contents.json"
CODE = ("dataset", "partition", "model", "training_defences", "inference_defences", "protocol", "variants")
"""Where an experiment names code that the observations depend on; a saved run may be attacked by other code."""


def decides(experiment: Experiment) -> PlainTable:
    """`code` and `versions`, on which the bits of a run depend beside its settings; a label's text is no code."""
    named = [text for _, text in named_code(asdict(experiment))]
    known = training_cache.identity({"named": named})
    return {"code": known["code"], "versions": known["versions"]}


def data(federation: Federation) -> str:
    """SHA-256 (hex) of the data set, and of who holds which part of it."""
    splits = {"train": federation.data.train, "test": federation.data.test}
    tensors = {
        f"{split} {name}": value
        for split, images in splits.items()
        for name, value in vars(images).items()
        if value is not None
    }
    sizes = torch.tensor([len(part) for part in federation.parts])
    return checkpoints.digest({**tensors, "parts": torch.cat(federation.parts), "sizes": sizes})


def write(federation: Federation, folder: Path) -> None:
    """Write contents.json: SHA-256 of every attacked batch, every file of weights and every module of the user's own.

    The truths are there as digests only: they tell whether the data are the same, and nothing of the images.
    """
    keys = set(_observed(folder))
    content = {
        "truths": {key: _truth(federation, key) for key in sorted(keys)},
        "weights": {str(path.relative_to(folder)): _bytes(path) for path in _weights(folder)},
        "code": _code(federation),
    }
    files.write_json(folder / CONTENTS, content)


def check(federation: Federation, folder: Path) -> None:
    """Check that the data, the weights and the user's own code are still those of the run in `folder`.

    A run of an older version has no contents.json, and is taken at its word.

    Raises:
        ValueError: which are not, and what to do.
    """
    if not (folder / CONTENTS).exists():
        return
    known = files.read_object(folder / CONTENTS, "truths", "weights", "code")
    for name, digest in known["weights"].items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file() or _bytes(path) != digest:
            raise ValueError(f"{path} is damaged or gone: these are not the weights of the run. Run it anew")
    now = _code(federation)
    for name, digest in known["code"].items():
        if name in now and now[name] != digest:
            raise ValueError(
                f"the source of '{name}' is not that of the run in {folder}: it would be judged by other code. "
                "Put the old source back, or run it anew"
            )
    changed = [key for key, digest in known["truths"].items() if _truth(federation, key) != digest]
    if changed:
        raise ValueError(
            f"the data are not those of the run in {folder}: {len(changed)} of {len(known['truths'])} attacked batches "
            f"of '{federation.experiment.dataset['name']}' have changed, and scores would compare guesses with "
            "images that nobody sent. Put the old data back (or choose them with --data-root), or run it anew"
        )


def _observed(folder: Path) -> Iterator[str]:
    """ROUND_cCLIENT of every message, with '+CLIENT' for each of the others in it."""
    for path in (folder / layout.OBSERVATIONS).glob("*_r*_c*.json"):
        others = files.read_json(path).get("others", ())
        yield "+".join([path.stem.rpartition("_r")[2], *map(str, others)])


def _truth(federation: Federation, key: str) -> str:
    """The digest of the examples of a message, by what `_observed` calls it."""
    round, _, clients = key.partition("_c")
    everybody = [int(each) for each in clients.split("+")]
    truth = truth_of(channel_of(federation.experiment), federation, everybody, int(round))
    return checkpoints.digest({"inputs": truth.inputs, "labels": truth.labels})


def _weights(folder: Path) -> list[Path]:
    return sorted([*(folder / layout.OBSERVATIONS).glob("*_model.safetensors"), *folder.glob("models/*.safetensors")])


def _bytes(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _code(federation: Federation) -> Mapping[str, str]:
    """The digest of the source of every module that the experiment names and has imported, by the name."""
    settings = {key: value for key, value in asdict(federation.experiment).items() if key in CODE}
    found = {}
    for _, name in named_code(settings):
        module = sys.modules.get(name.partition(":")[0])  # nothing is imported to be digested
        source = inspect.getsourcefile(module) if getattr(module, "__file__", None) and module else None
        if source is not None and Path(source).is_file():
            found[name] = _bytes(Path(source))
    return found
