"""Black-box inversion of activations: a decoder learnt from the adversary's own images through the client segment."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl_privacy.attacks.activation.augmentation import warped
from fl_privacy.attacks.activation.noise_estimate import overheard
from fl_privacy.attacks.base import ATTACKS, Attack, Capabilities, check_ranges
from fl_privacy.attacks.unfinished import Training, steps
from fl_privacy.models.activation_decoders import AffineDecoder, ConvolutionalDecoder, Ensemble
from fl_privacy.observation import ChannelName, KnownDefence, Observation, Reconstruction
from fl_privacy.seeding import seeded
from fl_privacy.split.segments import ACTIVATION, SERVED_AT_ONCE


class LearnedDecoder(Attack):
    """A network from released activations to images, fitted on `public` images pushed through `query`.

    `public_images`, a setting of every such attack: how many of them it uses, the first ones; 0 uses all.
    One decoder serves all observations: they must come from one client segment, whose query and public images are taken
    from the first of them.
    """

    channels: ClassVar[frozenset[ChannelName]] = frozenset({ChannelName.ACTIVATION})
    needs: ClassVar[frozenset[str]] = frozenset({"query", "public"})
    capabilities: ClassVar[Capabilities] = Capabilities(stochastic=True)
    batch_size: int
    learning_rate: float
    public_images: int
    # set on the copy that `prepare` returns; not a field, because it is no setting
    network: ClassVar[nn.Module | None] = None

    def __post_init__(self) -> None:
        check_ranges(self, at_least_one=("batch_size",), above_zero=("learning_rate",), not_negative=("public_images",))

    @abstractmethod
    def build(self, released: tuple[int, ...], image_shape: tuple[int, int, int]) -> nn.Module:
        """The network, untrained: activations (N, *released) to images (N, *image_shape).

        Raises:
            ValueError: it cannot be built for these shapes.
        """

    @abstractmethod
    def fit(self, seen: Observation, rng: torch.Generator) -> nn.Module:
        """Train a decoder on the adversary's own pairs."""

    def prepare(self, seen: Sequence[Observation], rng: torch.Generator) -> Self:
        if not seen:
            return self
        self._check(seen[0])
        trained = copy.copy(self)
        object.__setattr__(trained, "network", self.fit(seen[0], rng).eval())
        return trained

    @torch.no_grad()
    def reconstruct(self, seen: Sequence[Observation], rng: torch.Generator) -> list[Reconstruction]:
        network = (self if self.network is not None else self.prepare(seen, rng)).network
        assert network is not None
        released = torch.cat([observation.payload[ACTIVATION] for observation in seen])
        images = torch.cat([network(part) for part in torch.split(released, 256)]).clamp(0, 1)
        sizes = [len(observation.payload[ACTIVATION]) for observation in seen]
        return [Reconstruction(inputs=part) for part in torch.split(images, sizes)]


@ATTACKS.register("decoder_as_published")
@dataclass(frozen=True)
class DecoderAsPublished(LearnedDecoder):
    """The attacker of Titcombe et al.: an affine decoder, Adam, no shuffling, trained on activations without the noise.

    `learning_rate` is the code's 1e-4; the paper's text says 1e-3. A known defence is ignored, as it is there.

    Source: Titcombe et al. 2021, section 3.1; TTitcombe/Model-Inversion-SplitNN, scripts/train_attacker.py.
    """

    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 1e-4
    public_images: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, at_least_one=("epochs",))

    def build(self, released: tuple[int, ...], image_shape: tuple[int, int, int]) -> nn.Module:
        return AffineDecoder(released, image_shape)

    def fit(self, seen: Observation, rng: torch.Generator) -> nn.Module:
        images, released = pairs(seen, self.public_images)
        with torch.enable_grad(), seeded(draw(rng), "decoder"):
            network = self.build(tuple(released.shape[1:]), seen.spec.image_shape).to(released.device)
            optimiser = torch.optim.Adam(network.parameters(), self.learning_rate)
            for _ in range(self.epochs):
                batches = zip(torch.split(released, self.batch_size), torch.split(images, self.batch_size), strict=True)
                for z, x in batches:
                    descend(network, optimiser, z, x)
        return network


