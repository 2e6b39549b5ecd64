"""The page: head, navigation and sections. It loads nothing: style, script and pictures stand in it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from lavita.report.notes import NOT_YET
from lavita.report.page.cards import cards_section
from lavita.report.page.charts import cost_section, losses_section
from lavita.report.page.clips import clips_section, first_stages_section
from lavita.report.page.html import Html, element, section, together
from lavita.report.page.prose import prose
from lavita.report.page.scores import scores_section
from lavita.report.page.sources import audit_section, sanity_section, sources_section
from lavita.report.page.summary import summary_section
from lavita.report.reproduction import REPRODUCTION_HEADING as PUBLISHED
from lavita.report.significance import PAIRS_HEADING as PAIRS
from lavita.report.write import tables_of_run
from lavita.results.audit_line import AuditLine
from lavita.results.records import rows_of
from lavita.results.run_folder import RunFolder

HERE = Path(__file__).parent
# Notes that have a place of their own in the page, or that the cards say better; others follow under their headings.
PLACED = {
    "What this metric can see", "Data", "Stages", "First stages", "Initial weights", "Which rows differ", PAIRS,
    "Deviations from the authors' settings", "Spread over training seeds", "Other attempts", PUBLISHED, NOT_YET,
}  # fmt: skip
NAVIGATION = (
    ("short", "In short"),
    ("scores", "Scores"),
    ("published", "Published"),
    ("cost", "Cost"),
    ("clips", "Clips"),
    ("losses", "Losses"),
    ("methods", "Methods"),
    ("first-stages", "First stages"),
    ("sanity", "Metric"),
    ("notes", "Notes"),
    ("audit", "Audit"),
    ("sources", "Sources"),
)


def report_html(run: RunFolder, audit: Sequence[AuditLine] | None) -> str:
    """report.html of a results folder. The same folder gives the same bytes.

    audit: its lines, or None where it was not run.
    """
    tables = tables_of_run(run)
    rows = [row for record in run.records for row in rows_of(record)]
    notes = tables.notes
    sections = [
        summary_section(run, rows, tables, audit),
        scores_section(run, tables, notes),
        section("published", PUBLISHED, prose(notes.get(PUBLISHED, ""), "Published numbers beside ours")),
        cost_section(run, rows),
        clips_section(run),
        losses_section(run),
        cards_section(run),
        first_stages_section(run),
        sanity_section(run, notes),
        *further(notes),
        audit_section(run, audit),
        sources_section(run, rows, notes),
    ]
    dataset = str(rows[0]["dataset"]) if rows else "no rows"
    header = element(
        "header",
        element("p", "Report of a comparison of video diffusion methods", class_="kind"),
        element("h1", run.plan["title"]),
        element("p", f"Suite {run.plan['suite']}, tier {run.plan['tier']}, data: {dataset}. ", class_="lead"),
    )
    there = [(place, name) for place, name in NAVIGATION if place != "notes" or further(notes)]
    links = [element("li", element("a", name, href=f"#{place}")) for place, name in there]
    body = element(
        "body",
        element("a", "Skip to the results", href="#short", class_="skip"),
        header,
        element("nav", element("ul", *links), aria_label="Sections"),
        element("main", *sections),
        element("footer", element("p", "Made from the records of the run by run.py; not to be edited. Digest: ",
                                  element("code", run.digest, class_="digest"))),
        element("script", Html(script())),
    )  # fmt: skip
    page = element("html", head(f"{run.plan['title']}, {dataset}"), body, lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def further(notes: dict[str, str]) -> list[Html]:
    """Notes that have no place of their own: shown all the same."""
    texts = [
        together([element("h3", heading), prose(text, heading)])
        for heading, text in notes.items()
        if heading not in PLACED
    ]
    return [section("notes", "Further notes", *texts)] if texts else []


def head(title: str) -> Html:
    """What stands before the page; its policy lets a browser load nothing and run only the page's own script."""
    digest = base64.b64encode(hashlib.sha256(script().encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=Html(policy)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("link", rel="icon", href="data:,"),
        element("style", Html(style())),
    )


def style() -> str:
    return (HERE / "page.css").read_text(encoding="utf-8")


def script() -> str:
    return (HERE / "page.js").read_text(encoding="utf-8")
