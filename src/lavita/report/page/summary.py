"""What a reader with one minute must know: in sentences, cautions marked, each with a link to its section."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lavita.metrics.confidence import BETTER, compare_intervals
from lavita.metrics.table import is_metric, metric_words, with_titles
from lavita.report.charts import trained_rows
from lavita.report.noise import AgainstNoise
from lavita.report.page.scores import comparability
from lavita.report.significance import interval_of
from lavita.report.write import Tables
from lavita.results.audit_line import VERDICTS, AuditLine
from lavita.results.rows import Row, shown
from lavita.results.run_folder import RunFolder


@dataclass(frozen=True)
class Point:
    """name: what it is about; said: a sentence; caution: whether a reader must mind it; place: the section that says
    more.
    """

    name: str
    said: str
    caution: bool
    place: str


def summary_of(run: RunFolder, rows: Sequence[Row], tables: Tables, audit: Sequence[AuditLine] | None) -> list[Point]:
    """The points in the order in which a reader doubts."""
    return [
        compared(run),
        *reader_notes(run),
        budget(run),
        *scored(rows),
        *results(run, rows, tables),
        published(tables),
        *sensitivity(run),
        *noise(tables.noise),
        seeds(run),
        settings(run),
        external(run),
        *no_better(tables),
        code(run),
        audited(audit),
    ]


def compared(run: RunFolder) -> Point:
    """How many rows there are, and what is missing."""
    good = [record for record in run.records if record.status == "ok"]
    bad = [f"{record.cell} ({record.status})" for record in run.records if record.status != "ok"]
    labels = {record.label for record in run.records}
    missing = [label for label in run.plan.order if label not in labels]
    unbuilt = [one.name for one in run.plan.not_yet if not one.left_out]
    said = f"{len(good)} of {len(run.records)} runs completed."
    said += f" Did not complete: {', '.join(bad)}." if bad else ""
    said += f" Not run here: {', '.join(missing)}." if missing else ""
    said += f" Not built yet: {', '.join(unbuilt)}." if unbuilt else ""
    return Point("Compared", said, bool(bad), "scores")


def reader_notes(run: RunFolder) -> list[Point]:
    """What a reader must know of a row before meeting its numbers."""
    notes = run.reader_notes.items()
    return [Point(f"Row {label}", f"{note[0].upper()}{note[1:]}.", False, "scores") for label, note in notes]


def budget(run: RunFolder) -> Point:
    """Whether every row spent the same, in the budget's unit."""
    good = [record for record in run.records if record.status == "ok"]
    trained = [record for record in good if record.stages]
    unknown = [record.cell for record in good if not record.stages]
    end = f" Not known of external samples: {', '.join(unknown)}." if unknown else ""
    if not trained:
        return Point("Budget", f"No run completed its training here.{end}", True, "methods")
    kinds = {record.config["budget"]["currency"] for record in trained}
    clips = sorted({record.row.clips_seen or 0 for record in trained})
    if kinds != {"clips"}:
        asked = ", ".join(sorted({f"{r.config['budget'][kind]:g} {kind}" for r in trained for kind in kinds}))
        said = (
            f"Each row stopped at the first step that reached {asked}; so rows saw {clips[0]:,} to {clips[-1]:,} clips."
        )
        return Point("Budget", said + end, len(kinds) > 1, "methods")
    if len(clips) > 1:
        return Point(
            "Budget", f"Rows saw different numbers of clips: {clips[0]:,} to {clips[-1]:,}.{end}", True, "methods"
        )
    said = f"Every row that was trained here saw exactly {clips[0]:,} clips, all stages and the autoencoder together."
    return Point("Budget", said + end, bool(unknown), "methods")


def scored(rows: Sequence[Row]) -> list[Point]:
    """By which protocol and network, and whether published numbers may stand beside them."""
    found = {row.protocol_hash: row for row in rows if is_metric(row.metric, "fvd")}
    points = []
    for row in found.values():
        caution = comparability({row.metric})
        said = (
            f"Protocol {row.protocol}, hash {row.protocol_hash}: {row.n_generated} generated against {row.n_real} real "
            f"clips, network {row.extractor}. {caution}"
        )
        points.append(Point("Scores", said.strip(), bool(caution), "scores"))
    return points


def results(run: RunFolder, rows: Sequence[Row], tables: Tables) -> list[Point]:
    """Which rows differ significantly: of each table from the smallest distance, or each row from the first."""
    if run.plan.compares_rows:
        return [against_first(tables)] if tables.pairs else []
    points, comparable = [], [block for block in trained_rows(rows) if len({row.label for row in block}) > 1]
    for block in comparable:
        first = min(block, key=lambda row: row.value)
        near = not_significant(run, first, block)
        if (first.cell, first.metric) in tables.best:
            verdict = "It is significantly different, at 95 %, from every other row."
        elif near:
            verdict = (
                f"Not significantly different from it, at 95 %: {', '.join(near)}. So there is no single best row."
            )
        else:
            verdict = (
                "By training seeds it does not differ significantly, at 95 %, from every other row: no single best."
            )
        said = f"Smallest {metric_words(first.metric)}: {first.cell}, {shown(first.value)}. {verdict}"
        points.append(Point("Result", said, False, "scores"))
    return points


def published(tables: Tables) -> Point:
    """How many published numbers stand beside the rows, and with which verdicts."""
    counts: dict[str, int] = {}
    for number in tables.numbers:
        counts[number.verdict] = counts.get(number.verdict, 0) + 1
    if not counts:
        return Point("Published numbers", "None is known of these methods on this data set.", False, "published")
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return Point(
        "Published numbers",
        f"Of {len(tables.numbers)} that the methods’ authors print: {said}.",
        False,
        "published",
    )


