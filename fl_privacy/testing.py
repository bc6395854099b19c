"""Conformance checks for whoever writes an attack, a defence, a metric, a model, a data set or a partition.

Each takes the thing itself, with settings where it has any, and raises AssertionError with what is wrong and what is
wanted. They are quick: small images, no training.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fl_privacy.attacks import Attack
from fl_privacy.data import DataSet
from fl_privacy.data.base import Loader
from fl_privacy.data.partition import Partitioner
from fl_privacy.defences import Defence
from fl_privacy.federated.client import gradient
from fl_privacy.metrics.base import Metric
from fl_privacy.models import build_model
from fl_privacy.models.base import ModelFactory
from fl_privacy.observation import ChannelName, Images, LocalTraining, Observation, Reconstruction, Spec, Tensors
from fl_privacy.seeding import stream

SHAPE, CLASSES, BATCH = (1, 16, 16), 10, 2


def observations(channel: ChannelName, count: int = 2, batch: int = BATCH) -> list[Observation]:
    """Messages of a small model about images of noise, with all that any threat model grants beside them."""
    model = build_model("convnet", SHAPE, CLASSES, 0)
    rng = stream(0, "testing")
    spec = Spec(image_shape=SHAPE, classes=CLASSES, batch_size=batch, local=LocalTraining(learning_rate=0.1))
    public = Images(torch.rand(16, *SHAPE, generator=rng), torch.arange(16) % CLASSES)
    made = []
    for client in range(count):
        x, y = torch.rand(batch, *SHAPE, generator=rng), torch.randint(CLASSES, (batch,), generator=rng)
        segment: nn.Module = model
        if channel is ChannelName.ACTIVATION:
            assert isinstance(model, nn.Sequential)
            segment = model[:2].eval()
        payload = _payload(channel, segment, x, y)
        made.append(
            Observation(
                channel=channel,
                payload=payload,
                spec=spec,
                round=1,
                client=client,
                model=segment,
                query=segment,
                public=public,
            )
        )
    return made


@torch.no_grad()
def _forward(segment: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = segment(x)
    return out


def _payload(channel: ChannelName, segment: nn.Module, x: Tensor, y: Tensor) -> Tensors:
    if channel is ChannelName.ACTIVATION:
        return {"activation": _forward(segment, x)}
    if channel is ChannelName.OUTPUT:
        return {"outputs": _forward(segment.eval(), x)}
    slopes, _ = gradient(segment, x, y)
    return slopes if channel is ChannelName.GRADIENT else {name: -0.1 * value for name, value in slopes.items()}


def check_attack(
    attack: type[Attack],
    settings: Mapping[str, Any] | None = None,
    seen_on: Callable[[ChannelName], Sequence[Observation]] | None = None,
) -> None:
    """Check an attack on every channel that it names: shapes, ranges, repeatable bits, nothing changed in place.

    Its `capabilities` say what is wanted of it: images, labels, another guess for another seed. An attack without an
    objective, whose loss is NaN, passes. `seen_on` gives the messages of a channel, where those that are made here, of
    a small convolutional network, will not do.

    Raises:
        AssertionError: what is wrong.
    """
    made: Attack = _configured(attack, settings)
    assert made.channels, "an attack names its 'channels': without any, no experiment can use it"
    assert made.capabilities.images or made.capabilities.labels, "an attack recovers images, or labels, or both"
    for channel in made.channels:
        batch = min(BATCH, made.capabilities.largest_batch or BATCH)
        seen = seen_on(channel) if seen_on else observations(channel, batch=batch)
        before = [{name: value.clone() for name, value in each.payload.items()} for each in seen]
        first, again, other = (_guesses(made, seen, seed) for seed in (0, 0, 1))
        for each, old in zip(seen, before, strict=True):
            same = all(torch.equal(each.payload[name], old[name]) for name in old)
            assert same, f"{attack.__name__} changes the observation in place: work on copies"
        _check_capabilities(made, first)
        assert _same(first, again), (
            f"{attack.__name__} gives other bits for the same seed: draw from `rng` alone, not a global stream"
        )
        if made.capabilities.stochastic:
            assert not _same(first, other), (
                f"{attack.__name__} gives the same guess for every seed: declare stochastic=False, or draw from `rng`"
            )
        else:
            assert _same(first, other), (
                f"{attack.__name__} gives other guesses for other seeds: declare stochastic=True in its 'capabilities'"
            )
        assert _guesses(made, [], 0) == [], "no observation, no guess"


def _guesses(attack: Attack, seen: Sequence[Observation], seed: int) -> list[Reconstruction]:
    ready = attack.prepare(seen, stream(seed, "prepare")) if seen else attack
    return ready(seen, stream(seed, "attack"))


def _check_capabilities(attack: Attack, guesses: Sequence[Reconstruction]) -> None:
    name, can = type(attack).__name__, attack.capabilities
    for what, declared, found in (
        ("images", can.images, [guess.inputs for guess in guesses]),
        ("labels", can.labels, [guess.labels for guess in guesses]),
    ):
        if declared:
            assert any(each is not None for each in found), (
                f"{name} recovers no {what} of any message: declare {what}=False, or give messages that it can read"
            )


def _same(some: Sequence[Reconstruction], others: Sequence[Reconstruction]) -> bool:
    """Whether two calls gave the same bits; losses that are both NaN are the same."""
    for one, other in zip(some, others, strict=True):
        for mine, yours in ((one.inputs, other.inputs), (one.labels, other.labels), (one.bound, other.bound)):
            if (mine is None) != (yours is None):
                return False
            if mine is not None and yours is not None and not torch.equal(mine, yours):
                return False
        if not (one.loss == other.loss or (math.isnan(one.loss) and math.isnan(other.loss))):
            return False
    return True


def check_defence(defence: type[Defence], settings: Mapping[str, Any] | None = None) -> None:
    """Check a defence: names, shapes and types kept, its own stream, the input untouched, degenerate payloads taken.

    Raises:
        AssertionError: what is wrong.
    """
    made = _configured(defence, settings)
    payloads: tuple[Tensors, ...] = (
        {"w": torch.randn(4, 3, generator=stream(0, "w")), "b": torch.randn(4, generator=stream(0, "b"))},
        {"w": torch.zeros(4, 3)},
        {"w": torch.zeros(0, 3)},
    )
    for payload in payloads:
        before = {name: value.clone() for name, value in payload.items()}
        state = torch.get_rng_state()
        after, again = (made.on_release(payload, stream(0, "release")) for _ in range(2))
        assert torch.equal(torch.get_rng_state(), state), "a defence draws from `rng` alone, not from a global stream"
        assert all(torch.equal(payload[name], before[name]) for name in before), "the payload is changed in place"
        assert list(after) == list(before), "a release has the names of the payload, in its order"
        for name, value in after.items():
            kept = value.shape == before[name].shape and value.dtype == before[name].dtype
            assert kept, f"'{name}' comes back as {value.dtype} {tuple(value.shape)}"
            assert bool(torch.isfinite(value).all()), f"'{name}' comes back with NaN or infinite values"
            assert torch.equal(value, again[name]), "the same stream must give the same bits"


def check_metric(metric: Metric) -> None:
    """Check a metric of images: one finite number an image, the same images first or alone, no change in place.

    Raises:
        AssertionError: what is wrong.
    """
    guess, truth = (torch.rand(3, *SHAPE, generator=stream(0, name)) for name in ("guess", "truth"))
    values = metric(guess.clone(), truth.clone())
    assert values.shape == (3,), f"a metric gives one number an image, (N,), not {tuple(values.shape)}"
    assert bool(torch.isfinite(values).all()), "a metric of images in [0, 1] is finite"
    alone = metric(guess[:1], truth[:1])
    assert torch.allclose(values[:1], alone, atol=1e-6), "an image's value must not depend on the others beside it"
    assert bool(torch.isfinite(metric(truth, truth)).all()), "a perfect copy has a finite value (cap it)"


def check_model(factory: ModelFactory, **settings: Any) -> None:
    """Check a model's factory: (image_shape, classes) to a module with one logit a class and a slope.

    Raises:
        AssertionError: what is wrong.
    """
    torch.manual_seed(0)
    model = factory(SHAPE, CLASSES, **settings)
    assert isinstance(model, nn.Module), f"a model's factory returns an nn.Module, not {type(model).__name__}"
    logits = model(torch.rand(2, *SHAPE))
    assert isinstance(logits, Tensor), f"a model returns its logits, not {type(logits).__name__}"
    assert logits.shape == (2, CLASSES), f"a model returns (N, classes) logits, here (2, {CLASSES}), not {logits.shape}"
    slopes, _ = gradient(model, torch.rand(2, *SHAPE), torch.tensor([0, 1]))
    assert any(bool(value.abs().sum() > 0) for value in slopes.values()), "no weight of the model has a slope"


def check_dataset(loader: Loader, root: Path | None = None, **settings: Any) -> DataSet:
    """Check a data set's loader, which gets the data folder, and return what it loads.

    Raises:
        AssertionError: what is wrong.
    """
    data = loader(root, **settings)
    assert isinstance(data, DataSet), f"a loader returns a DataSet (from_tensors makes one), not {type(data).__name__}"
    for name, split in (("train", data.train), ("test", data.test)):
        assert len(split) > 0, f"the {name} split is empty"
        images = split.images(slice(8))
        assert tuple(images.shape[1:]) == data.image_shape, f"the {name} images are not {data.image_shape}"
        assert 0 <= float(images.min()) <= float(images.max()) <= 1, f"the {name} images leave [0, 1]"
        assert 0 <= int(split.labels.min()) <= int(split.labels.max()) < data.classes, (
            f"the {name} labels are not 0 to classes - 1"
        )
    return data


def check_partition(partition: Partitioner, **settings: Any) -> None:
    """Check a partition: every index to at most one client, the same deal for the same stream.

    Raises:
        AssertionError: what is wrong.
    """
    labels = torch.arange(100) % CLASSES
    parts, again = (partition(labels, 4, stream(0, "partition"), **settings) for _ in range(2))
    assert len(parts) == 4, f"4 clients need 4 parts, not {len(parts)}"
    everything = torch.cat(list(parts))
    assert len(set(everything.tolist())) == len(everything), "an index is dealt to two clients"
    assert bool((everything >= 0).all() and (everything < len(labels)).all()), "an index lies outside the labels"
    assert all(torch.equal(one, other) for one, other in zip(parts, again, strict=True)), (
        "the same stream gives another deal"
    )


def _configured(kind: type[Any], settings: Mapping[str, Any] | None) -> Any:
    fits = isinstance(kind, type) and dataclasses.is_dataclass(kind)
    assert fits, f"{kind!r} is no dataclass: write @dataclass(frozen=True) above the class; its fields are the settings"
    return kind(**(settings or {}))
