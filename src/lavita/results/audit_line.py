"""Lines of the audit: one answer each, found by itself or by comparing values that must be equal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

PASS, FAIL, NOT_APPLICABLE = VERDICTS = ("pass", "fail", "not applicable")
ALL = "all rows"


@dataclass(frozen=True)
class AuditLine:
    """check: the rule; where: the run, file or "run"; text: what was found, at a failure the values that differ."""

    check: str
    where: str
    verdict: str
    text: str


def same(check: str, values: Mapping[str, Any]) -> Iterator[AuditLine]:
    """One line if every run has the same value; else a failure for each run that differs from most (from the first,
    where none is in the majority).
    """
    if not values:
        yield AuditLine(check, ALL, NOT_APPLICABLE, "no row completed")
        return
    texts = {name: str(value) for name, value in values.items()}
    usual = Counter(texts.values()).most_common(1)[0][0]
    first = next(name for name, text in texts.items() if text == usual)
    others = [name for name, text in texts.items() if text != usual]
    if not others:
        yield AuditLine(check, ALL, PASS, short(usual))
    for name in others:
        yield AuditLine(check, name, FAIL, f"{short(texts[name])}, but {short(usual)} of {first}")


def equal(check: str, where: str, found: Any, wanted: Any, of: str) -> AuditLine:
    """Whether two values are the same text; of: what the second is."""
    if str(found) == str(wanted):
        return AuditLine(check, where, PASS, short(str(found)))
    return AuditLine(check, where, FAIL, f"{short(str(found))}, but {of}: {short(str(wanted))}")


def short(text: str, most: int = 160) -> str:
    """A text that fits a line."""
    return text if len(text) <= most else f"{text[: most - 3]}..."