def against_first(tables: Tables) -> Point:
    """What the pairs say, in a sentence."""
    words: dict[str, list[str]] = {}
    for pair in tables.pairs:
        verdict, _, more = pair.verdict.partition(": ")
        which = f" ({more})" if more in ("better", "worse") else ""
        words.setdefault(verdict.partition(" at this")[0], []).append(pair.choice + which)
    said = "; ".join(f"{verdict}: {', '.join(names)}" for verdict, names in words.items())
    return Point("Result", f"Against {tables.pairs[0].against}, at 95 %: {said}.", False, "scores")


def not_significant(run: RunFolder, first: Row, others: Sequence[Row]) -> list[str]:
    """The runs of other rows that, by the clips' intervals, do not differ significantly from the smallest distance."""
    scores = {
        record.cell: interval_of(score)
        for record in run.records
        for score in record.scores_of("train")
        if score.metric == first.metric and score.extrapolated is not None
    }
    names = [row.cell for row in others if row.label != first.label and row.cell in scores]
    if first.cell not in scores:
        return []
    return [name for name in names if compare_intervals(scores[first.cell], scores[name]).verdict != BETTER]


def sensitivity(run: RunFolder) -> list[Point]:
    """What the metric is sensitive to, at this number of clips."""
    seen = [one.artifacts for one in run.used_protocols]
    points = []
    for one in seen:
        verdict = one.sanity.verdict
        said = f"Protocol {one.protocol_name}: {verdict}." if len(seen) > 1 else f"{verdict[0].upper()}{verdict[1:]}."
        said += " It says nothing of how good a row is."
        points.append(Point("Metric", said, not one.sanity.informative, "sanity"))
    return points


def noise(found: Sequence[AgainstNoise]) -> list[Point]:
    """Of which rows the classifier distinguishes the samples from noise."""
    known = [one for one in found if one.distinguished is not None]
    if not known:
        return []
    like = [one.cell for one in known if not one.distinguished]
    said = (
        f"The feature network’s own classifier distinguishes the samples of {len(known) - len(like)} of {len(known)} "
    )
    said += f"rows from noise; not those of {', '.join(like)}." if like else "rows from noise."
    return [Point("Noise", said, bool(like), "sanity")]


def seeds(run: RunFolder) -> Point:
    """Whether the spread from training seed to training seed is known."""
    by_label: dict[str, int] = {}
    for record in run.records:
        if record.stages or record.status != "ok":  # external samples have no seed
            by_label[record.label] = by_label.get(record.label, 0) + (record.status == "ok")
    least = min(by_label.values(), default=0)
    if least < 2:
        said = "One training seed per row: intervals are over clips only, without the spread between training seeds."
        return Point("Training seeds", said, True, "scores")
    return Point("Training seeds", f"{least} or more per row; their spread is given.", False, "scores")


def settings(run: RunFolder) -> Point:
    """How far from the authors' own settings the rows are."""
    counts = [len(record.deviations) for record in run.records if record.card]
    if not counts:
        return Point("Authors’ settings", "Not recorded in this folder.", True, "methods")
    tier = run.plan.tier
    if not any(counts):
        return Point("Authors’ settings", "Every row has all of its authors’ own.", False, "methods")
    said = (
        f"At tier {tier} {min(counts)} to {max(counts)} settings per row are not the authors’ own; each is listed with "
        "its published value and where the other comes from."
    )
    return Point("Authors’ settings", said, tier != "paper", "methods")


def external(run: RunFolder) -> Point:
    """Rows that used external data or weights."""
    helped = [record.cell for record in run.records if record.row.division == "open"]
    if not helped:
        said = "Closed division: every row used this run’s data, autoencoder and budget only."
        return Point("External data and weights", said, False, "methods")
    return Point(
        "External data and weights",
        f"Open division, with external data or weights: {', '.join(helped)}.",
        True,
        "methods",
    )


def no_better(tables: Tables) -> list[Point]:
    """Rows that training did not make better."""
    said = [
        f"{line['method']}-s{line['seed']} ({with_titles(line['remark'].partition(';')[0])})"
        for _, frame in tables.blocks
        for _, line in frame.iterrows()
        if line["remark"].startswith("not better")
    ]
    return [Point("Training", "; ".join(said) + ".", True, "scores")] if said else []


def code(run: RunFolder) -> Point:
    """The commits, and whether files differed from them."""
    ours = [record.row for record in run.records if record.row.config_hash]  # not external samples
    commits = {((row.commit or "unknown")[:12], row.dirty) for row in ours}
    clean = all(commit != "unknown" and dirty == "false" for commit, dirty in commits)
    said = ", ".join(
        commit + {"false": "", "true": " with uncommitted changes"}.get(dirty, " (changes unknown)")
        for commit, dirty in sorted(commits)
    )
    return Point("Code", f"Commit {said or 'unknown'}.", not clean, "sources")


def audited(audit: Sequence[AuditLine] | None) -> Point:
    """What the audit found."""
    if audit is None:
        return Point("Audit", "Not run when this page was made; the section says how to run it.", True, "audit")
    counts = [sum(line.verdict == verdict for line in audit) for verdict in VERDICTS]
    said = ", ".join(f"{count} {verdict}" for count, verdict in zip(counts, VERDICTS, strict=True))
    return Point("Audit", f"{said}.", counts[1] > 0, "audit")
