"""The tables of a run: scores and costs of every row, with what is not built, not run or failed in its place."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import pandas as pd

from lavita.report.charts import training_seconds
from lavita.report.page.html import Html, breakable, details, element, html, section, table, together
from lavita.report.page.prose import prose
from lavita.report.significance import PAIRS_HEADING as PAIRS
from lavita.report.significance import significance_lines
from lavita.report.tables import COST, LEGEND, UNTRAINED, for_readers
from lavita.report.write import Tables
from lavita.results.run_folder import RunFolder

STANDARD = re.compile(r"[a-z-]+_n\d+_f\d+")  # a metric whose name names no network is made with the standard one
ROW = ("method", "seed", "status", "remark")
SECONDS, SEEDS = "training (s)", "Spread over training seeds"


def is_standard(metric: str) -> bool:
    """Whether a metric was made with the network that published numbers are made with."""
    return bool(STANDARD.fullmatch(metric))


def scores_section(run: RunFolder, tables: Tables, notes: dict[str, str]) -> Html:
    """Every block's scores and costs, then what may be said of their differences."""
    parts = []
    for number, (facts, frame) in enumerate(tables.blocks):
        title = f"Table {number + 1}" if len(tables.blocks) > 1 else ""
        parts.append(block(run, facts, frame, tables.best, title, first=number == 0))
    parts.append(details("What the columns mean", prose(LEGEND), class_="legend"))
    for heading in ("Which rows differ", PAIRS):
        if heading in notes:
            parts.append(element("h3", heading))
            parts.append(prose(notes[heading], heading))
    if SEEDS in notes:
        parts.append(details(SEEDS, prose(notes[SEEDS], SEEDS)))
    if not significance_lines(run.records) and PAIRS not in notes:
        parts.append(element("p", "Fewer than two rows can be compared here, so nothing is said of differences."))
    return section("scores", "Scores and costs", *parts)


def block(
    run: RunFolder, facts: str, frame: pd.DataFrame, best: Collection[tuple[str, str]], title: str, first: bool
) -> Html:
    """The two tables of the rows that may be compared with each other."""
    texts = for_readers(frame, best, lambda text: f"\0{text}\1")
    scores = [name for name in texts.columns if name not in (*ROW, *COST.values()) and not name.endswith(UNTRAINED)]
    absent = absent_rows(run) if first else []
    warning = comparability({name.split(" ")[0] for name in scores})
    spent = {record["cell"]: training_seconds(record) for record in run.records}
    seconds = [spent.get(f"{line['method']}-s{line['seed']}") for _, line in frame.iterrows()]
    costs = texts.assign(**{SECONDS: ["not measured" if value is None else f"{value:.1f}" for value in seconds]})
    clips, flops, *others = COST.values()
    return together(
        [
            element("h3", title) if title else None,
            element("p", facts[0].upper() + facts[1:] + ".", class_="facts-line"),
            element("p", element("strong", warning), class_="caution") if warning else None,
            table(
                together([element("strong", "Scores"), " with 95 % intervals. ", protocol_of(facts)]),
                [breakable(name) for name in ("row", *scores, "remark")],
                [
                    *rows(frame, texts, scores, "remark"),
                    *[wide_row(name, "", status, said, len(scores) + 1, "absent") for name, status, said in absent],
                ],
                f"Scores {title}".strip(),
                "scores",
            ),
            table(
                together([element("strong", "Costs"), f" of the same rows; {SECONDS} is all stages with the codec."]),
                [breakable(name) for name in ("row", clips, flops, SECONDS, *others)],
                rows(frame, costs, [clips, flops, SECONDS, *others]),
                f"Costs {title}".strip(),
                "costs",
            ),
        ]
    )


def comparability(metrics: Collection[str]) -> str:
    """The caution that stands at a table whose scores no published number may be held against."""
    other = sorted(name.split("_")[1] for name in metrics if name.startswith("fvd_") and not is_standard(name))
    if not other:
        return ""
    return (
        f"Not comparable with any published FVD: fvd_{other[0]} is made with the network “{other[0]}”, not with the "
        "standard I3D. Compare rows of this table with each other only."
    )


def protocol_of(facts: str) -> str:
    """Protocol and extractor, as the caption says them."""
    found = re.search(r"protocol .*?\); extractor [^;]*", facts)
    return f"{found[0][0].upper()}{found[0][1:]}." if found else ""


def rows(frame: pd.DataFrame, texts: pd.DataFrame, columns: Sequence[str], remark: str = "") -> list[Html]:
    """The rows of a table; one that did not end well says why across all columns."""
    made = []
    for (_, line), (_, text) in zip(frame.iterrows(), texts.iterrows(), strict=True):
        seed = f"seed {text['seed']}"
        if line["status"] != "ok":
            reason = str(line["remark"]).partition(": ")[2] or "no reason is recorded"
            made.append(wide_row(text["method"], seed, line["status"], reason, len(columns) + bool(remark), "bad"))
            continue
        cells = [element("td", score(text, name), class_="number") for name in columns]
        end = [element("td", text[remark], class_="remark")] if remark else []
        made.append(element("tr", row_head(text["method"], seed, line["status"]), *cells, *end))
    return made


def row_head(name: str, seed: str, status: str) -> Html:
    """What a row is: one column, so that a phone has room for the numbers."""
    chip = element("span", status, class_=f"status {slug(status)}")
    return element("th", name, element("span", seed, " " if seed else None, chip, class_="state"), scope="row")


def wide_row(name: str, seed: str, status: str, said: Any, columns: int, kind: str) -> Html:
    """A row without numbers: what is said of it stands across the columns."""
    rest = element("td", element("span", said, class_="across"), colspan=columns)
    return element("tr", row_head(name, seed, status), rest, class_=kind)


def score(text: pd.Series, name: str) -> Html:
    """A number, bold where it is marked so; below it its interval and the score of the untrained start."""
    value, bracket, interval = text[name].partition(" (")
    number = html(value.strip("\0\1"))
    below = [f"({interval}"] if bracket else []
    below += [f"untrained {text[name + UNTRAINED]}"] if name + UNTRAINED in text else []
    shown = element("strong", number) if value.startswith("\0") else number
    return together([shown, *[together([" ", element("small", part)]) for part in below]])


def slug(words: Any) -> str:
    """A class name of a status."""
    return re.sub(r"[^a-z]+", "-", str(words).lower())


def absent_rows(run: RunFolder) -> list[tuple[str, str, Any]]:
    """(name, status, what is said) of the suite's rows that this folder has not, and of systems that are not built."""
    there = {record["label"] for record in run.records}
    missing = [
        (label, "not run", "a row of this suite that was not run into this folder")
        for label in run.plan["order"]
        if label not in there
    ]
    listed = []
    for one in run.plan.get("not_yet", []):
        link = [" ", element("a", one["source"], href=one["source"], rel="noreferrer")] if one["source"] else []
        why = f": {one['left_out']}" if one["left_out"] else ""
        status = "left out" if one["left_out"] else "not yet"
        listed.append((one["name"], status, together([one["title"], why, *link])))
    return missing + listed
