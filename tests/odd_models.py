"""Small models of the kinds that people bring: modes, odd weights, draws, attention, recurrence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

SHAPE, CLASSES = (1, 8, 8), 4


def plain(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), *between, nn.Tanh(), nn.Flatten(), nn.Linear(256, CLASSES))


def norm() -> nn.Sequential:
    return plain(nn.BatchNorm2d(4))


def norm_mixed() -> nn.Sequential:
    """One layer with frozen statistics that are not those of a new layer, one that uses the batch's."""
    model = plain(nn.BatchNorm2d(4), nn.Tanh(), nn.BatchNorm2d(4))
    frozen = model[1].eval()
    frozen.running_mean.fill_(0.3)
    frozen.running_var.fill_(2.0)
    return model


def frozen() -> nn.Sequential:
    model = norm()
    model[0].weight.requires_grad_(False)
    return model


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.aux = plain(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Tied(nn.Module):
    """One weight used by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.l0, self.l1, self.l2 = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.l2.weight = self.l1.weight
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.l2(torch.tanh(self.l1(torch.tanh(self.l0(x.flatten(1))))))))


class Scaled(nn.Module):
    """Logits by a learnt temperature, a weight without any dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.scale = plain(), nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.net(x)


class Attention(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=dropout, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x.flatten(1, 2)).mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn, self.head = kind(8, 12, batch_first=True), nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x.flatten(1, 2))[0][:, -1])


class Drawing(nn.Module):
    """Dropout as a function, which no module shows."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(64, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(torch.tanh(self.body(x.flatten(1))), 0.3, self.training))


class Looking(nn.Module):
    """Its path depends on the values that it sees, which vmap cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.net = plain()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x if bool(x.mean() > 0) else -x)


class Pair(nn.Module):
    """Returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.net = plain()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.net(x), x


def dropout() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, CLASSES))


def dropout_of_maps() -> nn.Sequential:
    """The flattening lies between dropout and the layer that reads it."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), nn.Dropout2d(0.5), nn.Flatten(), nn.Linear(512, CLASSES)
    )


def spectral() -> nn.Sequential:
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(64, 16))
    return nn.Sequential(nn.Flatten(), layer, nn.Tanh(), nn.Linear(16, CLASSES))


def norm_of(image_shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """The one with batch normalisation, as an experiment names it."""
    channels, height, width = image_shape
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(8 * height * width, classes),
    )


def frozen_norm_of(image_shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    return norm_of(image_shape, classes).eval()


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return 2 * slope * ctx.saved_tensors[0]


class _DifferentiableOnce(nn.Module):
    """An operation of the user's own, without a second derivative."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.net = norm_of(image_shape, classes)

    def forward(self, x: Tensor) -> Tensor:
        return _Once.apply(self.net(x))


def once_of(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return _DifferentiableOnce(image_shape, classes)


def all_frozen_of(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return norm_of(image_shape, classes).requires_grad_(False)


def pair_of(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Pair()


KNOWN: dict[str, Callable[[], nn.Module]] = {
    "plain": plain,
    "norm": norm,
    "norm in eval mode": lambda: norm().eval(),
    "norm mixed": norm_mixed,
    "instance norm": lambda: plain(nn.InstanceNorm2d(4, affine=True, track_running_stats=True)),
    "group norm": lambda: plain(nn.GroupNorm(2, 4)),
    "layer norm": lambda: plain(nn.LayerNorm(8)),
    "frozen": frozen,
    "unused": Unused,
    "tied": Tied,
    "looking": Looking,
    "a scalar weight": Scaled,
    "attention": Attention,
    "attention in eval mode": lambda: Attention().eval(),
    "lstm": lambda: Recurrent(nn.LSTM),
    "gru": lambda: Recurrent(nn.GRU),
    "spectral norm": spectral,
    "dropout": dropout,
    "dropout of maps": dropout_of_maps,
}
"""The attacker knows all that these do, draws of a batch of one included."""
DRAWN: dict[str, Callable[[], nn.Module]] = {"drawing": Drawing, "attention with dropout": lambda: Attention(0.1)}
"""These draw what no attacker can read off."""
