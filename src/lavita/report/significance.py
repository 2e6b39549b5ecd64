"""Whether a suite can distinguish two of its rows: the ratio of their scores against the spread from seed to seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

from lavita.metrics.confidence import BETTER, LEVEL, NOT_SIGNIFICANT, Interval, compare_intervals, student_quantile
from lavita.metrics.table import is_metric, metric_words
from lavita.report.tables import blocks, setting_of
from lavita.results.records import Record
from lavita.results.rows import Row, csv_text, shown, text_of
from lavita.results.scores import Score

COLUMNS = ("choice", "against", "metric", "seeds", "ratio", "ci_low", "ci_high", "verdict")
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Pair:
    """A row against the first: ratio of geometric means over seeds, its 95 % interval, and what that says."""

    choice: str
    against: str
    metric: str
    seeds: int
    ratio: float | None
    ci_low: float | None
    ci_high: float | None
    verdict: str


def compared(scores: Mapping[str, Mapping[int, float]], metric: str, lower_is_better: bool = True) -> list[Pair]:
    """Each row of scores (label -> seed -> value above 0, all by one protocol) against the first.

    A seed fixes data order, noise and starting weights of every row alike, so logarithms are compared seed by seed:
    value = row + seed + rest. The rest's variance is pooled over all rows that have every seed, and the interval is
    Student's t with (rows - 1)(seeds - 1) degrees of freedom; it is of one pair, not corrected for their number.
    Source: two-way layout without replication, Scheffe, The Analysis of Variance (1959), chapter 4.
    """
    labels = list(scores)
    seeds = sorted(set().union(*(scores[label] for label in labels)))
    full = [label for label in labels if set(scores[label]) == set(seeds)]
    base, others = labels[0], labels[1:]
    if len(seeds) < 2 or len(full) < 2:
        why = "one seed: the spread from seed to seed is unknown; give --seeds 0,1 or more"
        return [one_seed(scores, label, base, metric, why) for label in others]
    logs = {label: [math.log(scores[label][seed]) for seed in seeds] for label in full}
    freedom = (len(full) - 1) * (len(seeds) - 1)
    spread = math.sqrt(residual_squares(list(logs.values())) / freedom)
    half = student_quantile((1 + CONFIDENCE) / 2, freedom) * spread * math.sqrt(2 / len(seeds))
    pairs = []
    for label in others:
        if label not in full or base not in full:
            pairs.append(one_seed(scores, label, base, metric, "not every seed completed in both"))
            continue
        difference = mean(logs[label]) - mean(logs[base])
        low, high = math.exp(difference - half), math.exp(difference + half)
        pairs.append(
            Pair(label, base, metric, len(seeds), math.exp(difference), low, high, verdict(low, high, lower_is_better))
        )
    return pairs


def one_seed(scores: Mapping[str, Mapping[int, float]], label: str, base: str, metric: str, why: str) -> Pair:
    """A pair without an interval: the ratio over the seeds that both have, if any."""
    both = sorted(set(scores[label]) & set(scores[base]))
    logs = [math.log(scores[label][seed] / scores[base][seed]) for seed in both]
    return Pair(
        label,
        base,
        metric,
        len(both),
        math.exp(mean(logs)) if logs else None,
        None,
        None,
        f"not significantly different: {why}",
    )


def verdict(low: float, high: float, lower_is_better: bool) -> str:
    """What an interval of the ratio says."""
    if low <= 1 <= high:
        return "not significantly different at this size"
    return "significantly different: better" if (high < 1) == lower_is_better else "significantly different: worse"


def residual_squares(rows: Sequence[Sequence[float]]) -> float:
    """Sum of squares of what row means and column means leave of a table of numbers."""
    columns = list(zip(*rows, strict=True))
    grand = mean([mean(row) for row in rows])
    return sum(
        (value - mean(row) - mean(column) + grand) ** 2
        for row in rows
        for value, column in zip(row, columns, strict=True)
    )


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def pairs_of_rows(rows: Sequence[Row], order: Sequence[str]) -> list[Pair]:
    """Pairs of the trained rows' distances, protocol by protocol; what no protocol shares with the first row says so.

    order holds the labels of the suite's rows, the first being the base.
    """
    trained = [row for row in rows if row.stage == "train" and is_metric(row.metric, "fvd")]
    trained = [row for row in trained if row.value > 0]  # ratios and logarithms need it
    base = order[0]
    base_protocols = {row.protocol_hash for row in trained if row.label == base}
    pairs = []
    for metric in dict.fromkeys(row.metric for row in trained):
        scores: dict[str, dict[int, float]] = {}
        elsewhere: dict[str, str] = {}
        for row in sorted(trained, key=lambda row: order.index(row.label) if row.label in order else len(order)):
            if row.metric == metric and row.protocol_hash in base_protocols:
                scores.setdefault(row.label, {})[row.seed] = row.value
            elif row.metric == metric:
                elsewhere[row.label] = row.protocol
        if base in scores and len(scores) > 1:
            pairs += compared(scores, metric)
        for label, protocol in elsewhere.items():
            reason = f"not comparable: another protocol, {protocol}"
            pairs.append(Pair(label, base, metric, 0, None, None, None, reason))
    return pairs


PAIRS_HEADING = "Which rows this size can distinguish"
PAIRS_TEXT = """\
Each row against the first: ratio of the scores (geometric mean over the seeds) with its 95 % interval from the spread
from seed to seed, pooled over all rows. The interval is of one pair: of twenty equal choices about one is
significant by chance.
"""


def pairs_csv(pairs: list[Pair]) -> str:
    """pairs.csv, one line per pair."""
    lines = [[text_of(value) for value in astuple(pair)] for pair in pairs]
    return csv_text([list(COLUMNS), *lines])


def pairs_markdown(pairs: list[Pair]) -> str:
    """The section of table.md."""
    table = ["| choice | against | metric | seeds | what this run says |", "| --- | --- | --- | --- | --- |"]
    table += [f"| {p.choice} | {p.against} | {metric_words(p.metric)} | {p.seeds} | {sentence(p)} |" for p in pairs]
    return PAIRS_TEXT + "\n" + "\n".join(table)


def sentence(pair: Pair) -> str:
    """A pair's verdict with its numbers."""
    if pair.ratio is None:
        return pair.verdict
    interval = f" ({shown(pair.ci_low)} to {shown(pair.ci_high)})" if pair.ci_low is not None else ""
    return f"{pair.verdict}; ratio {shown(pair.ratio)}{interval}"


