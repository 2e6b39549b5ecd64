"""The sections with charts: quality against cost, and losses along the budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lavita.report.charts import FLOPS, Cost, end, quality_cost, seconds_cost, trained_rows
from lavita.report.page.html import Html, details, element, scrolling, section, table, together
from lavita.report.page.loss_chart import loss_chart
from lavita.results.records import shown
from lavita.results.run_folder import RunFolder
from lavita.results.training_log import CellLosses, losses_of


def cost_section(run: RunFolder, rows: Sequence[dict[str, Any]]) -> Html:
    """Distance against FLOPs and against seconds, a pair of charts for each protocol, and the numbers in them."""
    seconds = seconds_cost(run.records)
    parts = [
        element(
            "p",
            "Down is better, left is cheaper; bars are the scores’ own 95 % intervals. FLOPs are counted and the same "
            "on every machine; seconds depend on the machine and on what ran beside a cell.",
        )
    ]
    for number, comparable in enumerate(trained_rows(rows)):
        parts.append(pair_of_charts(comparable, seconds, number))
    if len(parts) == 1:
        parts.append(element("p", "No trained row has a distance yet, so there is nothing to draw."))
    return section("cost", "Quality against cost", *parts)


def pair_of_charts(rows: Sequence[dict[str, Any]], seconds: Cost, number: int) -> Html:
    """The charts of the rows of one protocol and a table of what they show."""
    first = rows[0]
    metric, place = first["metric"], f"table {number + 1}, protocol {first['protocol_hash']}"
    drawn = []
    for cost, name, title in ((FLOPS, "flops", "against training FLOPs"), (seconds, "seconds", "against seconds")):
        chart = quality_cost(rows, cost, f"{metric} {title}", f"{name}-{number}")
        if chart:
            drawn.append(scrolling(f"Chart: {metric} {title}, {place}", Html(chart)))
    if not drawn:
        said = f"What {', '.join(row['cell'] for row in rows)} cost is not known, so nothing is drawn of it."
        return element("p", said)
    lines = [
        (
            row["cell"],
            value(float(row["value"])),
            " to ".join(shown(end(row, key)) for key in ("ci_low", "ci_high")) if row["ci_low"] else "no interval",
            value(FLOPS.of(row)),
            value(seconds.of(row)),
        )
        for row in rows
    ]
    columns = ("cell", metric, "95 % interval", "training TFLOPs", "training seconds")
    numbers = table("What the charts show.", columns, lines, f"Numbers of the charts, {place}")
    return together(
        [
            element("p", f"Protocol {first['protocol']}, extractor {first['extractor']}.", class_="facts-line"),
            element("div", *[element("div", one, class_="chart") for one in drawn], class_="charts"),
            details("The same as a table", numbers),
        ]
    )


def value(number: float | None) -> str:
    return "not known" if number is None else f"{number:.4g}"


def losses_section(run: RunFolder) -> Html:
    """A chart a cell, and the numbers."""
    found = [losses for attempt in run.cells if (losses := losses_of(run, attempt))]
    intro = element(
        "p",
        "Solid line: training loss of the logged steps, each of one batch, averaged where there are many. Dots on a "
        "dashed line: loss of the last stage on held-out clips at fixed noise. Numbers above a chart: its stages. "
        "Losses of different methods, and of different stages, are different quantities: look at whether a curve has "
        "flattened when the budget ends, not at which is lower.",
    )
    charts = []
    for number, losses in enumerate(found):
        stages = " · ".join(f"{i} {s.name} ({s.clips:,.0f} clips)" for i, s in enumerate(losses.stages, start=1))
        caption = [element("strong", losses.cell), f": {stages}"]
        caption += [element("br"), losses.remark] if losses.remark else []
        chart = Html(loss_chart(losses, f"losses-{number}"))
        charts.append(element("figure", chart, element("figcaption", *caption), class_="losses"))
    if not charts:
        return section("losses", "Losses", element("p", "No step log was kept in this folder."))
    rows = [line for losses in found for line in table_lines(losses)]
    quarters = [f"training, quarter {number}" for number in (1, 2, 3, 4)]
    columns = ("cell", "stage", "of the budget", *quarters, "held-out, from start to end")
    caption = "Mean training loss of each quarter of a stage, and the losses on held-out clips."
    numbers = table(caption, columns, rows, "Table of losses")
    return section(
        "losses",
        "Losses along the budget",
        intro,
        element("div", *charts, class_="panels"),
        details("The same as a table", numbers),
    )


def table_lines(losses: CellLosses) -> list[tuple[str, ...]]:
    """A line a stage."""
    lines = []
    for stage in losses.stages:
        ends = [100 * clips / losses.budget for clips in (stage.start, stage.start + stage.clips)]
        quarters = [
            [loss for clips, loss in stage.train if number < 4 * clips / stage.clips <= number + 1]
            for number in range(4)
        ]
        means = [f"{sum(part) / len(part):.4g}" if part else "none logged" for part in quarters]
        heldout = " → ".join(f"{loss:.4g}" for _, loss in stage.heldout) or "not measured"
        lines.append((losses.cell, stage.name, f"{ends[0]:.1f} to {ends[1]:.1f} %", *means, heldout))
    return lines
