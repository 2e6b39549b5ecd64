"""What the sections with charts show: quality against cost, and losses along the budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lavita.metrics.table import metric_words
from lavita.report.charts import FLOPS, Cost, quality_cost, seconds_cost, trained_rows
from lavita.report.loss_chart import loss_chart
from lavita.report.page.text import Table, table
from lavita.results.rows import Row, shown
from lavita.results.run_folder import RunFolder
from lavita.results.training_log import RunLosses, losses_of


@dataclass(frozen=True)
class CostCharts:
    """The charts of the rows of one protocol, each with the name of its box; none where the cost is not known, and
    then `names` says whose it is.
    """

    names: str
    protocol: str
    charts: tuple[tuple[str, Markup], ...]
    numbers: Table


@dataclass(frozen=True)
class LossChart:
    """stages: numbered as above the chart; remark: what a reader must know of the curve."""

    cell: str
    stages: str
    remark: str
    chart: Markup


@dataclass(frozen=True)
class Losses:
    """The charts, one per run, and their numbers, None where no log was kept."""

    charts: tuple[LossChart, ...]
    numbers: Table | None


def cost_charts(run: RunFolder, rows: Sequence[Row]) -> list[CostCharts]:
    """Distance against FLOPs and against seconds, a pair of charts for each protocol."""
    seconds = seconds_cost(run.records)
    return [pair_of_charts(comparable, seconds, number) for number, comparable in enumerate(trained_rows(rows))]


def pair_of_charts(rows: Sequence[Row], seconds: Cost, number: int) -> CostCharts:
    """The charts of the rows of one protocol and a table of what they show."""
    first = rows[0]
    metric, place = metric_words(first.metric), f"table {number + 1}, protocol {first.protocol_hash}"
    drawn = []
    for cost, name, title in ((FLOPS, "flops", "against training FLOPs"), (seconds, "seconds", "against seconds")):
        chart = quality_cost(rows, cost, f"{metric} {title}", f"{name}-{number}")
        if chart:
            drawn.append((f"Chart: {metric} {title}, {place}", Markup(chart)))  # it escapes its texts
    lines = [
        (
            row.cell,
            value(row.value),
            " to ".join(shown(float(end)) for end in row.interval) if row.interval else "no interval",
            value(FLOPS.of(row)),
            value(seconds.of(row)),
        )
        for row in rows
    ]
    columns = ("cell", metric, "95 % interval", "training TFLOPs", "training seconds")
    return CostCharts(
        names=", ".join(row.cell for row in rows),
        protocol=f"Protocol {first.protocol}, extractor {first.extractor}.",
        charts=tuple(drawn),
        numbers=table("What the charts show.", columns, lines, f"Numbers of the charts, {place}"),
    )


def value(number: float | None) -> str:
    return "not known" if number is None else shown(number)


def loss_charts(run: RunFolder) -> Losses:
    """A chart for each run that has a log, and the numbers."""
    found = [losses for attempt in run.attempts if (losses := losses_of(run, attempt))]
    charts = [
        LossChart(
            cell=losses.cell,
            stages=" · ".join(f"{i} {s.name} ({s.clips:,.0f} clips)" for i, s in enumerate(losses.stages, start=1)),
            remark=losses.remark,
            chart=Markup(loss_chart(losses, f"losses-{number}")),  # it escapes its texts
        )
        for number, losses in enumerate(found)
    ]
    return Losses(tuple(charts), losses_table(found) if found else None)


def losses_table(found: Sequence[RunLosses]) -> Table:
    """One line per stage: mean training loss of each quarter, and the losses on held-out clips."""
    lines = []
    for losses in found:
        for stage in losses.stages:
            ends = [100 * clips / losses.budget for clips in (stage.start, stage.start + stage.clips)]
            quarters = [
                [loss for clips, loss in stage.train if number < 4 * clips / stage.clips <= number + 1]
                for number in range(4)
            ]
            means = [shown(sum(part) / len(part)) if part else "none logged" for part in quarters]
            heldout = " → ".join(shown(loss) for _, loss in stage.heldout) or "not measured"
            lines.append((losses.cell, stage.name, f"{ends[0]:.1f} to {ends[1]:.1f} %", *means, heldout))
    quarters = [f"training, quarter {number}" for number in (1, 2, 3, 4)]
    columns = ("cell", "stage", "of the budget", *quarters, "held-out, from start to end")
    caption = "Mean training loss of each quarter of a stage, and the losses on held-out clips."
    return table(caption, columns, lines, "Table of losses")
