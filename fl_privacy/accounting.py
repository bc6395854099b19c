"""From what a chain of defences does to (epsilon, delta) over a run, by dp-accounting; or why there is none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from scipy.special import ndtr, ndtri

from fl_privacy.defences.base import Chain
from fl_privacy.defences.clip_each import ClipEach
from fl_privacy.defences.noise import LaplaceNoise

Unit = Literal["example", "client", "none"]
NO_BOUND: Mapping[int, float] = MappingProxyType({})


@dataclass(frozen=True)
class Mechanism:
    """What is Gaussian about a chain: noise of deviation `noise_multiplier` times the most that one `unit` can change.

    `unit` 'example': in every step an example is added to a sum or not; 'client': a whole message is sent, or noise
    alone. `words` say so, or, for 'none', why nothing is guaranteed.
    """

    unit: Unit
    noise_multiplier: float
    words: str


@dataclass(frozen=True)
class Use:
    """How often the data of one client enter what the server sees.

    `rounds` in which it takes part, of which the server knows; `examples` that it draws for each of them, without
    replacement, from the `held` ones, of which the server does not know; `passes`: local steps that a drawn one enters.
    """

    rounds: int = 1
    examples: int = 1
    held: int = 1
    passes: int = 1

    def __post_init__(self) -> None:
        if min(self.rounds, self.examples, self.passes) < 1 or self.held < self.examples:
            raise ValueError(f"a use has at least 1 round, example and pass, and no more examples than held: {self}")


@dataclass(frozen=True)
class Guarantee:
    """(`epsilon`, `delta`) over all messages of a run, and `mu` of a single one; None where there is no guarantee.

    epsilon is for replacing one unit's data by any other, as fits draws of fixed size. `mu` is Gaussian differential
    privacy (Dong, Roth and Su 2022) for adding or removing the unit, of which `identification_bound` is made.
    """

    unit: Unit
    epsilon: float | None
    delta: float | None
    mu: float | None
    words: str


def mechanism(chain: Chain) -> Mechanism:
    """The first member's that guarantees anything: what comes after it is post-processing.

    Gaussian noise counts where what it is added to has a bounded norm. Laplace and uniform noise, pruning, rounding and
    signs guarantee nothing under a clip in L2, and neither does a secret.
    """
    for each in chain.defences:
        if each.by_example and each.example_noise > 0:
            words = f"one example, in every step, by noise of {each.example_noise:g} times the norm of its clip"
            return Mechanism("example", each.example_noise, words)
    bound, noisy = math.inf, False
    for each in chain.defences:
        if each.gaussian_scale and math.isfinite(bound):
            words = f"a client's whole message, by noise of {each.gaussian_scale / bound:g} times the norm of its clip"
            return Mechanism("client", each.gaussian_scale / bound, words)
        noisy |= each.gaussian_scale > 0
        bound = each.norm_bound(bound)
    if noisy:
        return Mechanism("none", 0.0, "no norm bound: put a clip before the Gaussian noise")
    return Mechanism("none", 0.0, "no Gaussian noise" if chain else "no defence")


def guarantee(chain: Chain, use: Use, delta: float = 1e-5) -> Guarantee:
    """What `chain` guarantees one unit against a server that sees every message of a run.

    The noise for a replaced unit counts half, because a clip of C lets it change a sum by 2 C. That the server does not
    know which examples were drawn is counted, by RDP, where that says more; not that few clients were, which it knows.
    What a client reports beside its arrays, such as its training loss, is not covered.

    Raises:
        ValueError: delta is not between 0 and 1.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie between 0 and 1, well below one over the number of units, not {delta}")
    found = mechanism(chain)
    if found.unit == "none":
        return Guarantee("none", None, None, None, f"none: {found.words}")
    passes = use.passes if found.unit == "example" else 1
    one_message = found.noise_multiplier / math.sqrt(passes)
    epsilon = gaussian_epsilon(one_message / 2 / math.sqrt(use.rounds), delta)
    if found.unit == "example" and use.examples < use.held:
        epsilon = min(epsilon, _sampled_epsilon(one_message / 2, use, delta))
    return Guarantee(found.unit, epsilon, delta, 1 / one_message, found.words)


