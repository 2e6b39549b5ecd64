"""A scatter of scores against cost as SVG: both axes logarithmic, every point named, no library needed.

What a page may colour anew (for dark screens) has a class: ground, ink, soft, grid, s0 to s9.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from lavita.metrics.table import is_metric, metric_words
from lavita.report.tables import blocks
from lavita.results.records import Record, StageRecord
from lavita.results.rows import Row, shown

NARROW = 0.3  # powers of ten: within less, a logarithmic axis is nearly even, and so are its ticks


def even_ticks(low: float, high: float) -> list[float]:
    """Two to seven multiples of 1, 2, 2.5 or 5 times a power of ten between two values."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [float(f"{step * number:.6g}") for number in range(first, last + 1)]


class LogAxis:
    """A logarithmic axis with some room at both ends, from pixel `start` to pixel `stop`; values above 0."""

    def __init__(self, values: Sequence[float], start: float, stop: float) -> None:
        low, high = math.log10(min(values)), math.log10(max(values))
        room = max(0.08 * (high - low), 0.05)
        self.low, self.high, self.start, self.stop = low - room, high + room, start, stop

    def at(self, value: float) -> float:
        """The pixel of a value."""
        return self.start + (math.log10(value) - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Round values within the axis, the fewer of a power of ten the more powers there are."""
        span = self.high - self.low
        if span < NARROW:
            return even_ticks(10**self.low, 10**self.high)
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        steps = (1, 1.2, 1.5, 2, 3, 4, 5, 7) if span < 0.8 else (1, 2, 5) if span < 2.5 else (1,)
        values = [float(f"{step}e{power}") for power in powers for step in steps]
        return [value for value in values if self.low <= math.log10(value) <= self.high]


class LinearAxis:
    """An even axis, for values that may be 0 or below."""

    def __init__(self, values: Sequence[float], start: float, stop: float) -> None:
        low, high = min(values), max(values)
        room = 0.08 * (high - low) or 0.5
        self.low, self.high, self.start, self.stop = low - room, high + room, start, stop

    def at(self, value: float) -> float:
        """The pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Round values within the axis."""
        return even_ticks(self.low, self.high)


WIDTH, HEIGHT = 640, 420
LEFT, RIGHT, TOP, BOTTOM = 66, 120, 34, 52
COLOURS = (
    "#4477aa", "#ee6677", "#228833", "#b8860b", "#2aa5c9", "#aa3377", "#555555", "#d2691e", "#6a5acd", "#2e8b57",
)  # fmt: skip
LETTER, LINE = 7.4, 15  # pixels that a letter and a line of text take


@dataclass(frozen=True)
class Point:
    """One run: its row's name, cost (x), score (y), both above 0, and the ends of the score's interval."""

    label: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None


def scatter(points: Sequence[Point], title: str, x_title: str, y_title: str, name: str = "chart") -> str:
    """An SVG document; points of one label share a colour, and the label stands once, beside one of them.

    name: what makes the identifiers of its parts unique in a page that holds several.
    """
    ends = [end for p in points for end in (p.low, p.high) if end is not None and end > 0]
    xs = LogAxis([p.x for p in points], LEFT, WIDTH - RIGHT)
    ys = LogAxis([*(p.y for p in points), *ends], HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="13" role="img" aria-labelledby="{name}-title {name}-text">',
        f'<title id="{name}-title">{escape(title)}</title>',
        f'<desc id="{name}-text">{escape(in_words(points, x_title, y_title))}</desc>',
        f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        text(LEFT, 20, title, size=14),
        *grid(xs, ys),
        *marks(points, xs, ys),
        text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, x_title, anchor="middle"),
        f'<text class="ink" fill="#222" transform="translate(18 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_title)}</text>',
    ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def in_words(points: Sequence[Point], x_title: str, y_title: str) -> str:
    """What the chart shows, for those who do not see it."""
    said = []
    for p in points:
        interval = "" if p.low is None or p.high is None else f" ({shown(p.low)} to {shown(p.high)})"
        said.append(f"{p.label}: {shown(p.x)}, {shown(p.y)}{interval}")
    return f"Both axes logarithmic. Of each row {x_title}, then {y_title}: {'; '.join(said)}."


def text(x: float, y: float, words: str, anchor: str = "start", size: int = 0, kind: str = "ink") -> str:
    """A line of text whose baseline is at y."""
    fill = "#222" if kind == "ink" else "#555"
    style = f' font-size="{size}"' if size else ""
    style += f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text class="{kind}" fill="{fill}" x="{x:.1f}" y="{y:.1f}"{style}>{escape(words)}</text>'


def grid(xs: LogAxis, ys: LogAxis) -> list[str]:
    """Lines and numbers of both axes."""
    parts = []
    for value in xs.ticks():
        at = xs.at(value)
        parts.append(f'<path class="grid" d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#ddd"/>')
        parts.append(text(at, HEIGHT - BOTTOM + 17, f"{value:g}", "middle", kind="soft"))
    for value in ys.ticks():
        at = ys.at(value)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(text(LEFT - 7, at + 4, f"{value:g}", "end", kind="soft"))
    return parts


def marks(points: Sequence[Point], xs: LogAxis, ys: LogAxis) -> list[str]:
    """Dots with their intervals, and each label once, where it lies on nothing else."""
    labels = list(dict.fromkeys(point.label for point in points))
    parts, places, taken = [], {}, []
    for point in points:
        number = labels.index(point.label) % len(COLOURS)
        x, y = xs.at(point.x), ys.at(point.y)
        if point.low is not None and point.high is not None:
            # An interval that reaches 0 extends to the end of the axis.
            low, high = ys.at(point.low) if point.low > 0 else HEIGHT - BOTTOM, ys.at(point.high)
            way = f"M{x:.1f} {low:.1f}V{high:.1f}M{x - 4:.1f} {low:.1f}h8M{x - 4:.1f} {high:.1f}h8"
            parts.append(f'<path class="s{number} line" stroke="{COLOURS[number]}" fill="none" d="{way}"/>')
            taken.append((x - 4, high, x + 4, low))
        parts.append(f'<circle class="s{number}" cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{COLOURS[number]}"/>')
        taken.append((x - 5, y - 5, x + 5, y + 5))
        places[point.label] = (x, y)
    for label in sorted(labels, key=lambda name: places[name][1]):
        parts.append(named(label, *places[label], taken))
    return parts


def named(label: str, x: float, y: float, taken: list[tuple[float, float, float, float]]) -> str:
    """A label beside its dot, further away where others lie there, with a line to the dot if it is far."""
    width = LETTER * len(label)
    for step in range(40):
        move = LINE * (step // 4) * (1 if step % 2 else -1)
        left = x + 9 if step % 4 < 2 else x - 9 - width
        box = (left, y + move - 9, left + width, y + move + 5)
        inside = LEFT <= box[0] and box[2] <= WIDTH and TOP - 6 <= box[1] and box[3] <= HEIGHT - BOTTOM
        if inside and not any(overlap(box, other) for other in taken):
            break
    else:  # nowhere is free: at its dot, on others
        move, box = 0, (x + 9, y - 9, x + 9 + width, y + 5)
    taken.append(box)
    line = ""
    if abs(move) > LINE:
        end = box[0] - 2 if box[0] > x else box[2] + 2
        line = f'<path class="soft line" stroke="#555" d="M{x:.1f} {y:.1f}L{end:.1f} {y + move:.1f}"/>'
    return line + text(box[0], y + move + 4, label)


def overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@dataclass(frozen=True)
class Cost:
    """A kind of cost: the axis's title and what a trained row spent, None where that is not known."""

    title: str
    of: Callable[[Row], float | None]


FLOPS = Cost(
    "training, TFLOPs (autoencoder included)",
    lambda row: float(row.train_flops) * 1e-12 if row.train_flops else None,
)


def seconds_cost(records: Sequence[Record]) -> Cost:
    """Training seconds of a run, the suite's autoencoder included: they are in the records, not in the rows."""
    spent = {record.cell: training_seconds(record) for record in records}
    return Cost("training, seconds (autoencoder included)", lambda row: spent.get(row.cell))


def training_seconds(record: Record) -> float | None:
    """Seconds of the stages that a run is charged for, or None where none are recorded."""
    return sum(stage.seconds for stage in record.stages) or None


SPEED_COLUMNS = ("clips/s", "MFU")


def speed_texts(stage: StageRecord | None) -> tuple[str, str]:
    """A stage's clips a second and its MFU in percent, "" for what is not known."""
    speed = None if stage is None else stage.speed
    if speed is None:
        return "", ""
    return f"{speed.clips_per_second:.3g}", "" if speed.mfu is None else f"{100 * speed.mfu:.1f} %"


def trained_rows(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of trained runs' distances, those that may share a table together: only they may share a chart."""
    found = [
        [row for row in block if row.stage == "train" and is_metric(row.metric, "fvd") and row.value > 0]
        for block in blocks(rows)
    ]
    return [block for block in found if block]


def quality_cost(rows: Sequence[Row], cost: Cost, title: str, name: str = "chart") -> str | None:
    """The chart of rows of one protocol, None where no cost is known."""
    spent = [(row, cost.of(row)) for row in rows]
    points = [
        Point(row.label, value, float(row.value), *(row.interval or (None, None))) for row, value in spent if value
    ]
    if not points:
        return None
    return scatter(points, title, cost.title, f"{metric_words(rows[0].metric)}, lower is better", name)
