"""report.html: what the sections show, as typed values, written out by templates. It loads nothing: style, script and
pictures stand in it.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from lavita.report.noise import NOISE_HEADING
from lavita.report.notes import FIRST_STAGES_TEXT, NOT_YET
from lavita.report.page.charts import CostCharts, Losses, cost_charts, loss_charts
from lavita.report.page.clips import Figure, clip_figures, first_stage_figures, first_stages_table
from lavita.report.page.methods import Card, cards_of, settings_matrix
from lavita.report.page.scores import Scores, scores_of
from lavita.report.page.sources import Audit, Sources, audit_of, sources_of
from lavita.report.page.summary import Point, summary_of
from lavita.report.page.text import Block, Table, is_number, prose, slug
from lavita.report.reproduction import REPRODUCTION_HEADING as PUBLISHED
from lavita.report.significance import PAIRS_HEADING as PAIRS
from lavita.report.write import tables_of_run
from lavita.results.audit_line import AuditLine
from lavita.results.records import rows_of
from lavita.results.run_folder import RunFolder

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).parent
SENSITIVITY = "Metric sensitivity"
# Notes that have a place of their own in the page, or that the cards say better; others follow under their headings.
PLACED = {
    SENSITIVITY, NOISE_HEADING, "Data", "Stages", "First stages", "Initial weights", "Which rows differ", PAIRS,
    "Deviations from the authors' settings", "Spread over training seeds", "Other attempts", PUBLISHED, NOT_YET,
}  # fmt: skip


@dataclass(frozen=True)
class Page:
    """All that the templates write. policy: what a browser may load and run; style, script: as they are; audit: None
    where it was not run; notes: those without a place of their own, under their headings.
    """

    title: str
    suite: str
    tier: str
    dataset: str
    digest: str
    policy: str
    style: Markup
    script: Markup
    summary: list[Point]
    scores: Scores
    published_heading: str
    published: list[Block]
    cost: list[CostCharts]
    clips: list[Figure]
    losses: Losses
    settings: Table | None
    cards: list[Card]
    first_stages_text: list[Block]
    first_stages: Table | None
    first_stage_figures: list[Figure]
    sensitivity: list[Block]
    noise_heading: str
    noise: list[Block]
    data: list[Block]
    notes: list[tuple[str, list[Block]]]
    audit: Audit | None
    sources: Sources


def report_html(run: RunFolder, audit: Sequence[AuditLine] | None) -> str:
    """report.html of a results folder. The same folder gives the same bytes.

    audit: its lines, or None where it was not run.
    """
    return environment().get_template("page.html.j2").render(page=page_of(run, audit))


@functools.cache
def environment() -> Environment:
    """The templates. Whatever they write is escaped unless it is Markup; a name that is not there raises."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # only a process that makes a page needs it

    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["slug"] = slug
    made.tests["numeric"] = is_number
    return made


def page_of(run: RunFolder, audit: Sequence[AuditLine] | None) -> Page:
    """What the page shows of a results folder."""
    tables = tables_of_run(run)
    rows = [row for record in run.records for row in rows_of(record)]
    notes = tables.notes
    script = (HERE / "page.js").read_text(encoding="utf-8")
    return Page(
        title=run.plan.title,
        suite=run.plan.suite,
        tier=run.plan.tier,
        dataset=rows[0].dataset if rows else "no rows",
        digest=run.digest,
        policy=policy(script),
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        summary=summary_of(run, rows, tables, audit),
        scores=scores_of(run, tables),
        published_heading=PUBLISHED,
        published=prose(notes.get(PUBLISHED, ""), "Published numbers beside ours"),
        cost=cost_charts(run, rows),
        clips=clip_figures(run),
        losses=loss_charts(run),
        settings=settings_matrix(run),
        cards=cards_of(run),
        first_stages_text=prose(FIRST_STAGES_TEXT),
        first_stages=first_stages_table(run.records),
        first_stage_figures=first_stage_figures(run),
        sensitivity=prose(notes.get(SENSITIVITY, ""), "Real clips against real clips, uncorrupted and corrupted"),
        noise_heading=NOISE_HEADING,
        noise=prose(notes.get(NOISE_HEADING, ""), NOISE_HEADING),
        data=prose(notes.get("Data", ""), "Data"),
        notes=[(heading, prose(text, heading)) for heading, text in notes.items() if heading not in PLACED],
        audit=None if audit is None else audit_of(audit),
        sources=sources_of(run, rows, notes),
    )


def policy(script: str) -> str:
    """The content security policy: a browser loads nothing and runs only the page's own script."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
