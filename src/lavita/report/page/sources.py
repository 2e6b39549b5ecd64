"""What lets a reader check a run: the audit, what the metric sees, and where each number came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from lavita.report.page.html import Html, breakable, details, element, points, section, table, together
from lavita.report.page.prose import prose
from lavita.report.page.scores import slug
from lavita.results.audit_line import FAIL, VERDICTS, AuditLine
from lavita.results.records import text_of
from lavita.results.run_folder import RunFolder

ENDS = ("ci_low", "ci_high")
FILES = {  # what lies beside the page, and what for
    "rows.csv": "every score, a row each, with all that is needed to judge it",
    "table.md": "the tables as Markdown",
    "table.csv": "the tables as CSV",
    "table.tex": "the tables for a paper",
    "quality_cost.svg": "the first chart",
    "pairs.csv": "each row against the first",
    "published.csv": "published numbers beside ours",
    "run.json": "the plan",
}


def sanity_section(run: RunFolder, notes: Mapping[str, str]) -> Html:
    """Real clips against spoilt real clips: whether the metric could see what matters."""
    intro = (
        "Half of the real clips against the other half, as it is and spoilt. A metric that does not tell spoilt clips "
        "from real ones can't tell methods apart in that respect either."
    )
    text = notes.get("What this metric can see", "")
    return section(
        "sanity",
        "What the metric can see",
        element("p", intro),
        prose(text, "Real clips against real clips, whole and spoilt"),
        element("h3", "Data"),
        prose(notes.get("Data", ""), "Data"),
    )


def audit_section(run: RunFolder, audit: Sequence[AuditLine] | None) -> Html:
    """The lines of the audit, those that failed first; or that it was not run."""
    command = element("code", f"python benchmarks/audit.py DIR --digest {run.digest}", class_="command")
    how = together(
        [
            element("p", "To check this folder (DIR) yourself, without a network:"),
            element("p", command),
            element(
                "p",
                "The digest is one hash over all records of the run, and each record holds the hash of every file of "
                "its cell. Without the digest the audit finds every edit that is not carried through consistently; "
                "with it, every edit. Take the digest from where the authors published it, not from this page alone.",
            ),
        ]
    )
    if audit is None:
        said = element("p", element("strong", "The audit was not run when this page was made."), class_="caution")
        return section("audit", "Audit", said, how)
    counts = ", ".join(f"{sum(line.verdict == verdict for line in audit)} {verdict}" for verdict in VERDICTS)
    bad = [line for line in audit if line.verdict == FAIL]
    said = f"Made by the run of itself, from this folder and without the digest: {len(audit)} checks, {counts}."
    parts = [element("p", said)]
    if bad:
        parts.append(lines_table("What failed.", bad))
    parts.append(details(f"All {len(audit)} checks", lines_table("All checks.", audit)))
    return section("audit", "Audit", *parts, how)


def lines_table(caption: str, lines: Sequence[AuditLine]) -> Html:
    """Lines of the audit."""
    made = [
        (line.check, line.where, element("span", line.verdict, class_=f"status {slug(line.verdict)}"), line.text)
        for line in lines
    ]
    return table(caption, ("check", "where", "verdict", "what was found"), made, f"Audit: {caption}", "audit")


def sources_section(run: RunFolder, rows: Sequence[Mapping[str, Any]], notes: Mapping[str, str]) -> Html:
    """Where each number came from, down to the file."""
    shown = [
        (
            row["cell"],
            row["stage"] or "none",
            breakable(row["metric"] or "none"),
            text_of(row["value"]) or row["status"],
            " to ".join(f"{float(row[key]):.6g}" for key in ENDS) if row["ci_low"] not in ("", None) else "",
            text_of(row["n_real"]),
            text_of(row["n_generated"]),
            f"{str(row['protocol']).partition(' (')[0]} {row['protocol_hash']}",
            f"{row['extractor']} {str(row['extractor_hash'])[:12]}",
        )
        for row in rows
    ]
    columns = ("cell", "stage", "metric", "value", "interval", "n real", "n generated", "protocol", "extractor")
    every = table(
        "Every row of rows.csv: values at full precision, protocols and extractors with their hashes.",
        columns,
        shown,
        "Every number",
        "ledger",
    )
    parts = [
        element("p", "Digest of the run: ", element("code", run.digest, class_="digest")),
        element("p", "Beside this page, in the results folder:"),
        files(run),
        details(f"Every number ({len(shown)})", every),
        *[origin(run, attempt.name, attempt.record) for attempt in run.cells],
        *protocols(run),
    ]
    if "Other attempts" in notes:
        parts += [element("h3", "Attempts that do not count"), prose(notes["Other attempts"], "Other attempts")]
    return section("sources", "Where each number came from", *parts)


def files(run: RunFolder) -> Html:
    """Links to what lies beside the page."""
    made = [
        element("li", element("a", name, href=name), f": {what}")
        for name, what in FILES.items()
        if (run.path / name).is_file() or name == "rows.csv"
    ]
    return element("ul", *made)


def origin(run: RunFolder, folder: str, record: Mapping[str, Any]) -> Html:
    """Everything that decided a cell's numbers."""
    row = record["row"]
    place = f"cells/{quote(folder)}"
    dirty = {"true": " with uncommitted changes", "false": ""}.get(str(row.get("dirty")), " (changes unknown)")
    pairs = [
        ("Record", together([element("a", f"{place}/record.json", href=f"{place}/record.json"),
                             ", which holds the sha256 of every file of the cell"])),
        ("Features", f"{place}/samples.npz, against shared/{record['shared']}/real.npz"),
        ("Code", f"commit {row.get('commit') or 'unknown'}{dirty}; hash of the sources {record.get('code_hash', '')}"),
        ("Configuration", f"hash {row.get('config_hash') or 'unknown'}; {place}/config.yaml"),
        ("Weights", f"sha256 {row.get('weights_hash') or 'none'}"),
        ("Data", f"{row.get('dataset', '')}; fingerprint {row.get('data_fingerprint', '')}"),
        ("Machine", row.get("hardware", "")),
        ("Versions", row.get("versions", "")),
        ("Begun", row.get("started_at", "")),
    ]  # fmt: skip
    return details(f"{record['cell']} ({record['status']})", points(pairs))


def protocols(run: RunFolder) -> list[Html]:
    """Every field of each protocol."""
    made = []
    for one in {one["protocol_hash"]: one for one in run.used_shared.values()}.values():
        fields = [(breakable(name), text_of(value) or "none") for name, value in sorted(one["protocol"].items())]
        title = f"Protocol {one['protocol_name']} ({one['protocol_hash']}), every field"
        made.append(details(title, table("Fields of the protocol.", ("field", "value"), fields, title)))
    return made
