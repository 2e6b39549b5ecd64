"""The scores of evaluate.py for reading: a row a protocol and score, and what each protocol left to us."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lavita.runner.evaluate_record import network_of

HEADS = ("protocol", "hash", "score", "of", "value", "interval", "infinite clips", "real", "generated", "extractor")


def table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: every score under its protocol; below, the fields that a protocol's source does not specify."""
    rows = [HEADS, tuple("---" for _ in HEADS)]
    rows += [row for record in records for row in rows_of(record)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", *unspecified(records), *interval_kinds(records), *remarks(records), *sanity(records)])


def rows_of(record: dict[str, Any]) -> list[tuple[str, ...]]:
    """The scores of one record."""
    p, found = record["protocol"], []
    for score in record["scores"]:
        arrow = {True: "↓", False: "↑"}.get(score["lower_is_better"], "(1 = new)")
        name, mark = network_of(record, score)
        found.append(
            (
                p["name"],
                record["protocol_hash"],
                f"{score['metric']} {arrow}",
                score["stage"],
                f"{score['value']:.6g}",
                interval_text(score, "ci_low", "ci_high"),
                infinite_text(score),
                str(score.get("n_real", record["real"]["num_clips"])),
                str(record["generated"]["num_clips"]),
                f"{name} {mark[:12]}",
            )
        )
    return found


def interval_text(score: dict[str, Any], low: str, high: str) -> str:
    return f"{score[low]:.5g} to {score[high]:.5g}" if low in score else ""


def infinite_text(score: dict[str, Any]) -> str:
    """The score extrapolated to infinitely many clips, with its interval; marked where the line is no good fit."""
    if "extrapolated" not in score:
        return ""
    mark = " (?)" if "interval_remark" in score else ""
    return f"{score['extrapolated']:.5g} ({interval_text(score, 'extrapolated_low', 'extrapolated_high')}){mark}"


def unspecified(records: Sequence[dict[str, Any]]) -> list[str]:
    """A line a protocol whose source leaves something open: what, and our choice."""
    lines = []
    for record in records:
        p, described = record["protocol"], record["protocol_described"]
        if p["unspecified"]:
            lines.append(f"{p['name']}: " + "; ".join(f"{key} {described[key]}" for key in p["unspecified"]))
    return lines


def interval_kinds(records: Sequence[dict[str, Any]]) -> list[str]:
    """A line a kind of interval, with the metrics that have it."""
    kinds: dict[str, dict[str, None]] = {}
    for score in (score for record in records for score in record["scores"] if "ci_kind" in score):
        kinds.setdefault(score["ci_kind"], {})[score["metric"].split("_")[0]] = None
    return [f"interval of {', '.join(metrics)}: {kind}" for kind, metrics in kinds.items()]


def remarks(records: Sequence[dict[str, Any]]) -> list[str]:
    """A line a score that the line in 1/n does not fit."""
    return [
        f"(?) {record['protocol']['name']}, {score['metric']}: {score['interval_remark']}"
        for record in records
        for score in record["scores"]
        if "interval_remark" in score
    ]


def sanity(records: Sequence[dict[str, Any]]) -> list[str]:
    """What each protocol's distance can see on these real clips."""
    return [
        f"\nWhat {record['protocol']['name']} can see on these real clips:\n\n{record['sanity']['text']}"
        for record in records
        if record.get("sanity")
    ]
