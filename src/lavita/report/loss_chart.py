"""Losses of one run on the axis of its budget, as SVG: one line per stage, dots for the held-out loss."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from lavita.report.charts import LinearAxis, LogAxis
from lavita.results.rows import shown
from lavita.results.training_log import RunLosses, StageLosses

WIDTH, HEIGHT = 320, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 22, 34


def loss_chart(losses: RunLosses, name: str) -> str:
    """An SVG element. x: share of the budget in clips, with the borders of the stages; y: loss, logarithmic where every
    loss is above 0. Stages are numbered above the frame. name: makes its identifiers unique in the page.
    """
    values = [loss for stage in losses.stages for _, loss in (*stage.train, *stage.heldout)]
    axis = (LogAxis if min(values) > 0 else LinearAxis)(values, HEIGHT - BOTTOM, TOP)
    kind = "logarithmic" if isinstance(axis, LogAxis) else "linear"
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{name}-title {name}-text" font-size="11">',
        f'<title id="{name}-title">Losses of {escape(losses.cell)} along its budget</title>',
        f'<desc id="{name}-text">{escape(in_words(losses, kind))}</desc>',
    ]
    for value in spread(axis.ticks()):
        parts.append(f'<path class="grid" d="M{LEFT} {axis.at(value):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(label(LEFT - 5, axis.at(value) + 4, f"{value:g}", "end"))
    for share in (0, 25, 50, 75, 100):
        anchor = "end" if share == 100 else "middle"
        parts.append(label(across(share / 100), HEIGHT - BOTTOM + 15, f"{share} %", anchor))
    parts.append(label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, f"of {losses.budget:,.0f} clips", "middle"))
    for number, stage in enumerate(losses.stages):
        parts += stage_parts(stage, number, losses.budget, axis)
    return "".join([*parts, "</svg>"])


def across(share: float) -> float:
    """The pixel of a share of the budget."""
    return LEFT + share * (WIDTH - RIGHT - LEFT)


def stage_parts(stage: StageLosses, number: int, budget: float, axis: LogAxis | LinearAxis) -> list[str]:
    """A stage's border and number, its training loss as a line, its held-out losses as dots on a dashed line."""
    left, right = across(stage.start / budget), across((stage.start + stage.clips) / budget)
    parts = [f'<path class="border" d="M{right:.1f} {TOP - 6}V{HEIGHT - BOTTOM}"/>']
    parts.append(label((left + right) / 2, TOP - 8, str(number + 1), "middle"))

    def way(series: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{across((stage.start + clips) / budget):.1f},{axis.at(loss):.1f}" for clips, loss in series)

    if len(stage.train) == 1:  # a line of one point shows nothing
        parts.append(dot(way(stage.train), "train"))
    elif stage.train:
        parts.append(f'<polyline class="train" points="{way(stage.train)}"/>')
    if stage.heldout:
        parts.append(f'<polyline class="heldout" points="{way(stage.heldout)}"/>')
        parts += [dot(at, "heldout") for at in way(stage.heldout).split(" ")]
    return parts


def dot(at: str, kind: str) -> str:
    x, y = at.split(",")
    return f'<circle class="{kind}" cx="{x}" cy="{y}" r="3"/>'


def label(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text class="soft" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def spread(ticks: Sequence[float], most: int = 5) -> list[float]:
    """At most so many of the ticks, evenly."""
    step = -(-len(ticks) // most)
    return list(ticks[::step]) if step else []


def in_words(losses: RunLosses, kind: str) -> str:
    """The curve in a few numbers; the table below the charts has more."""
    said = [f"Horizontal: share of {losses.budget:,.0f} clips; vertical: loss, {kind}."]
    for number, stage in enumerate(losses.stages, start=1):
        ends = [f"{what} loss from {shown(series[0][1])} to {shown(series[-1][1])}"
                for what, series in (("training", stage.train), ("held-out", stage.heldout)) if series]  # fmt: skip
        said.append(f"Stage {number}, {stage.name}, {stage.clips:,.0f} clips: {', '.join(ends) or 'no loss logged'}.")
    return " ".join(said)
