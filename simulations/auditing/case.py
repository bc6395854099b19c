"""From the facts to an observation: everything that is odd about the message or the model, in one message."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fl_privacy.federated.client import gradient
from fl_privacy.federated.local_training import normalised
from fl_privacy.models.normalise import Normalise
from fl_privacy.observation import ChannelName, Images, Observation, Spec, Tensors
from fl_privacy.sanity import check_model, check_update, typical_slope
from fl_privacy.simulations.auditing.asked import Facts, Kind
from fl_privacy.simulations.auditing.weight_files import read_weights
from fl_privacy.simulations.config.own import built_models
from fl_privacy.weights import copied, load_weights, tied, trainable

NEAR = 20.0
"""By how much an update may differ from what its rate explains before a word is said: the steps are known here."""
SUBCLASS = (
    ". A subclass keeps the names of the weights: `class Audited(Net)` with `def forward(self, x): return "
    "super().forward(x)[0]`, or ['logits'] of a dictionary"
)
SHOWN = 4  # names of tensors in one sentence
LIKE = 0.5  # see `sanity.SAME`


@dataclass(frozen=True)
class Case:
    """What is attacked, and what was noticed on the way: `doubts` are no errors, and yet worth a word."""

    seen: Observation
    doubts: tuple[str, ...]
    assumed: tuple[str, ...]


def case(facts: Facts, public: Images | None) -> Case:
    """The observation that these facts and files give.

    Raises:
        ValueError: what was handed in cannot be attacked; every reason with its mend, in one message.
    """
    models = _models(facts)
    order = models[0].state_dict()
    faults, read = list[str](), list[Tensors]()
    for option, source in (
        ("--global", facts.weights),
        (f"--{facts.kind}", facts.message),
    ):
        try:
            read.append(read_weights(source, order))
        except ValueError as error:
            faults.append(f"{option}: {error}")
    if faults:
        raise ValueError(_together(faults))
    weights, message = read
    model = next((each for each in models if not misfits(each, weights)), models[0])
    faults += [f"--global: {each}" for each in misfits(model, weights)]
    faults += [f"--{facts.kind}: {each}" for each in misfits(model, message, update=True)]
    if faults:
        raise ValueError(_together(faults))
    load_weights(model, {**model.state_dict(), **weights})
    payload = _payload(model, message, facts.kind)
    faults, doubts = _odd(model, payload, facts)
    try:
        probe = torch.rand(min(2, facts.images), *facts.image_shape, generator=torch.Generator().manual_seed(0))
        labels = torch.arange(len(probe)) % facts.classes
        doubts += check_model(model, normalised(probe, facts.local), labels, facts.classes)
    except ValueError as error:
        faults.append(f"--model: {error}{SUBCLASS if 'the model returns a' in str(error) else ''}")
    if faults:
        raise ValueError(_together(faults))
    assumed = (*facts.assumed, *_assumed(model, weights, payload, facts))
    local = facts.local
    if (
        local.normalise is not None
    ):  # as a part of the model, so that one plain step is a gradient, of which more is read
        model = nn.Sequential(OrderedDict(normalise=Normalise(*local.normalise), model=model))
        payload = {f"model.{name}": value for name, value in payload.items()}
        local = replace(local, normalise=None)
    spec = Spec(image_shape=facts.image_shape, classes=facts.classes, batch_size=facts.images, local=local)
    seen = Observation(
        channel=ChannelName.GRADIENT if facts.kind == "gradient" else ChannelName.UPDATE,
        payload=payload,
        spec=spec,
        round=0,
        client=0,
        model=model,
        public=public,
    )
    return Case(seen, tuple(doubts), assumed)


def _payload(model: nn.Module, message: Tensors, kind: Kind) -> Tensors:
    """What the client changed, or its gradient, in the model's order, whatever the file's."""
    held = trainable(model) if kind == "gradient" else model.state_dict()
    found = {n: message[n].float() for n, value in held.items() if value.is_floating_point() and n in message}
    return {name: value - held[name] for name, value in found.items()} if kind == "weights" else found


def _models(facts: Facts) -> list[nn.Module]:
    if isinstance(facts.model, nn.Module):
        return [copy.deepcopy(facts.model)]
    models, reasons = built_models(facts.model, facts.image_shape, facts.classes)
    if not models:
        raise ValueError(
            f"--model: no way to build it works: {'; '.join(reasons)}. Let it be a function (image_shape, classes) "
            "that returns your model, or a class whose constructor needs no arguments"
        )
    return models


def misfits(model: nn.Module, found: Mapping[str, Tensor], update: bool = False) -> list[str]:
    """What does not fit between a model and tensors by name; running statistics and further names may be absent."""
    state = model.state_dict()
    needed = set(trainable(model)) if update else {name for name, _ in model.named_parameters()}
    wrong = [
        f"{name} is {tuple(found[name].shape)}, the model's {tuple(state[name].shape)}"
        for name in state
        if name in found and found[name].shape != state[name].shape
    ]
    absent = sorted(needed - set(found))
    unknown = [name for name in found if name not in state]
    said = []
    if wrong:
        said.append(
            f"{_few(wrong)}: another architecture or another size; build --model as the clients do, and look at "
            "--shape and --classes"
        )
    if absent:
        frozen = "; if clients do not train them, set requires_grad False in the model's factory" if update else ""
        said.append(f"it lacks the model's {_few(absent)}{frozen}")
    if unknown:
        said.append(f"the model has no {_few(unknown)}: rename them as in the model's state dict ({_few(list(state))})")
    return said


def _odd(model: nn.Module, payload: Tensors, facts: Facts) -> tuple[list[str], list[str]]:
    """What cannot be, and what is strange, about an update by its values."""
    local, held = facts.local, model.state_dict()
    moved = {name: payload[name] for name in trainable(model)}
    steps = local.steps_on(facts.images)
    try:
        slope = _slope(model, facts)
    except Exception:  # the model is looked at by itself, and says there what is wrong
        slope = None
    rate = 1.0 if facts.kind == "gradient" else local.learning_rate
    found = check_update(moved, held, rate, steps, slope, NEAR)
    faults = [each.words for each in found if each.certain]
    if faults and facts.kind == "update" and "global weights themselves" in faults[0]:
        faults[0] += ": with --weights in place of --update that is done for you"
    old = torch.cat([held[name].flatten() for name in moved])
    new = torch.cat([value.flatten() for value in moved.values()])
    if facts.kind == "weights" and float((new + old).norm()) < LIKE * float(old.norm()):
        faults.append(
            "the new weights are nearly zero beside the global ones: an update was given, so name it --update"
        )
    return faults, [each.words for each in found if not each.certain]


def _slope(model: nn.Module, facts: Facts) -> float:
    """How large one step's direction is, by the optimiser."""
    local = facts.local
    if local.optimiser == "adam":
        return math.sqrt(sum(value.numel() for value in trainable(model).values()))
    twin = copied(model)
    if local.mode == "eval":
        twin.eval()
    of_noise = typical_slope(lambda x, y: gradient(twin, normalised(x, local), y)[0], facts.image_shape, facts.classes)
    return of_noise / (1 - min(local.momentum, 0.9)) if local.steps_on(facts.images) > 1 else of_noise


def _assumed(model: nn.Module, weights: Tensors, payload: Tensors, facts: Facts) -> list[str]:
    said = []
    statistics = {
        name for name, value in model.named_buffers() if value.is_floating_point() and name in model.state_dict()
    }
    if absent := sorted(statistics - set(weights)):
        said.append(f"the running statistics that a new model has, because --global has no {_few(absent)}")
    if statistics & set(payload):
        said.append(f"the update also has running statistics ({_few(sorted(statistics & set(payload)))})")
    if shared := tied(model):
        said.append(f"weights under several names count once ({_few(list(shared))})")
    local, steps = facts.local, facts.local.steps_on(facts.images)
    if (local.momentum or local.optimiser == "adam") and steps > 1:
        said.append("an optimiser that starts anew with each message, without a memory of earlier ones")
    if local.epochs > 1 and local.batch_size and local.batch_size < facts.images:
        said.append("later epochs in the order of the first: no server knows it, so that something stays unexplained")
    return said


def _few(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _together(faults: list[str]) -> str:
    return faults[0] if len(faults) == 1 else "several things are wrong:\n" + "\n".join(f"  {each}" for each in faults)