@ATTACKS.register("decoder")
@dataclass(frozen=True)
class Decoder(LearnedDecoder):
    """A convolutional, non-linear decoder that trains on fresh draws of the client's defence where it is known.

    `steps` of `batch_size` pairs; `copies` counts each image with its warped versions (1: none), which the black box
    answers as readily. `width` channels in `blocks` residual blocks. Adam, one cycle with peak `learning_rate`.
    `estimate_noise`: where no defence is known, the law and scale of additive noise are estimated from all releases
    and the adversary's own images (`noise_estimate`), and it trains on draws of that. `members` decoders from other
    starts guess together, by their mean.
    """

    steps: int = 2000
    batch_size: int = 128
    learning_rate: float = 3e-3
    width: int = 32
    blocks: int = 2
    copies: int = 4
    public_images: int = 0
    estimate_noise: bool = False
    members: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, at_least_one=("steps", "width", "copies", "members"), not_negative=("blocks",))

    def prepare(self, seen: Sequence[Observation], rng: torch.Generator) -> Self:
        if not self.estimate_noise or not seen or seen[0].defence:
            return super().prepare(seen, rng)
        self._check(seen[0])
        return super().prepare([replace(seen[0], defence=overheard(seen).chain)], rng)

    def build(self, released: tuple[int, ...], image_shape: tuple[int, int, int]) -> nn.Module:
        return ConvolutionalDecoder(released, image_shape, self.width, self.blocks)

    def _draws(self) -> int:
        """How many releases of one input are averaged before the decoder sees them."""
        return 1

    def fit(self, seen: Observation, rng: torch.Generator) -> nn.Module:
        images, released = pairs(seen, self.public_images, self.copies, rng)
        members = [self._member(seen, images, released, rng) for _ in range(self.members)]
        return members[0] if self.members == 1 else Ensemble(members)

    def _member(self, seen: Observation, images: Tensor, released: Tensor, rng: torch.Generator) -> nn.Module:
        with torch.enable_grad(), seeded(draw(rng), "decoder"):
            network = self.build(tuple(released.shape[1:]), seen.spec.image_shape).to(released.device)
            optimiser = torch.optim.Adam(network.parameters(), self.learning_rate)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, self.learning_rate, total_steps=self.steps)
            for _ in steps(self.steps, Training(network, optimiser, schedule), rng):
                index = torch.randint(len(images), (self.batch_size,), generator=rng).to(released.device)
                z = defended(released[index], seen.defence, self._draws(), rng)
                descend(network, optimiser, z, images[index])
                schedule.step()
        return network


def draw(rng: torch.Generator) -> int:
    """One seed out of `rng`."""
    return int(torch.randint(2**62, (), generator=rng))


def check_count(wanted: int, owned: int) -> None:
    """Check that an adversary has as many images as its attack wants.

    Raises:
        ValueError: it has fewer.
    """
    if wanted > owned:
        raise ValueError(f"public_images is {wanted}, and the adversary has {owned} images: 0 uses all")


@torch.no_grad()
def pairs(
    seen: Observation, count: int = 0, copies: int = 1, rng: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """The adversary's first `count` images (N, C, H, W; 0: all), with `copies - 1` warped versions of each, and their
    activations.

    Raises:
        ValueError: the adversary has fewer images than that.
    """
    assert seen.public is not None
    assert seen.query is not None
    check_count(count, len(seen.public))
    images = seen.public.inputs[: count or None]
    if rng is not None:
        images = torch.cat([images, *(warped(images, rng) for _ in range(copies - 1))])
    device = seen.payload[ACTIVATION].device
    released = torch.cat([seen.query(part).to(device) for part in torch.split(images, SERVED_AT_ONCE)])
    return images.to(device), released


@torch.no_grad()
def defended(z: Tensor, chain: KnownDefence | None, draws: int, rng: torch.Generator) -> Tensor:
    """What `draws` releases of activations z (B, ...) through the known chain average to; z where none is known."""
    if not chain:
        return z
    releases = [chain.on_release({ACTIVATION: z}, draw(rng))[ACTIVATION] for _ in range(draws)]
    return torch.stack(releases).mean(0)


def descend(network: nn.Module, optimiser: torch.optim.Optimizer, z: Tensor, x: Tensor) -> None:
    """One step on the mean squared error of the decoded z (B, ...) against x (B, C, H, W)."""
    optimiser.zero_grad()
    torch.autograd.backward(F.mse_loss(network(z), x))
    optimiser.step()
