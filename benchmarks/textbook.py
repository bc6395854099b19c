"""The plain way to do what the library does fast: GRNN's generator and one attack iteration, one victim at a time.

Written from the paper's description, layer by layer, with nothing shared with `fl_privacy.attacks`: the tests compare
the two, and the speed benchmark times them side by side.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class UpBlock(nn.Module):
    """Nearest doubling, 3x3 convolution, batch normalisation, GLU."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, 2 * channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(self.norm(self.conv(F.interpolate(x, scale_factor=2))), 1)


class Generator(nn.Module):
    """Ren et al.'s generator for square images whose side is a power of two."""

    def __init__(self, side: int, channels: int, classes: int, latent: int = 128, width: int = 32) -> None:
        super().__init__()
        ups = side.bit_length() - 4
        first = width * 2**ups
        self.first = nn.ConvTranspose2d(latent, 2 * first, 4)
        blocks = [UpBlock(width * 2 ** (i + 1), width * 2**i) for i in reversed(range(ups))]
        self.blocks = nn.Sequential(*blocks, UpBlock(width, channels))
        self.labels = nn.Linear(latent, classes)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (B, L) to images (B, C, side, side) in (0, 1) and label probabilities (B, classes)."""
        x = F.glu(self.first(z[:, :, None, None]), 1)
        return self.blocks(x).sigmoid(), self.labels(z).softmax(1)


def attack_step(
    generator: Generator,
    model: nn.Module,
    z: Tensor,
    target: list[Tensor],
    optimiser: torch.optim.Optimizer,
    tv: float = 1e-3,
) -> float:
    """One published GRNN iteration for one victim; returns the loss before the step."""
    images, labels = generator(z)
    loss = -(labels * model(images).log_softmax(1)).sum(1).mean()
    gradients = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    differences = [(a - b).square().sum() for a, b in zip(gradients, target, strict=True)]
    squared = sum(differences, torch.zeros(()))
    down = (images[..., 1:, :] - images[..., :-1, :]).square().mean()
    across = (images[..., 1:] - images[..., :-1]).square().mean()
    total = squared + squared.sqrt() + tv * 2 * (down + across)
    optimiser.zero_grad()
    total.backward()
    optimiser.step()
    return float(total.detach())
