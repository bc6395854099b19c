"""What could be known at best of the images behind gradients, as the evaluator computes it at the truth."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from fl_privacy.attacks.gradient.bound import bound_psnr, posterior_error
from fl_privacy.attacks.gradient.likelihood import likelihood
from fl_privacy.attacks.inversion.priors import Prior
from fl_privacy.defences import Chain
from fl_privacy.defences.sign import Sign
from fl_privacy.evaluation import Truth
from fl_privacy.observation import ChannelName, Observation
from fl_privacy.seeding import one_thread, stream
from fl_privacy.settings import PlainTable
from fl_privacy.weights import trainable

MOST = 4
"""Messages of a condition on which the bound is computed, the first ones."""
PROBES = 2
LARGEST = 200_000_000
"""Parameters times pixels of a message up to which it takes about a second of one core."""
LEAST = 1e-14
"""The least expected error that is told, 140 dB: float32 knows no more."""


def bound_of(messages: Sequence[tuple[Observation, Truth]], prior: Prior, seed: int) -> PlainTable:
    """`bound_psnr` of one condition, the mean in dB over `bound_images`; or `unmeasured`, which says why there is none.

    Under a Gaussian `prior` of images that nobody was trained on, and the law of the defence; linearised at the truth.
    """
    if reason := too_much(messages[0][0]):
        return {"unmeasured": {"bound": reason}}
    values: list[float] = []
    try:
        with one_thread():
            for each, truth in messages[:MOST]:
                images, labels = truth.inputs.unsqueeze(0), truth.labels.unsqueeze(0)
                rng = stream(seed, f"bound of client {each.client} in round {each.round}")
                error = posterior_error(likelihood([each]), prior.of(labels), images, labels, rng, PROBES)
                values += bound_psnr(error.clamp_min(LEAST)).flatten().tolist()
    except Exception as error:  # the model may be anybody's, and the work is done
        return {"unmeasured": {"bound": f"{type(error).__name__}: {error}"}}
    return {"bound_psnr": fmean(values), "bound_images": len(values)}


def too_much(seen: Observation) -> str:
    """Why no bound is computed for such a message; empty where it is."""
    if seen.channel not in (ChannelName.GRADIENT, ChannelName.UPDATE) or seen.model is None:
        return "it is that of gradients, or of the update of one step, whose model is known"
    if seen.channel is ChannelName.UPDATE and not seen.spec.local.sends_gradient(seen.examples):
        return "an update of several local steps has no bound yet: it is linear in no image"
    if isinstance(seen.defence, Chain) and any(isinstance(each, Sign) for each in seen.defence.defences):
        return "signs are no linear function of what they are made of"
    channels, height, width = seen.spec.image_shape
    pixels = seen.spec.batch_size * channels * height * width
    parameters = sum(value.numel() for value in trainable(seen.model).values())
    if parameters * pixels > LARGEST:
        return f"{parameters:,} parameters times {pixels:,} pixels are more than {LARGEST:,}, which takes too long"
    return ""
