"""The reproduction table: what is published of a method, its official weights re-evaluated here, and retrained here.

What may be compared: `published.why_not`. When a number is reproduced, within tolerance or not: `judged`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lavita.metrics.table import metric_words
from lavita.report.published import Known, Reported, dataset_of, frames_of, kind_of, read_known, read_reported, why_not
from lavita.results.published import PublishedFacts
from lavita.results.rows import Row, csv_text, shown, text_of

REPRODUCED, WITHIN, NOT_REPRODUCED = "reproduced", "within tolerance", "not reproduced"
NO_WEIGHTS, NOT_COMPARABLE = "no official weights", "not comparable"
TOLERANCE, NORMAL_95 = 0.10, 1.96


@dataclass(frozen=True)
class Score:
    """A score of ours: its name, mean over seeds, interval (None without one) and number of seeds."""

    metric: str
    value: float
    low: float | None
    high: float | None
    seeds: int


def score_of(rows: Sequence[Row]) -> Score:
    """Tidy rows of one metric and protocol, one per seed, as a score."""
    ends = [row.interval for row in rows if row.interval is not None]
    whole = len(ends) == len(rows)
    low, high = (min(low for low, _ in ends), max(high for _, high in ends)) if whole else (None, None)
    return Score(rows[0].metric, sum(row.value for row in rows) / len(rows), low, high, len(rows))


def judged(published: Reported, trained: Score | None, official: Score | None) -> tuple[str, str]:
    """The verdict and what it rests on, "" where that is plain. Rules: at the head of this file."""
    own = None if official is None else nearness(published, official)
    if trained is None:
        return own, "official weights only"
    if own == NOT_REPRODUCED:
        return NOT_COMPARABLE, f"official weights score {official.value:.4g} here: another scoring than published"
    found = nearness(published, trained)
    if found == NOT_REPRODUCED and official is None:
        return NO_WEIGHTS, "off by more than tolerance; training and scoring can't be distinguished"
    return found, ""


def nearness(published: Reported, score: Score) -> str:
    """How near a score comes to a published number: reproduced, within tolerance or not reproduced."""
    low, high = (score.value, score.value) if score.low is None else (score.low, score.high)
    if score.low is not None and low <= published.value <= high:
        return REPRODUCED
    if published.seen_std is not None:
        half = NORMAL_95 * published.seen_std
        within = low <= published.value + half and published.value - half <= high
    else:
        within = abs(score.value - published.value) <= TOLERANCE * published.value
    return WITHIN if within else NOT_REPRODUCED


REPRODUCTION_HEADING = "Published, re-scored, trained here"
KINDS = {"FVD": "fvd", "KVD": "kvd", "IS": "is", "FID": "fid", "R-FVD": "rfvd"}  # published name -> ours
USUAL_FRAMES = (1, 16)  # a longer clip's number takes part where a run scores clips as long
STAGES = {"train": "trained", "autoencoder": "trained", "official": "official"}  # stage of a row -> which number it is
COLUMNS = (
    "method,dataset,metric,published_metric,published,published_bound,published_std,published_variant,"
    "published_protocol,source,table,evidence,official,official_ci_low,official_ci_high,trained,trained_ci_low,"
    "trained_ci_high,seeds,delta,verdict,reason"
).split(",")
REPRODUCTION_TEXT = """\
What the authors print, their official weights scored here, and the method trained here. `reproduced`: the published
value lies in the 95 % interval of ours. `within tolerance`: the intervals overlap, or, where no deviation was seen in
print, ours is within 10 %. `no official weights`: off by more, with nothing to tell training from scoring. `not
comparable`: the last column says why, and no difference is given. Evidence is how well the published number itself was
seen (results/README.md): unverified means that nobody here has seen it in print.
"""


@dataclass(frozen=True)
class Reproduction:
    """One published number of a method beside ours. delta: ours less published, None unless they can be compared.

    verdict: one of the five of verdict.py. reasons: why nothing can be compared, or what a verdict rests on.
    """

    method: str
    published: Reported
    official: Score | None
    trained: Score | None
    delta: float | None
    verdict: str
    reasons: tuple[str, ...]


def reproductions(
    rows: Sequence[Row], reported: Sequence[Reported] | None = None, known: Known | None = None
) -> list[Reproduction]:
    """Every published number of the rows' methods on the rows' data set, in the order of the rows.

    A row of a suite's choice (cell <method>-<choice>-s<seed>) is
    no published setting and takes no part. reported, known: what the repository says, unless given.
    """
    reported = read_reported() if reported is None else reported
    known = read_known({row.method for row in rows}) if known is None else known
    return [
        side_by_side(method, number, own, known)
        for (method, dataset), own in own_rows(rows).items()
        for number in published_of(method, dataset, reported, known)
        if number.frames in USUAL_FRAMES or number.frames in {frames_of(row) for row in own}
    ]


def published_facts(methods: set[str], dataset: str) -> PublishedFacts:
    """What the repository says today of the published numbers of these methods, for a run's plan: its tables then
    follow from its folder alone, whatever the repository says later.
    """
    known, reported = read_known(methods), read_reported()
    numbers = [number for method in sorted(methods) for number in published_of(method, dataset, reported, known)]
    return PublishedFacts(tuple(numbers), known)


def own_rows(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows of each method itself and of its official weights, by (method, data set)."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.stage == "official" or row.label == row.method:
            found.setdefault((row.method, dataset_of(row.dataset)), []).append(row)
    return found


def published_of(method: str, dataset: str, reported: Sequence[Reported], known: Known) -> list[Reported]:
    """A method's published scores on a data set, by the metrics that a run can have."""
    names, title = known.published_as.get(method, ()), known.titles.get(dataset, dataset)
    return [
        one
        for one in reported
        if one.own and one.dataset == title and one.metric in KINDS
        if one.method in names or f"{one.method}: {one.variant}" in names
    ]


