"""A prefix is no sample: of sets that are sorted by class, every unnamed part holds every class."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl_privacy import data
from fl_privacy.data import class_sample
from fl_privacy.seeding import stream
from fl_privacy.simulations.channels import CHANNELS
from fl_privacy.simulations.channels.activation.collection import Collection
from fl_privacy.simulations.channels.activation.federation import (
    check_images,
    evaluated,
    evaluator_holdout,
    target_index,
    targets,
)
from fl_privacy.simulations.config.build import federation_of
from fl_privacy.simulations.config.load import configure
from fl_privacy.simulations.federation import Federation


def sorted_set(root: Path | None, *, train: int = 2400, test: int = 2600) -> data.DataSet:
    """Two classes of noise, one after the other, as a folder of images has them; the labels can be read off a pixel."""
    rng = stream(0, "sorted")
    parts = []
    for count in (train, test):
        labels = (torch.arange(count) >= count // 2).long()
        pixels = torch.randint(256, (count, 1, 8, 8), generator=rng, dtype=torch.uint8)
        pixels[:, 0, 0, 0] = labels.to(torch.uint8)
        parts.append((pixels, labels))
    return data.from_tensors("sorted", *parts, 2)


BY_CHANNEL = {
    "gradient": {},
    "update": {},
    "activation": {"attack": {"name": "rmle"}, "model": {"name": "convnet"}},
    "output": {"attack": {"name": "vicious"}, "protocol": {"shuffled": False, "validation": 1800}},
}
SPLIT = {"cut": ["conv2"], "white_box": True}


def federation(channel="gradient", **changes) -> Federation:
    settings = {"dataset": {"name": "test_sampling:sorted_set"}, "clients": 4, "clients_per_round": 4, "seed": 3}
    if channel == "activation":
        settings["protocol"] = SPLIT
    return federation_of(
        configure(**{"name": "x", "channel": channel, **settings, **BY_CHANNEL[channel], **changes}).to_json(), None
    )


def half(labels):
    return float(labels.float().mean()) == pytest.approx(0.5, abs=0.01)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=200), st.integers(0, 220))
def test_every_class_has_its_share_to_one_image(labels, count):
    labels = torch.tensor(labels)
    index = class_sample(labels, count)
    assert len(index) == min(count, len(labels))
    assert len(set(index.tolist())) == len(index)
    assert torch.equal(index, class_sample(labels, count))
    for label in labels.unique():
        exact = int((labels == label).sum()) * len(index) / len(labels)
        assert abs(int((labels[index] == label).sum()) - exact) < 1


def test_a_sample_is_drawn_within_a_class_too_and_comes_in_a_drawn_order():
    index = class_sample(torch.zeros(10_000), 1000)
    assert float(index.float().mean()) == pytest.approx(5000, abs=300)
    assert float(index[:100].float().mean()) == pytest.approx(5000, abs=1000)
    several = class_sample(torch.arange(1000) // 10, 50)
    assert len(set((several // 10).tolist())) == 50, "where a class has less than one image, lots decide"
    assert float(several.float().mean()) == pytest.approx(500, abs=100)


def test_the_held_out_images_are_half_and_half_and_the_same_for_every_seed():
    images, labels = federation().held_out
    assert len(labels) == 1000
    assert half(labels)
    assert torch.equal((images[:, 0, 0, 0] * 255).round().long(), labels)
    assert torch.equal(images, federation(seed=4).held_out[0])
    few = federation(dataset={"name": "test_sampling:sorted_set", "test": 100})
    assert torch.equal(few.held_out[0], few.data.test.images()), "all, in their order, where there are not as many"


@pytest.mark.parametrize("channel", ["gradient", "update", "activation", "output"])
def test_the_controls_guess_from_every_class(channel):
    made = federation(channel)
    found = made.images_at(CHANNELS[channel].evaluation.control_pool(made))
    # the server's last 1,800 images, of 2,400, are its validation images
    expected = 1200 / 1800 if channel == "output" else 0.5
    assert float(found.labels.float().mean()) == pytest.approx(expected, abs=0.01)


def test_unnamed_evaluated_images_and_victims_are_samples():
    split = federation("activation", train_images=[0, 1200])
    assert half(evaluated(split)[1])
    assert len(evaluated(split)[1]) == 1000
    index = target_index(split)
    assert len(set(index.tolist())) == 32 * 4
    assert int(index.min()) >= 1200, "nobody trains with them, because enough others are left"
    everywhere = federation("activation")
    drawn = [targets(everywhere, client) for client in range(4)]
    assert half(torch.cat([labels for _, labels in drawn]))
    assert all(len(images) == 32 and len(labels.unique()) == 2 for images, labels in drawn)
    check_images(everywhere)


def test_unnamed_victims_are_never_the_adversarys():
    public = {"name": "test_sampling:sorted_set", "first": 0, "count": 1300}
    split = federation("activation", public=public)
    assert int(target_index(split).min()) >= 1300
    check_images(split)
    with pytest.raises(ValueError, match=r"targets.*of which the adversary owns 2400"):
        check_images(federation("activation", public={"name": "test_sampling:sorted_set"}))


def test_named_ranges_stay_as_they_are_named():
    named = {**SPLIT, "targets": [10, 50], "evaluated": [5, 25]}
    split = federation("activation", protocol=named)
    test, train = split.data.test, split.data.train
    assert torch.equal(evaluated(split)[0], test.images(slice(5, 25)))
    assert torch.equal(torch.cat([targets(split, client)[0] for client in range(4)]), train.images(slice(10, 50)))
    public = {"name": "test_sampling:sorted_set", "first": 7, "count": 9}
    own = dataclasses.replace(split.experiment, public=public)
    assert torch.equal(federation_of(own.to_json(), None).public().inputs, train.images(slice(7, 16)))


@pytest.mark.parametrize(
    ("protocol", "mixed"), [({}, True), ({"evaluated": [0, 2600]}, True), ({"evaluated": [0, 64]}, False)]
)
def test_distance_correlation_is_measured_on_batches_of_every_class(protocol, mixed):
    split = federation("activation", protocol={**SPLIT, **protocol})
    collection = Collection(split, None, None, None, 0)
    labels = collection.labels[collection._measured()]
    assert len(labels) == {0: 1000, 2600: 2048, 64: 64}[protocol.get("evaluated", [0, 0])[1]]
    assert mixed == all(len(batch.unique()) == 2 for batch in labels.split(32)[:-1])
    assert len(evaluator_holdout(split)[1]) == 2600
