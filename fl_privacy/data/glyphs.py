"""Letters rendered from fonts: a foreign data set for an adversary that has no network to fetch EMNIST."""

from __future__ import annotations

import math
import string
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fl_privacy.data.base import DATASETS, DataSet, ImageSet, resized
from fl_privacy.seeding import stream

SIDE, INK = 28, 20
"""As in MNIST: the letter fills a box of 20 pixels in the middle of 28."""

FONTS = (
    *(f"DejaVu{family}.ttf" for family in ("Sans", "Sans-Bold", "Sans-Oblique", "Serif", "Serif-Bold", "Serif-Italic")),
    *("DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf"),
    *("STIXGeneral.ttf", "STIXGeneralBol.ttf", "STIXGeneralItalic.ttf"),
    *("cmr10.ttf", "cmb10.ttf", "cmss10.ttf", "cmtt10.ttf", "cmmi10.ttf"),
)
"""Text fonts that matplotlib ships."""


@DATASETS.register("glyphs", embedded=True, places=())
def glyphs(
    root: Path | None,
    *,
    train_images: int = 20_800,
    test_images: int = 2_600,
    degrees: float = 15.0,
    shift: float = 2.0,
    glyph_seed: int = 0,
    size: int | None = None,
) -> DataSet:
    """Printed letters a-z and A-Z, both cases as one class, white on black: grey images of 28x28, 26 classes.

    Each is a random case and font, turned by up to `degrees`, scaled by 0.85 to 1.15 and moved by up to `shift` pixels.
    Stands in for EMNIST letters in Titcombe et al. 2021, section 4 (a foreign attacker set). `root` is not used.

    Raises:
        ValueError: fewer than 1 image, or a negative `degrees` or `shift`.
    """
    if train_images < 1 or test_images < 1 or degrees < 0 or shift < 0:
        raise ValueError("glyphs: train_images and test_images must be at least 1, degrees and shift at least 0")
    drawn = _drawn_letters()
    train, test = (
        _varied(drawn, count, degrees, shift, stream(glyph_seed, "glyphs", part), size)
        for part, count in (("train", train_images), ("test", test_images))
    )
    return DataSet("glyphs", train, test, 26)


def _drawn_letters() -> Tensor:
    """Every letter once: floats in [0, 255], (26 letters, 2 cases x fonts, 28, 28)."""
    import matplotlib  # only its font files are needed, and only here

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    fonts = [ImageFont.truetype(str(folder / name), 64) for name in FONTS]
    rows = [
        [_drawn(letter, font) for case in (str.lower, str.upper) for letter in [case(small)] for font in fonts]
        for small in string.ascii_lowercase
    ]
    return torch.from_numpy(np.array(rows)).float()


def _drawn(letter: str, font: ImageFont.FreeTypeFont) -> np.ndarray:
    left, top, right, bottom = font.getbbox(letter)
    large = Image.new("L", (math.ceil(right - left), math.ceil(bottom - top)))
    ImageDraw.Draw(large).text((-left, -top), letter, fill=255, font=font)
    factor = INK / max(large.size)
    small = large.resize((max(1, round(large.width * factor)), max(1, round(large.height * factor))))
    canvas = Image.new("L", (SIDE, SIDE))
    canvas.paste(small, ((SIDE - small.width) // 2, (SIDE - small.height) // 2))
    return np.array(canvas)


def _varied(
    drawn: Tensor, count: int, degrees: float, shift: float, rng: torch.Generator, size: int | None
) -> ImageSet:
    """`count` letters, the classes as equal as they can be, each with its own font, case, angle, scale and place."""
    labels = (torch.arange(count) % len(drawn))[torch.randperm(count, generator=rng)]
    variant = torch.randint(drawn.shape[1], (count,), generator=rng)
    angle, zoom, dx, dy = torch.rand(4, count, generator=rng) * 2 - 1
    angle, zoom = torch.deg2rad(angle * degrees), 1 + 0.15 * zoom
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    step = 2 * shift / SIDE  # grid_sample counts from -1 to 1
    matrix = torch.stack([torch.stack([cos, -sin, step * dx], 1), torch.stack([sin, cos, step * dy], 1)], 1)
    grid = F.affine_grid(matrix, [count, 1, SIDE, SIDE], align_corners=False)
    moved = F.grid_sample(drawn[labels, variant][:, None], grid, align_corners=False)
    return ImageSet(resized(moved.round().clamp(0, 255).to(torch.uint8), size), labels)
