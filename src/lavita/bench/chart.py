"""A scatter of scores against cost as SVG: both axes logarithmic, every point named, no library needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 150, 40, 56
COLOURS = (
    "#4477aa", "#ee6677", "#228833", "#b8860b", "#2aa5c9", "#aa3377", "#555555", "#d2691e", "#6a5acd", "#2e8b57",
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """One cell: its row's name, cost (x) and score (y), both above 0."""

    label: str
    x: float
    y: float


def scatter(points: Sequence[Point], title: str, x_title: str, y_title: str) -> str:
    """An SVG document; points of one label share a colour and the label stands beside the last of them."""
    xs, ys = Axis([p.x for p in points], LEFT, WIDTH - RIGHT), Axis([p.y for p in points], HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12" role="img"><title>{escape(title)}</title>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="14">{escape(title)}</text>',
    ]
    for value in xs.ticks():
        at = xs.at(value)
        parts.append(f'<path d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#ddd"/>')
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:g}</text>')
    for value in ys.ticks():
        at = ys.at(value)
        parts.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>')
    parts += points_of(points, xs, ys)
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 14}" text-anchor="middle">{escape(x_title)}</text>'
    )
    parts.append(f'<text transform="translate(18 {middle}) rotate(-90)" text-anchor="middle">{escape(y_title)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def points_of(points: Sequence[Point], xs: Axis, ys: Axis) -> list[str]:
    """Dots, and each label once, moved apart where labels would lie on each other."""
    labels = list(dict.fromkeys(point.label for point in points))
    parts, taken = [], []
    for label in sorted(labels, key=lambda name: ys.at([p.y for p in points if p.label == name][-1])):
        colour = COLOURS[labels.index(label) % len(COLOURS)]
        mine = [(xs.at(p.x), ys.at(p.y)) for p in points if p.label == label]
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in mine]
        x, y = mine[-1]
        place = y + 4
        while any(abs(place - other) < 13 and abs(x - other_x) < 130 for other_x, other in taken):
            place += 13
        taken.append((x, place))
        parts.append(f'<text x="{x + 8:.1f}" y="{place:.1f}" fill="{colour}">{escape(label)}</text>')
    return parts


class Axis:
    """A logarithmic axis with some room at both ends, from pixel `start` to pixel `stop`."""

    def __init__(self, values: Sequence[float], start: float, stop: float) -> None:
        low, high = math.log10(min(values)), math.log10(max(values))
        room = max(0.08 * (high - low), 0.05)
        self.low, self.high, self.start, self.stop = low - room, high + room, start, stop

    def at(self, value: float) -> float:
        """The pixel of a value."""
        return self.start + (math.log10(value) - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Round values within the axis, the fewer of a power of ten the more powers there are."""
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        span = self.high - self.low
        steps = (1, 1.2, 1.5, 2, 3, 4, 5, 7) if span < 0.8 else (1, 2, 5) if span < 2.5 else (1,)
        values = [float(f"{step}e{power}") for power in powers for step in steps]
        return [value for value in values if self.low <= math.log10(value) <= self.high]
