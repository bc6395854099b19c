"""Where labels go beside points, so that no two of them overlap: geometry alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

NEAR = 6.0
"""From a point to the nearest edge of its label."""
RINGS = (1.0, 1.6, 2.6, 4.0, 6.0, 9.0, 13.0, 18.0, 24.0, 32.0, 42.0, 55.0, 70.0, 90.0)
"""How far off a label may move, in units of `NEAR`."""
FAR = 15.0
"""The ring beyond which nobody would look for a label, unless lines may cross: the last resort."""
DIRECTIONS = (0, 180, 45, -45, 135, -135, 90, -90, 22, -22, 158, -158, 67, -67, 113, -113)
"""Degrees, best first: right of its point, then left of it."""
MARKER = 5.0
"""From a point to the edge of its marker; those nearer than two of it cannot be told apart by a line."""
SLACK = 2.0
"""What has to stay free around a label."""


@dataclass(frozen=True)
class Box:
    """A rectangle, in one unit of length whatever it is."""

    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: Box) -> bool:
        return self.overlap(other) > 0

    def overlap(self, other: Box) -> float:
        """The area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, width) * max(0.0, height)

    @property
    def centre(self) -> tuple[float, float]:
        return (self.left + self.right) / 2, (self.bottom + self.top) / 2

    def crossed_by(self, start: tuple[float, float], end: tuple[float, float]) -> bool:
        """Whether the straight line between two places touches this."""
        first, last = 0.0, 1.0  # the share of the line that may still lie inside, clipped by each pair of edges
        for (a, b), (low, high) in zip(
            zip(start, end, strict=True), ((self.left, self.right), (self.bottom, self.top)), strict=True
        ):
            if a == b:
                if not low <= a <= high:
                    return False
                continue
            near, far = sorted(((low - a) / (b - a), (high - a) / (b - a)))
            first, last = max(first, near), min(last, far)
        return first <= last

    def grown(self, by: float) -> Box:
        return Box(self.left - by, self.bottom - by, self.right + by, self.top + by)

    def inside(self, other: Box) -> bool:
        return (
            other.left <= self.left
            and self.right <= other.right
            and other.bottom <= self.bottom
            and self.top <= other.top
        )


def place(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    within: Box,
    taken: Sequence[Box],
    crossing: bool = False,
) -> list[Box] | None:
    """A box of each size (width, height) near its point, inside `within`, off every other and off what is `taken`.

    Unless `crossing` allows it, the straight line from a label to its point touches no other label and no other point.
    Greedy, in a few orders: the nearest free place of each; None where some label finds none in any of them.
    """
    count = range(len(points))
    orders = (
        sorted(count, key=lambda each: _room(points, each)),  # crowded points first
        sorted(count, key=lambda each: -points[each][1]),
        sorted(count, key=lambda each: points[each][1]),
        sorted(count, key=lambda each: points[each][0]),
    )
    tried = (_in_order(order, points, sizes, within, taken, crossing) for order in orders)
    return next((found for found in tried if found is not None), None)


def _in_order(
    order: Sequence[int],
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    within: Box,
    taken: Sequence[Box],
    crossing: bool,
) -> list[Box] | None:
    found: dict[int, Box] = {}
    rings = RINGS if crossing else [each for each in RINGS if each <= FAR]
    near = [[other for other in points if math.dist(point, other) < 2 * MARKER] for point in points]

    def free(index: int, box: Box) -> bool:
        roomy = box.grown(SLACK)
        if not box.inside(within) or any(roomy.meets(other) for other in (*taken, *found.values())):
            return False
        line = points[index], box.centre
        return crossing or not (
            any(
                other.crossed_by(*line) or roomy.crossed_by(points[each], other.centre) for each, other in found.items()
            )
            or any(Box(x, y, x, y).grown(MARKER).crossed_by(*line) for x, y in points if (x, y) not in near[index])
        )

    for index in order:
        box = next((each for each in _candidates(points[index], sizes[index], rings) if free(index, each)), None)
        if box is None:
            return None
        found[index] = box
    return [found[index] for index in range(len(points))]


def _room(points: Sequence[tuple[float, float]], index: int) -> float:
    """How far the nearest other point is."""
    return min((math.dist(points[index], other) for n, other in enumerate(points) if n != index), default=math.inf)


def _candidates(point: tuple[float, float], size: tuple[float, float], rings: Sequence[float]) -> Iterator[Box]:
    (x, y), (width, height) = point, size
    for ring in rings:
        for degrees in DIRECTIONS:
            cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
            # the label's centre lies beyond the ring by as much of it as points that way
            centre_x = x + cos * (NEAR * ring) + _sign(cos) * width / 2
            centre_y = y + sin * (NEAR * ring) + _sign(sin) * height / 2
            yield Box(centre_x - width / 2, centre_y - height / 2, centre_x + width / 2, centre_y + height / 2)


def _sign(value: float) -> float:
    return 0.0 if abs(value) < 1e-9 else math.copysign(1.0, value)
