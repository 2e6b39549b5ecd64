"""The tables of scores and costs: every row, and what is not built, not run or failed in its place."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pandas as pd

from lavita.metrics.table import is_metric, metric_words, parse_key
from lavita.report.charts import SPEED_COLUMNS, speed_texts, training_seconds
from lavita.report.page.text import WEB, Block, prose
from lavita.report.significance import PAIRS_HEADING as PAIRS
from lavita.report.significance import significance_lines
from lavita.report.tables import COST, UNTRAINED, column_words, for_readers, legend
from lavita.report.write import Tables
from lavita.results.rows import shown
from lavita.results.run_folder import RunFolder

ROW = ("method", "seed", "status", "remark")
SECONDS, SEEDS = "training (s)", "Spread over training seeds"
BEST = "\0"  # stands before a score that is the best of its column, until it is a Score


@dataclass(frozen=True)
class Score:
    """value: the number as written; below: its interval and the score of the untrained start, where there are any."""

    value: str
    best: bool
    below: tuple[str, ...]


@dataclass(frozen=True)
class ScoreRow:
    """A row of a table. kind: "" where it has scores; else "bad" (it did not complete) or "absent" (not in this
    folder), and what is said of it stands across the columns, with the address of its paper if that is of the web.
    """

    name: str
    seed: str
    status: str
    kind: str = ""
    scores: tuple[Score, ...] = ()
    remark: str = ""
    said: str = ""
    source: str = ""


@dataclass(frozen=True)
class Comparison:
    """The two tables of rows that may be compared with each other. title: "" where there is one pair of tables only;
    facts: what the rows share; warning: whether published numbers may stand beside them; columns: without the first.
    """

    title: str
    facts: str
    warning: str
    protocol: str
    score_columns: tuple[str, ...]
    score_rows: tuple[ScoreRow, ...]
    cost_columns: tuple[str, ...]
    cost_rows: tuple[ScoreRow, ...]


@dataclass(frozen=True)
class Scores:
    """differences: what may be said of them, under headings; seeds: the spread over training seeds, if it is known."""

    comparisons: tuple[Comparison, ...]
    seconds: str
    legend: list[Block]
    differences: tuple[tuple[str, list[Block]], ...]
    seeds_heading: str
    seeds: list[Block]
    comparable: bool


def scores_of(run: RunFolder, tables: Tables) -> Scores:
    """Every comparison's scores and costs, then what may be said of their differences."""
    notes = tables.notes
    several = len(tables.blocks) > 1
    comparisons = [
        comparison(run, facts, frame, tables.best, f"Table {number}" if several else "", first=number == 1)
        for number, (facts, frame) in enumerate(tables.blocks, start=1)
    ]
    differences = [
        (heading, prose(notes[heading], heading)) for heading in ("Which rows differ", PAIRS) if heading in notes
    ]
    return Scores(
        comparisons=tuple(comparisons),
        seconds=SECONDS,
        legend=prose(legend([name for _, frame in tables.blocks for name in frame.columns])),
        differences=tuple(differences),
        seeds_heading=SEEDS,
        seeds=prose(notes.get(SEEDS, ""), SEEDS),
        comparable=bool(significance_lines(run.records)) or PAIRS in notes,
    )


def comparison(
    run: RunFolder, facts: str, frame: pd.DataFrame, best: Collection[tuple[str, str]], title: str, first: bool
) -> Comparison:
    """The scores and costs of the rows of a frame; what is absent from the folder stands in the first one."""
    texts = for_readers(frame, best, lambda text: BEST + text)
    scores = [name for name in texts.columns if name not in (*ROW, *COST.values()) and not name.endswith(UNTRAINED)]
    spent = {record.cell: training_seconds(record) for record in run.records}
    seconds = [spent.get(f"{line['method']}-s{line['seed']}") for _, line in frame.iterrows()]
    costs = texts.assign(**{SECONDS: ["not measured" if value is None else shown(value) for value in seconds]})
    last = {record.cell: record.stages[-1] for record in run.records if record.stages}
    speeds = [speed_texts(last.get(f"{line['method']}-s{line['seed']}")) for _, line in frame.iterrows()]
    costs = costs.assign(**dict(zip(SPEED_COLUMNS, zip(*speeds, strict=True), strict=True)))
    clips, flops, *others = COST.values()
    cost_columns = [clips, flops, SECONDS, *SPEED_COLUMNS, *others]
    return Comparison(
        title=title,
        facts=f"{facts[0].upper()}{facts[1:]}.",
        warning=comparability({name.split(" ")[0] for name in scores}),
        protocol=protocol_of(facts),
        score_columns=tuple(map(column_words, scores)),
        score_rows=(*rows_of(frame, texts, scores), *(absent_rows(run) if first else ())),
        cost_columns=tuple(cost_columns),
        cost_rows=tuple(rows_of(frame, costs, cost_columns)),
    )


def comparability(metrics: Collection[str]) -> str:
    """The warning at a table whose scores must not be compared with published numbers."""
    other = sorted(name for name in metrics if is_metric(name, "fvd") and not parse_key(name).is_standard)
    if not other:
        return ""
    return (
        f"Not comparable with any published FVD: {metric_words(other[0])} is made with the network "
        f"“{parse_key(other[0]).extractor}”, not with the standard I3D. Compare rows of this table with each other "
        "only."
    )


def protocol_of(facts: str) -> str:
    """Protocol and extractor, as the caption says them."""
    found = re.search(r"protocol .*?\); extractor [^;]*", facts)
    return f"{found[0][0].upper()}{found[0][1:]}." if found else ""


def rows_of(frame: pd.DataFrame, texts: pd.DataFrame, columns: Sequence[str]) -> list[ScoreRow]:
    """The rows of a table; one that did not complete says why."""
    made = []
    for (_, line), (_, text) in zip(frame.iterrows(), texts.iterrows(), strict=True):
        head = {"name": text["method"], "seed": f"seed {text['seed']}", "status": line["status"]}
        if line["status"] != "ok":
            reason = str(line["remark"]).partition(": ")[2] or "no reason is recorded"
            made.append(ScoreRow(**head, kind="bad", said=reason))
        else:
            scores = tuple(score(text, name) for name in columns)
            made.append(ScoreRow(**head, scores=scores, remark=text["remark"]))
    return made


def score(text: pd.Series, name: str) -> Score:
    """A number with what stands below it."""
    value, bracket, interval = text[name].partition(" (")
    below = [f"({interval}"] if bracket else []
    below += [f"untrained {text[name + UNTRAINED]}"] if name + UNTRAINED in text else []
    return Score(value.removeprefix(BEST), value.startswith(BEST), tuple(below))


def absent_rows(run: RunFolder) -> list[ScoreRow]:
    """The suite's rows that this folder has not, and systems that are not built."""
    there = {record.label for record in run.records}
    missing = [
        ScoreRow(label, "", "not run", "absent", said="a row of this suite that was not run into this folder")
        for label in run.plan.order
        if label not in there
    ]
    listed = []
    for one in run.plan.not_yet:
        status = "left out" if one.left_out else "not yet"
        said = f"{one.title}: {one.left_out}" if one.left_out else one.title
        source = one.source if one.source.startswith(WEB) else ""
        listed.append(ScoreRow(one.name, "", status, "absent", said=said, source=source))
    return missing + listed