SIGNIFICANCE_TEXT = """\
FVD-infinity (FVD in the limit of infinite samples) with 95 % intervals from random halves of the clips; each row
against the smallest. Rows share their real clips, so intervals of differences are rather too wide than too narrow.
The spread of training seeds is not in them.
"""


def significance_lines(records: Sequence[Record], metric: str = "fvd_") -> list[str]:
    """One line per finished run: its score and whether it differs significantly from the best; [] for fewer than two
    runs.

    Only runs of one table are compared with each other.
    """
    lines = []
    for mark in dict.fromkeys(setting_of(record.row) for record in records):
        found = {
            record.cell: interval_of(score)
            for record in records
            if record.status == "ok" and setting_of(record.row) == mark
            for score in record.scores_of("train")
            if score.metric.startswith(metric) and score.extrapolated is not None
        }
        if len(found) > 1:
            best = min(found, key=lambda name: found[name].extrapolated)
            lines += [significance_line(name, one, best, found[best]) for name, one in found.items()]
    return lines


def significance_line(name: str, one: Interval, best: str, other: Interval) -> str:
    """What is said of one run."""
    interval = f"{shown(one.extrapolated)} ({shown(one.low)} to {shown(one.high)})"
    said = f"* {name}: {shown(one.value)}, extrapolated {interval}"
    if name == best:
        return f"{said}: the smallest"
    verdict = compare_intervals(one, other).verdict
    return f"{said}: {verdict} {'from' if verdict == NOT_SIGNIFICANT else 'than'} {best}"


def interval_of(score: Score) -> Interval:
    """The interval of a score that has one."""
    return Interval(
        value=score.value,
        extrapolated=score.extrapolated,
        low=score.extrapolated_low,
        high=score.extrapolated_high,
        parabola=score.extrapolated,
        mean_at={},
        level=LEVEL,
        kind=score.ci_kind,
        remark=score.interval_remark or "",
    )


Key = tuple[str, str]  # cell, metric
BySeed = dict[str, dict[int | None, Row]]  # rows of one metric by label and training seed


def significant_best(rows: Sequence[Row], scores: Mapping[Key, Score]) -> set[Key]:
    """(cell, metric) of each block's best row, where the 95 % interval of its difference to every other row excludes 0.

    scores: of trained rows, by run and metric. Where all rows have the same two
    or more training seeds, these decide; else the intervals that random halves of the clips gave.
    """
    found: set[Key] = set()
    for block in blocks(rows):
        trained = [row for row in block if row.stage == "train" and row.lower_is_better is not None]
        for metric in dict.fromkeys(row.metric for row in trained):
            found |= best_of([row for row in trained if row.metric == metric], scores)
    return found


def best_of(rows: Sequence[Row], scores: Mapping[Key, Score]) -> set[Key]:
    """The keys of the best row (of all its seeds) if it differs significantly from the others; rows: of one metric."""
    metric, lower = rows[0].metric, bool(rows[0].lower_is_better)
    by_label: BySeed = {}
    for row in rows:
        by_label.setdefault(row.label, {})[row.seed] = row
    if len(by_label) < 2:
        return set()
    means = {label: sum(row.value for row in seeds.values()) / len(seeds) for label, seeds in by_label.items()}
    best = (min if lower else max)(means, key=lambda label: means[label])
    if (
        differs_by_seeds(by_label, best, metric, lower)
        if same_seeds(by_label)
        else differs_by_clips(by_label, best, scores)
    ):
        return {(row.cell, metric) for row in by_label[best].values()}
    return set()


def same_seeds(by_label: BySeed) -> bool:
    """Whether every row has the same two or more training seeds, and values that have logarithms."""
    sets = {frozenset(seeds) for seeds in by_label.values()}
    positive = all(row.value > 0 for seeds in by_label.values() for row in seeds.values())
    return len(sets) == 1 and len(next(iter(sets))) > 1 and positive


def differs_by_seeds(by_label: BySeed, best: str, metric: str, lower: bool) -> bool:
    """Whether the best row is better than each other one by the spread from seed to seed."""
    labels = [best, *(label for label in by_label if label != best)]
    values = {label: {seed: row.value for seed, row in by_label[label].items()} for label in labels}
    return all(pair.verdict == "significantly different: worse" for pair in compared(values, metric, lower))


def differs_by_clips(by_label: BySeed, best: str, scores: Mapping[Key, Score]) -> bool:
    """Whether each seed's row of the best is better than each row of the others by the clips' own intervals."""
    groups = {
        label: [scores.get((row.cell, row.metric)) for row in seeds.values()] for label, seeds in by_label.items()
    }
    if any(score is None or score.extrapolated is None for group in groups.values() for score in group):
        return False
    lower = all(score.lower_is_better for score in groups[best])
    return all(
        compare_intervals(interval_of(one), interval_of(other), lower).verdict == BETTER
        for one in groups[best]
        for label, group in groups.items()
        if label != best
        for other in group
    )
