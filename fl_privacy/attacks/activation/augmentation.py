"""Small random warps of an adversary's own images: more queries from few images."""

import torch
import torch.nn.functional as F
from torch import Tensor

ANGLE_RAD, SHEAR, SCALE, SHIFT = 0.2, 0.15, 0.1, 0.1


def warped(images: Tensor, rng: torch.Generator) -> Tensor:
    """Each image (N, C, H, W) in [0, 1] rotated, sheared, scaled and shifted a little, by draws of its own."""

    def within(limit: float) -> Tensor:
        return (2 * torch.rand(len(images), generator=rng) - 1) * limit

    angle, shear = within(ANGLE_RAD), within(SHEAR)
    across = torch.stack([angle.cos() * (1 + within(SCALE)), shear - angle.sin(), within(2 * SHIFT)], 1)
    down = torch.stack([angle.sin(), angle.cos() * (1 + within(SCALE)), within(2 * SHIFT)], 1)
    grid = F.affine_grid(torch.stack([across, down], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid.to(images.device), padding_mode="border", align_corners=False).clamp(0, 1)
