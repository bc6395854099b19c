"""A classifier and the decoder that reads its outputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fl_privacy.defences.base import Chain
from fl_privacy.models import build_model
from fl_privacy.models.decoders import build_decoder
from fl_privacy.seeding import subseed

BATCH = 500
OUTPUTS = "outputs"
"""The name of the one tensor that an inference round releases."""


@dataclass(frozen=True)
class PairSpec:
    """Which classifier F and decoder G, for which images (C, H, W) and how many outputs."""

    image_shape: tuple[int, int, int]
    classes: int
    classifier: str = "vicious_small"
    decoder: str = "small"
    classifier_settings: dict[str, Any] = field(default_factory=dict)
    decoder_settings: dict[str, Any] = field(default_factory=dict)


class Pair(nn.Module):
    """A classifier F and the decoder G that reads its outputs, as one module."""

    def __init__(self, classifier: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.classifier, self.decoder = classifier, decoder


def build_pair(spec: PairSpec, seed: int) -> Pair:
    """Both networks with weights drawn from `seed`; an honest twin of the same seed starts from the same F.

    Raises:
        UnknownName: no such classifier or decoder, or no such setting. ValueError: a value that does not fit.
    """
    shape, classes = spec.image_shape, spec.classes
    return Pair(
        build_model(spec.classifier, shape, classes, seed, spec.classifier_settings),
        build_decoder(spec.decoder, shape, classes, seed, spec.decoder_settings),
    )


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


@torch.no_grad()
def outputs(classifier: nn.Module, images: Tensor, law: Chain | None = None, seed: int = 0) -> Tensor:
    """What users release for images (N, C, H, W) in [0, 1]: (N, classes), on their device, after the defences `law`.

    The classifier runs in eval mode and is left as it was.
    """
    was_training = classifier.training
    classifier.eval()
    released = []
    for number, start in enumerate(range(0, len(images), BATCH)):
        logits = classifier(images[start : start + BATCH].to(_device(classifier))).to(images.device)
        sent = {OUTPUTS: logits}
        released.append((law.on_release(sent, subseed(seed, "outputs", number)) if law else sent)[OUTPUTS])
    classifier.train(was_training)
    return torch.cat(released)


@torch.no_grad()
def decode(decoder: nn.Module, released: Tensor) -> Tensor:
    """Images (N, C, H, W) in [0, 1] from released outputs (N, classes), on their device, in eval mode."""
    was_training = decoder.training
    decoder.eval()
    parts = [
        decoder(released[start : start + BATCH].to(_device(decoder))).to(released.device)
        for start in range(0, len(released), BATCH)
    ]
    decoder.train(was_training)
    return torch.cat(parts).clamp(0, 1)