def side_by_side(method: str, published: Reported, rows: Sequence[Row], known: Known) -> Reproduction:
    """A published number beside the score of ours that comes nearest to being comparable with it."""
    settings: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in rows:
        if row.status == "ok" and row.stage in STAGES and kind_of(row) == KINDS[published.metric]:
            sides = settings.setdefault((row.metric, row.protocol_hash), {})
            sides.setdefault(STAGES[row.stage], []).append(row)
    if not settings:
        failed = tuple(dict.fromkeys(f"{row.status}: {row.reason}" for row in rows if row.status != "ok"))
        reasons = failed or (f"no {KINDS[published.metric]} of it here",)
        return Reproduction(method, published, None, None, None, NOT_COMPARABLE, reasons)

    def against(sides: Mapping[str, Sequence[Row]]) -> tuple[str, ...]:
        every = [why_not(row, published, known) for side in sides.values() for row in side]
        return tuple(dict.fromkeys(reason for reasons in every for reason in reasons))

    sides = min(settings.values(), key=lambda one: len(against(one)))
    trained, official = (score_of(sides[side]) if side in sides else None for side in ("trained", "official"))
    reasons = against(sides)
    if reasons:
        return Reproduction(method, published, official, trained, None, NOT_COMPARABLE, reasons)
    verdict, rests_on = judged(published, trained, official)
    delta = None if verdict == NOT_COMPARABLE else (trained or official).value - published.value
    return Reproduction(method, published, official, trained, delta, verdict, (rests_on,) if rests_on else ())


def reproduction_csv(numbers: Sequence[Reproduction]) -> str:
    """published.csv: a head of COLUMNS, a line per published number."""
    lines = [list(COLUMNS)]
    for one in numbers:
        p, ours = one.published, one.trained or one.official
        row = {"method": one.method, "dataset": p.dataset, "metric": ours.metric if ours else None}
        row |= {"published_metric": metric_text(p), "published": p.value, "published_bound": p.bound}
        row |= {"published_std": p.std, "published_variant": p.variant, "published_protocol": p.protocol}
        row |= {"source": p.source, "table": p.table, "evidence": p.evidence}
        for name, score in (("official", one.official), ("trained", one.trained)):
            values = (score.value, score.low, score.high) if score else (None, None, None)
            row |= dict(zip((name, f"{name}_ci_low", f"{name}_ci_high"), values, strict=True))
        row |= {"seeds": ours.seeds if ours else None, "delta": one.delta, "verdict": one.verdict}
        row |= {"reason": "; ".join(one.reasons)}
        lines.append([text_of(row[column]) for column in COLUMNS])
    return csv_text(lines)


def reproduction_markdown(rows: Sequence[Row], numbers: Sequence[Reproduction]) -> str:
    """The section under HEADING of table.md: what holds for all lines in one line, a table, and who has no number."""
    seen = [one for one in numbers if one.trained or one.official]
    common: tuple[str, ...] = ()
    if seen and all(one.verdict == NOT_COMPARABLE for one in numbers):
        common = tuple(why for why in seen[0].reasons if all(why in one.reasons for one in seen))
    parts = [REPRODUCTION_TEXT] if numbers else []
    if common:
        parts.append(f"No score of this run can be compared with a published number: {'; '.join(common)}.\n")
    if numbers:
        head = ("method", "metric", "published", "evidence", "source", "protocol", "official weights", "trained here")
        lines = [(*head, "difference", "verdict", "why"), ("---",) * (len(head) + 3)]
        lines += [line_of(one, common) for one in numbers]
        parts.append("".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines))
    without = dict.fromkeys(method for method, _ in own_rows(rows) if method not in {one.method for one in numbers})
    if without:
        parts.append(f"No number of its authors on this data set is known: {', '.join(without)}.\n")
    choices = dict.fromkeys(row.label for row in rows if row.label != row.method)
    if choices:
        parts.append(f"No published setting, hence left out: {', '.join(choices)}.\n")
    return "\n".join(parts)


def line_of(one: Reproduction, common: Sequence[str]) -> tuple[str, ...]:
    """A line of the table; reasons that stand above it are not said again."""
    p = one.published
    value = f"{p.bound} {p.value:.10g}".strip() + ("" if p.std is None else f" ± {p.std:g}")
    sign = "+" if one.delta is not None and one.delta >= 0 else ""
    difference = "none given" if one.delta is None else f"{sign}{shown(one.delta)} ({one.delta / p.value:+.1%})"
    name = f"{one.method} ({': '.join(filter(None, (p.method, p.variant)))})"
    source = f"{p.source}, {p.table}".removesuffix(", ")
    why = "; ".join(why for why in one.reasons if why not in common) or ("as above" if common else "comparable")
    return (
        name, metric_text(p), value, p.evidence, source, p.protocol or "not known", score_text(one.official),
        score_text(one.trained), difference, one.verdict, why,
    )  # fmt: skip


def metric_text(published: Reported) -> str:
    return f"{published.metric}, {published.frames} frame{'s' if published.frames > 1 else ''}"


def score_text(score: Score | None) -> str:
    """A score with its name and interval."""
    if score is None:
        return "not scored"
    interval = "" if score.low is None else f" ({shown(score.low)} to {shown(score.high)})"
    seeds = f", {score.seeds} seeds" if score.seeds > 1 else ""
    return f"{shown(score.value)}{interval}, {metric_words(score.metric)}{seeds}"
