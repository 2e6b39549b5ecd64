"""The scores of evaluate.py for reading: a row a protocol and score, and what each protocol left to us."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lavita.runner.evaluate import network_of

HEADS = ("protocol", "hash", "score", "of", "value", "interval", "infinite clips", "real", "generated", "extractor")


def table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: every score under its protocol; below, the fields that a protocol's source does not specify."""
    rows = [HEADS, tuple("---" for _ in HEADS)]
    rows += [row for record in records for row in rows_of(record)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    notes = [note for record in records for note in notes_of(record)]
    return "\n".join([*lines, "", *notes])


def rows_of(record: dict[str, Any]) -> list[tuple[str, ...]]:
    """The scores of one record."""
    p, found = record["protocol"], []
    for score in record["scores"]:
        arrow = "↓" if score["lower_is_better"] else "↑"
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
                str(record["real"]["num_clips"]),
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


def notes_of(record: dict[str, Any]) -> list[str]:
    """What a reader must know of a protocol and of the intervals."""
    p, described = record["protocol"], record["protocol_described"]
    notes = []
    if p["unspecified"]:
        ours = "; ".join(f"{key} {described[key]}" for key in p["unspecified"])
        notes.append(f"{p['name']}: {ours}")
    kinds = dict.fromkeys(f"{score['metric']}: {score['ci_kind']}" for score in record["scores"] if "ci_kind" in score)
    notes += [f"{p['name']}: interval of {kind}" for kind in kinds]
    remarks = [score for score in record["scores"] if "interval_remark" in score]
    return notes + [f"{p['name']}: (?) {score['metric']}: {score['interval_remark']}" for score in remarks]