def release_guarantee(
    chain: Chain, releases: int = 1, delta: float = 1e-5, bound: Mapping[int, float] = NO_BOUND
) -> Guarantee:
    """What `chain` guarantees one image whose activations or outputs are released so often, each time with fresh noise.

    Local differential privacy, for replacing the image by any other: Laplace noise of scale b on rows whose L1 norm is
    at most C gives 2 C / b a release and delta 0, Gaussian noise on an L2 norm of at most C what its accountant says.
    Rows are bounded by `clip_each`, or by the model: `bound` maps the order of a norm to the most that it can be, such
    as {1: 500, 2: 500**0.5} for 500 tanh units. Anything else guarantees nothing: uniform noise shows by its edges what
    an image was not. It covers no training that the image was in.

    Raises:
        ValueError: releases below 1, or a delta that is not between 0 and 1.
    """
    if releases < 1 or not 0 < delta < 1:
        raise ValueError(f"at least 1 release and a delta between 0 and 1 are needed, not {releases} and {delta}")
    first, second = bound.get(1, math.inf), bound.get(2, math.inf)
    noisy = False
    for each in chain.defences:
        if isinstance(each, ClipEach):
            first, second = (min(first, each.norm), second) if each.order == 1 else (first, min(second, each.norm))
        second = min(second, first)  # no L2 norm is above its L1 norm
        if isinstance(each, LaplaceNoise) and each.scale > 0 and math.isfinite(first):
            words = f"one image, {releases} time(s), by Laplace noise of {each.scale / first:g} times the L1 norm"
            return Guarantee("example", releases * 2 * first / each.scale, 0.0, None, words)
        if each.gaussian_scale and math.isfinite(second):
            multiplier = each.gaussian_scale / second
            words = f"one image, {releases} time(s), by Gaussian noise of {multiplier:g} times the L2 norm"
            epsilon = gaussian_epsilon(multiplier / 2 / math.sqrt(releases), delta)
            return Guarantee("example", epsilon, delta, 2 * math.sqrt(releases) / multiplier, words)
        noisy |= bool(each.gaussian_scale) or isinstance(each, LaplaceNoise)
    missing = (
        "no bound of the norm of a row: put clip_each before the noise" if noisy else "no Gaussian or Laplace noise"
    )
    return Guarantee("none", None, None, None, f"none: {missing if chain else 'no defence'}")


def gaussian_epsilon(noise_multiplier: float, delta: float) -> float:
    """The epsilon of one Gaussian mechanism, exactly: of T of them, that of a noise multiplier / sqrt(T).

    Source: Balle and Wang 2018 (arXiv 1805.06530), theorem 8, as dp-accounting computes it.
    """
    from dp_accounting.gaussian_mechanism import get_epsilon_gaussian

    return float(get_epsilon_gaussian(noise_multiplier, delta))


def _sampled_epsilon(noise_multiplier: float, use: Use, delta: float) -> float:
    """The same of messages about examples that are drawn without replacement, by Rényi differential privacy.

    Source: Wang, Balle and Kasiviswanathan 2019 (arXiv 1808.00087), theorem 27, as dp-accounting computes it.
    """
    import dp_accounting as dp
    from dp_accounting.rdp import RdpAccountant

    accountant: Any = RdpAccountant(neighboring_relation=dp.NeighboringRelation.REPLACE_ONE)
    drawn = dp.SampledWithoutReplacementDpEvent(use.held, use.examples, dp.GaussianDpEvent(noise_multiplier))
    accountant.compose(drawn, use.rounds)
    return float(accountant.get_epsilon(delta))


def identification_bound(blind: float, mu: float) -> float:
    """The most often that any attacker can pass a test which the best fixed guesses pass with probability `blind`.

    Phi(Phi^-1(blind) + mu), whatever the attacker knows of all other examples. `mu` is that of everything it has seen
    that depends on the example: sqrt(n) times a message's for n of them, those that made its model among them.

    Source: Balle, Cherubin and Hayes 2022 (arXiv 2201.04845); Hayes, Mahloujifar and Balle 2023 (arXiv 2302.07225);
    Kaissis et al. 2023 (arXiv 2305.04446), by the trade-off function of Dong, Roth and Su 2022 (arXiv 1905.02383).
    """
    if not 0 <= blind <= 1 or not mu >= 0:
        raise ValueError(f"a probability from 0 to 1 and a mu of at least 0 are needed, not {blind} and {mu}")
    return float(ndtr(ndtri(blind) + mu))
