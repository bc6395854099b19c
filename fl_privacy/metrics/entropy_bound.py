"""How much a rounded softmax vector can say at most: a count of the vectors that can be sent."""

import math


def probability_vectors(decimals: int, classes: int) -> int:
    """The number of vectors of `classes` multiples of 10^-decimals in [0, 1] that add up to exactly 1, exactly.

    C(10^P + Y - 1, Y - 1): ways to share 10^P units among Y classes.

    Source: Malekzadeh and Gündüz, equation 18.
    """
    _check(decimals, classes)
    return math.comb(10**decimals + classes - 1, classes - 1)


def rounded_vectors(decimals: int, classes: int) -> int:
    """An upper bound on the number of vectors that rounding each probability by itself can send.

    Equation 18 counts vectors that add up to 1, but rounded probabilities need not: (1/3, 1/3, 1/3) becomes
    (.3, .3, .3). Each entry moves by at most half a unit, so the units add up to 10^P within h = floor(Y/2), and there
    are at most C(10^P + h + Y, Y) - C(10^P - h - 1 + Y, Y) such vectors.
    """
    _check(decimals, classes)
    units, half = 10**decimals, classes // 2
    fewer = math.comb(units - half - 1 + classes, classes) if units > half else 0
    return math.comb(units + half + classes, classes) - fewer


def entropy_bound(decimals: int, classes: int) -> float:
    """Bits that one softmax vector of `classes` entries with `decimals` decimals can carry: log2 of equation 18.

    Source: Malekzadeh and Gündüz, appendix I.1.
    """
    return math.log2(probability_vectors(decimals, classes))


def rounded_entropy_bound(decimals: int, classes: int) -> float:
    """Bits that one softmax vector can carry once every entry is rounded by itself: log2 of `rounded_vectors`."""
    return math.log2(rounded_vectors(decimals, classes))


def _check(decimals: int, classes: int) -> None:
    if decimals < 0 or classes < 1:
        raise ValueError(f"decimals must be at least 0 and classes at least 1, not {decimals} and {classes}")
