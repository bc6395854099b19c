"""The threat model of an experiment in words: who sees what, and what was not modelled at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fl_privacy.observation import ChannelName
from fl_privacy.simulations.channels.activation.protocol import SplitProtocol
from fl_privacy.simulations.config.resolve import channel_of
from fl_privacy.simulations.experiment.spec import Experiment


@dataclass(frozen=True)
class Seat:
    """Where a channel's adversary sits: who it is, what reaches it, what never does."""

    who: str
    sees: str
    never: str


SEATS: Mapping[ChannelName, Seat] = {
    ChannelName.GRADIENT: Seat(
        "The server. It averages the clients' gradients as agreed, and looks at each of them.",
        "The gradient of every client of an attacked round, after the client's defences, and the weights it sent.",
        "The images, their labels, and the random numbers that a defence drew.",
    ),
    ChannelName.UPDATE: Seat(
        "The server. It averages the clients' updates as agreed, and looks at each of them.",
        "By how much every client of an attacked round changed the weights, after the client's defences.",
        "The images, their labels, the order in which a client trained on them, and the random numbers that a defence "
        "drew.",
    ),
    ChannelName.ACTIVATION: Seat(
        "{adversary}. Clients run the first layers of the model and send what comes out.",
        "The activations at the layer where the model is cut, after the client's defences.",
        "The private images themselves, and the random numbers that a defence drew.",
    ),
    ChannelName.OUTPUT: Seat(
        "The server that handed out the classifier which clients run on their images.",
        "The answers of the classifier that clients send, after their defences.",
        "The private images, and the random numbers that a defence drew.",
    ),
}
HELD: Mapping[str, str] = {
    "model": "the model with its weights",
    "query": "inputs of its own through the client's part, whose answers it sees",
    "labels": "the labels",
    "public": "images of its own, none of them a private one",
    "defence": "which defences run, with their settings",
}
AVERAGED = "the mean of all clients' messages of a round, and no single one (secure aggregation)"
NOT_MODELLED = (
    "A server that sends weights made to leak more, or that leaves the protocol in any other way.",
    "Parties that work together, clients that poison the training, side channels such as timing.",
    "Whether somebody's data was used at all (membership inference), and properties of a data set as a whole.",
)
"""What no table of this suite says anything about."""


def who_sees_what(experiment: Experiment) -> dict[str, str]:
    """The threat model as short answers: who, sees what, holds what beside it, never has what."""
    seat = SEATS[ChannelName(experiment.channel)]
    split = experiment.channel == ChannelName.ACTIVATION
    parties = [each.settings(SplitProtocol).adversary for each in experiment.conditions] if split else []
    adversary = _sentence(" or ".join(dict.fromkeys(parties)))
    masked = [each.variant or "all conditions" for each in experiment.conditions if _masked(each.protocol)]
    sees = seat.sees
    if len(masked) == len(experiment.conditions):
        sees = f"{_sentence(AVERAGED)}."
    elif masked:
        sees += f" In '{', '.join(dict.fromkeys(masked))}' only {AVERAGED}."
    return {
        "The adversary": f"{seat.who.format(adversary=adversary)} It is honest but curious: it breaks no rule.",
        "It sees": sees,
        "It holds beside that": f"{_sentence('; '.join(_held(experiment)))}.",
        "It never has": seat.never,
    }


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def _masked(protocol: object) -> bool:
    return bool(getattr(protocol, "secure_aggregation", False))


def _held(experiment: Experiment) -> list[str]:
    channel = channel_of(experiment)
    known: set[str] = set()
    for index, condition in enumerate(experiment.conditions):
        known |= channel.adversary.knowledge(experiment, index)
        split = experiment.channel == ChannelName.ACTIVATION
        known |= condition.settings(SplitProtocol).adversary_knowledge if split else {"defence"}
    words = [HELD[each] for each in HELD if each in known]
    if experiment.channel == ChannelName.UPDATE:
        words.append("how clients train: optimiser, learning rate, epochs, batch size")
    return words
