"""What became of one check of the scorecard on plain Flower."""

from typing import NamedTuple


class Outcome(NamedTuple):
    """'passed', 'failed', 'not offered' or 'not measured', and why in one line."""

    result: str
    why: str


def judged(passed: bool, why: str) -> Outcome:
    """Of what Flower offers."""
    return Outcome("passed" if passed else "failed", why)


def not_offered(why: str) -> Outcome:
    """Of what Flower does not claim to do: no check of ours counts against it there."""
    return Outcome("not offered", why)
