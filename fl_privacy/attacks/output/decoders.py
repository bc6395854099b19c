"""Images from a classifier's outputs: by the decoder trained together with it, or by one fitted to it afterwards."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from fl_privacy.attacks.base import ATTACKS, Attack, Capabilities
from fl_privacy.attacks.unfinished import Training, steps
from fl_privacy.joint_training import JointLoss, decode, load_pair
from fl_privacy.joint_training.pair import OUTPUTS
from fl_privacy.models.decoders import build_decoder
from fl_privacy.observation import ChannelName, KnownDefence, Observation, Reconstruction


class OutputAttack(Attack):
    """Decodes released outputs (N, classes); the label guess is the largest output, where there are several."""

    channels: ClassVar[frozenset[ChannelName]] = frozenset({ChannelName.OUTPUT})
    capabilities: ClassVar[Capabilities] = Capabilities(labels=True)
    # set on the copy that `prepare` returns; not a field, because it is no setting
    network: ClassVar[nn.Module | None] = None

    @abstractmethod
    def learn(self, seen: Observation, rng: torch.Generator) -> nn.Module:
        """The decoder that serves every observation of the classifier behind `seen`."""

    def prepare(self, seen: Sequence[Observation], rng: torch.Generator) -> Self:
        if not seen:
            return self
        self._check(seen[0])
        ready = copy.copy(self)
        object.__setattr__(ready, "network", self.learn(seen[0], rng).to(seen[0].payload[OUTPUTS].device).eval())
        return ready

    def reconstruct(self, seen: Sequence[Observation], rng: torch.Generator) -> list[Reconstruction]:
        network = (self if self.network is not None else self.prepare(seen, rng)).network
        assert network is not None
        sizes = [len(observation.payload[OUTPUTS]) for observation in seen]
        images = decode(network, torch.cat([observation.payload[OUTPUTS] for observation in seen]))
        return [
            Reconstruction(inputs=part, labels=labels_of(observation.payload[OUTPUTS]))
            for part, observation in zip(torch.split(images, sizes), seen, strict=True)
        ]


def labels_of(released: Tensor) -> Tensor | None:
    """The predicted class of every row (N, classes), or None where a single output names none."""
    return released.argmax(1) if released.shape[1] > 1 else None


@ATTACKS.register("vicious")
@dataclass(frozen=True)
class Vicious(OutputAttack):
    """The server's own decoder G, trained together with the classifier that it handed out.

    `checkpoint`: the file that `joint_training.train` left. Nothing is learnt here, and nothing else is needed: an
    observation of that classifier's outputs is enough. `trusted`: networks of your own, `module:function`, that the
    checkpoint may name.

    Source: Malekzadeh and Gündüz, section 3.
    """

    checkpoint: str = ""
    trusted: tuple[str, ...] = ()

    def learn(self, seen: Observation, rng: torch.Generator) -> nn.Module:
        if not self.checkpoint:
            raise ValueError("the attack 'vicious' needs a 'checkpoint': the file that a joint training left")
        decoder: nn.Module = load_pair(self.checkpoint, self.trusted).decoder
        return decoder


class Logarithms(nn.Module):
    """Probabilities (N, classes) to their logarithms, standardised by those of `known` (M, classes).

    What is 0 counts as half of the least probability that is known: a rounded one may be anything below that.
    """

    least: Tensor
    mean: Tensor
    spread: Tensor

    def __init__(self, known: Tensor) -> None:
        super().__init__()
        above = known[known > 0]
        least = float(above.min()) / 2 if len(above) else 1.0
        self.register_buffer("least", torch.tensor(least))
        logs = known.clamp_min(least).log()
        self.register_buffer("mean", logs.mean(0))
        self.register_buffer("spread", logs.std(0).clamp_min(1e-6))

    def forward(self, probabilities: Tensor) -> Tensor:
        standard: Tensor = (probabilities.clamp_min(self.least).log() - self.mean) / self.spread
        return standard


@ATTACKS.register("output_decoder")
@dataclass(frozen=True)
class OutputDecoder(OutputAttack):
    """A decoder fitted afterwards to whatever classifier was handed out: the baseline that shows what viciousness adds.

    It sees the outputs of the adversary's own `public` images, through fresh draws of the clients' defences where those
    are known, and learns with the reconstruction loss of the joint training. All observations must come from one
    classifier, whose query is taken from the first. `decoder` as in the registry of decoders; `steps` of Adam on
    `batch_size` images with a cosine schedule from `learning_rate`. With `logarithms` it reads the standardised
    logarithms of probabilities, in which a softmax has lost nothing but a constant.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"query", "public"})
    capabilities: ClassVar[Capabilities] = Capabilities(labels=True, stochastic=True)
    decoder: str = "small"
    steps: int = 2000
    batch_size: int = 128
    learning_rate: float = 2e-3
    gamma_h: float = 5.0
    gamma_s: float = 1.0
    logarithms: bool = False

    def learn(self, seen: Observation, rng: torch.Generator) -> nn.Module:
        assert seen.public is not None
        assert seen.query is not None
        device = seen.payload[OUTPUTS].device
        images = seen.public.inputs.to(device)
        with torch.no_grad():
            answers = torch.cat([seen.query(part).to(device) for part in torch.split(images, 500)])
        network = build_decoder(self.decoder, seen.spec.image_shape, answers.shape[1], _seed(rng)).to(device).train()
        if self.logarithms:
            released = seen.defence.on_release({OUTPUTS: answers}, _seed(rng)) if seen.defence else {OUTPUTS: answers}
            network = nn.Sequential(Logarithms(released[OUTPUTS]), network)
        with torch.enable_grad():
            self._fit(network, images, answers, seen.defence, rng)
        return network

    def _fit(
        self, network: nn.Module, images: Tensor, answers: Tensor, law: KnownDefence | None, rng: torch.Generator
    ) -> None:
        loss = JointLoss(gamma_h=self.gamma_h, gamma_s=self.gamma_s)
        optimiser = torch.optim.Adam(network.parameters(), self.learning_rate, fused=True)
        for step in steps(self.steps, Training(network, optimiser), rng):
            optimiser.param_groups[0]["lr"] = self.learning_rate * 0.5 * (1 + math.cos(math.pi * step / self.steps))
            index = torch.randint(len(images), (self.batch_size,), generator=rng).to(images.device)
            sent = {OUTPUTS: answers[index]}
            released = (law.on_release(sent, _seed(rng)) if law else sent)[OUTPUTS]
            optimiser.zero_grad()
            torch.autograd.backward(loss.reconstruction(network(released), images[index]))
            optimiser.step()


def _seed(rng: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=rng))
