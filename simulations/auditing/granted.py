"""What the user grants beside the message: images that an adversary may own, and the truth that none has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from pathlib import Path

import torch
from torch import Tensor

from fl_privacy.data import load
from fl_privacy.evaluation import Truth, align, controls, score
from fl_privacy.metrics import METRICS, label_accuracy
from fl_privacy.observation import Images, Observation, Reconstruction
from fl_privacy.seeding import stream
from fl_privacy.settings import PlainTable
from fl_privacy.simulations.auditing.tries import Try
from fl_privacy.simulations.config.own import own_object

Pair = tuple[Tensor, Tensor]
MOST_PUBLIC = 2000  # images: enough for a covariance
ASKED = {
    "partition": "partition",
    "partition_id": "partition",
    "client": "client",
    "node": "node",
    "node_id": "node",
    "round": "round",
    "server_round": "round",
}
"""What a function that gives the truth may call its parameters, and what of a reply they get."""
MEASURED = ("psnr", "ssim")


def public_images(given: str | Images | None, root: Path | None) -> Images | None:
    """The adversary's own images: the training images of a data set (or module:name of one).

    Raises:
        UnknownName, MissingData: no such set.
    """
    if isinstance(given, str):
        train = load(given, root, {}).train
        return Images(train.images(slice(0, MOST_PUBLIC)), train.labels[:MOST_PUBLIC])
    return given


def check_public(public: Images | None, shape: tuple[int, ...]) -> None:
    """Check that the adversary's images have the shape of those that are looked for.

    Raises:
        ValueError: they have another.
    """
    if public is not None and tuple(public.inputs.shape[1:]) != shape:
        raise ValueError(f"--public has images {tuple(public.inputs.shape[1:])}, and those of the message are {shape}")


def granted_truth(
    given: str | Pair | Callable[..., Pair] | None,
    count: int,
    shape: tuple[int, ...],
    public: Images | None,
    known: Mapping[str, object] | None = None,
) -> Truth | None:
    """The client's own images (N, C, H, W) in [0, 1] and labels (N,), with which guesses are scored and nothing else.

    A function is given what it asks for by name of `known` (of a folder: ASKED).

    Raises:
        ValueError: they are something else, another number than the update's, or the adversary has one of them.
    """
    if given is None:
        return None
    found: object = own_object("function that gives the truth", given) if isinstance(given, str) else given
    if callable(found):
        wanted = _wanted(found, known or {})
        try:
            found = found(**wanted)
        except Exception as error:  # the user's own code can raise anything
            said = ", ".join(f"{name}={value}" for name, value in wanted.items()) or "without arguments"
            raise ValueError(f"--truth: called {said} it fails with {type(error).__name__}: {error}") from error
    if not (isinstance(found, tuple | list) and len(found) == 2 and all(isinstance(each, Tensor) for each in found)):
        raise ValueError("--truth gives (images, labels): two tensors, (N, C, H, W) in [0, 1] and (N,) whole numbers")
    images, labels = found[0].detach().cpu().float(), found[1].detach().cpu()
    if images.shape != (count, *shape) or labels.shape != (count,) or labels.is_floating_point():
        raise ValueError(
            f"--truth has images {tuple(images.shape)} and labels {tuple(labels.shape)} of {labels.dtype}, and the "
            f"update is of {count} images {shape}: give those that the client trained on alone, or mend --images"
        )
    if not (float(images.min()) >= 0 and float(images.max()) <= 1):
        raise ValueError("--truth: images lie in [0, 1], before any normalisation: that one goes to --local normalise")
    if public is not None and any(bool((public.inputs == image).flatten(1).all(1).any()) for image in images):
        raise ValueError("--public holds one of the client's own images, which no adversary has: take others")
    return Truth(images, labels.long())


def _wanted(function: Callable[..., object], known: Mapping[str, object]) -> dict[str, object]:
    """What a function asks for by the names of its parameters; those with a default of their own keep it.

    Raises:
        ValueError: it needs something that is not known.
    """
    wanted: dict[str, object] = {}
    for name, parameter in signature(function).parameters.items():
        field = ASKED.get(name)
        if field is not None and known.get(field) is not None:
            wanted[name] = known[field]
        elif parameter.default is Parameter.empty and parameter.kind in (0, 1, 3) and known:
            lacks = (
                "the replies do not say which partition a client holds: let the client app send it as the metric "
                "'partition-id' (context.node_config['partition-id']), or take 'client' or 'node'"
                if field == "partition"
                else f"it may ask for {', '.join(ASKED)}, and no more without a default"
            )
            raise ValueError(f"--truth: the function needs '{name}', and {lacks}")
    return wanted


def scores(attempt: Try, seen: Observation, truth: Truth) -> PlainTable | None:
    """How close a guess came, by metric, one value an image; None where there is no guess."""
    if attempt.guess is None:
        return None
    metrics = {name: METRICS[name] for name in MEASURED}
    try:
        found = score(attempt.attack, seen, attempt.guess, truth, metrics)
    except ValueError as error:
        return {"unmeasured": str(error)}
    return {
        **{name: values.tolist() for name, values in found.images.items()},
        "label_accuracy": found.label_accuracy,
        "loss_at_truth": found.loss_at_truth,
        "unmeasured": dict(found.unmeasured),
    }


def blind_scores(public: Images | None, seen: Observation, truth: Truth, seed: int) -> Mapping[str, PlainTable]:
    """The same of guesses that need no update: a random image and the mean image, and of each class the mean.

    Without public images there is a grey image alone.
    """
    spec, count = seen.spec, len(truth.labels)
    if public is None:
        guesses = {"grey image": Reconstruction(inputs=torch.full((count, *spec.image_shape), 0.5))}
    else:
        blind = controls(public, [truth], spec.classes, stream(seed, "controls"))
        guesses = {name: each for name, (each,) in blind.items()}
        if public.labels is not None:
            guesses["class mean"] = Reconstruction(inputs=_class_means(public, truth.labels))
    return {name: _blind(guess, truth, spec.classes) for name, guess in guesses.items()}


def _class_means(public: Images, labels: Tensor) -> Tensor:
    assert public.labels is not None
    found = []
    for label in labels.tolist():
        chosen = public.inputs[public.labels == label]
        found.append((chosen if len(chosen) else public.inputs).mean(0))
    return torch.stack(found)


def _blind(guess: Reconstruction, truth: Truth, classes: int) -> PlainTable:
    placed = align(guess, truth)
    assert placed.inputs is not None
    found: PlainTable = {}
    for name in MEASURED:
        try:
            found[name] = METRICS[name](placed.inputs, truth.inputs).tolist()
        except ValueError:  # SSIM of small images
            found[name] = [float("nan")] * len(truth.labels)
    if placed.labels is not None:
        found["label_accuracy"] = label_accuracy(placed.labels, truth.labels, classes)
    return found
