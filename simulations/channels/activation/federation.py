"""Which images each party of a split-learning experiment has, and the clients as functions of public names."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from fl_privacy.data import class_sample
from fl_privacy.seeding import stream, subseed
from fl_privacy.simulations.channels.activation.protocol import SplitProtocol, batch_size
from fl_privacy.simulations.federation import Federation
from fl_privacy.split.rules import SplitClientTask
from fl_privacy.split.segments import ServerSegment, client_step, segments

EVALUATED = 1000
VICTIMS = 32
"""Images a client, where the experiment names none."""
TRIED = 8
"""Images of the mini-batch that tries whether a model can be trained."""
LEAST_BATCH = 4
"""A shorter last mini-batch is left out: batch normalisation and distance correlation need more rows."""


def targets(federation: Federation, client: int) -> tuple[Tensor, Tensor]:
    """The images (N, C, H, W) and labels (N,) that `client` releases after training: its slice of the victims."""
    index = target_index(federation)
    each = len(index) // federation.experiment.clients
    chosen = index[client * each : (client + 1) * each]
    return federation.data.train.images(chosen), federation.data.train.labels[chosen]


def target_index(federation: Federation) -> Tensor:
    """The targets' positions among the training images: those that are named, or else 32 a client by `class_sample`.

    Unnamed ones are not the adversary's, and nobody trains with them where enough others are left.
    """
    if named := federation.experiment.resolved.settings(SplitProtocol).targets:
        return torch.arange(*named)
    free, wanted = _unowned(federation, "train"), VICTIMS * federation.experiment.clients
    untouched = free[~torch.isin(free, torch.cat(federation.parts))]
    pool = untouched if len(untouched) >= wanted else free
    return pool[class_sample(federation.data.train.labels[pool], wanted)]


def evaluated(federation: Federation) -> tuple[Tensor, Tensor]:
    """The test images (N, C, H, W) and labels (N,) on which accuracy is measured: the named ones, or a sample."""
    test, named = federation.data.test, federation.experiment.resolved.settings(SplitProtocol).evaluated
    index = torch.arange(*named) if named else class_sample(test.labels, EVALUATED).sort().values
    return test.images(index), test.labels[index]


def evaluator_holdout(federation: Federation) -> tuple[Tensor, Tensor]:
    """Test images (N, C, H, W) and labels (N,) that the evaluator alone has: the adversary's own are left out."""
    index = _unowned(federation, "test")
    return federation.data.test.images(index), federation.data.test.labels[index]


def _unowned(federation: Federation, split: Literal["train", "test"]) -> Tensor:
    """The positions of the images of a split that the adversary does not own."""
    return federation.every(split).without(federation.public_positions).index


def released_shape(federation: Federation, condition: int) -> tuple[int, ...]:
    """The shape of one image's activations, from a small mini-batch of training that nobody keeps.

    Raises:
        ValueError: the model cannot be cut like this, or not be trained in segments.
    """
    clients = client_task(federation, condition)
    name, cut = federation.experiment.model["name"], ", ".join(clients.rules.cut)
    try:
        client, module = segments(federation.model(), clients.rules)
    except TypeError as error:
        raise ValueError(f"the model '{name}' cannot be cut after {cut}: {error}") from error
    x, y = clients.batch(0, 1, 0)
    x, y = x[:TRIED], y[:TRIED]
    try:
        client_step(client, x, y, clients.chain, ServerSegment(module, clients.rules), 0)
        clean, _ = client.release(x, clients.chain, 0)
    except RuntimeError as error:
        raise ValueError(f"the model '{name}', cut after {cut}, cannot be trained: {error}") from error
    return tuple(clean.shape[1:])


def check_images(federation: Federation) -> None:
    """Check that every party's images are there and that the adversary owns none of the targets'.

    Raises:
        ValueError: what is wrong.
    """
    train, test = len(federation.data.train), len(federation.data.test)
    first, end = federation.experiment.resolved.settings(SplitProtocol).targets or (0, len(target_index(federation)))
    if not 0 <= first < end <= train or end - first < federation.experiment.clients:
        raise ValueError(
            f"'protocol.targets' takes images {first} to {end} for {federation.experiment.clients} clients, and "
            f"'{federation.data.name}' has {train} to train with, of which the adversary owns "
            f"{train - len(_unowned(federation, 'train'))}"
        )
    _, stop = federation.experiment.resolved.settings(SplitProtocol).evaluated or (0, 0)
    if stop > test:
        raise ValueError(f"'protocol.evaluated' ends at {stop}, and '{federation.data.name}' has {test} test images")
    if not len(_unowned(federation, "test")):
        raise ValueError(
            "the adversary's 'public' images are all of the test images, and scores need some that nobody else has: "
            "set public.count, or let public.split be train and keep the clients to others with 'train_images'"
        )
    if not bool(torch.isin(target_index(federation), _unowned(federation, "train")).all()):
        raise ValueError(
            f"the adversary's 'public' images from {federation.experiment.public.get('first', 0)} on include the "
            f"targets ({first} to {end}), which it must never have: set public.first and public.count, or "
            "protocol.targets"
        )


def mini_batch(federation: Federation, condition: int, client: int, round: int, step: int) -> tuple[Tensor, Tensor]:
    """Mini-batch `step` of a client's epoch: images (B, C, H, W) in [0, 1] and labels (B,)."""
    chosen, part = federation.experiment.conditions[condition], federation.parts[client]
    if chosen.settings(SplitProtocol).shuffle:
        part = part[torch.randperm(len(part), generator=stream(federation.experiment.seed, "epoch", client, round))]
    size = batch_size(federation.experiment, chosen)
    index = part[step * size : (step + 1) * size]
    return federation.data.train.images(index), federation.data.train.labels[index]


def steps(federation: Federation, condition: int, client: int) -> int:
    """The mini-batches of one epoch of a client."""
    whole, rest = divmod(
        len(federation.parts[client]), batch_size(federation.experiment, federation.experiment.conditions[condition])
    )
    return whole + (rest >= LEAST_BATCH or whole == 0)


def client_task(federation: Federation, condition: int, fixed: bool = False) -> SplitClientTask:
    """The clients of one condition: while they train with the server, or, `fixed`, while it trains alone."""
    experiment = federation.experiment
    chosen = experiment.conditions[condition]
    return SplitClientTask(
        model=federation.model,
        rules=chosen.settings(SplitProtocol).rules(experiment.learning_rate, fixed),
        batch=partial(mini_batch, federation, condition),
        steps=partial(steps, federation, condition),
        held_out=partial(targets, federation),
        chain=chosen.released if fixed else chosen.trained,
        serving=chosen.released,
        tells_learnt=True,
        # not the condition's number, so that a training has the same bits in every experiment that has it
        seed=subseed(experiment.seed, "party", *(["fixed", chosen.label] if fixed else [chosen.trained.label])),
        device=experiment.device,
    )
