"""Lines from comparing: one value that all rows must share, or a stored value against the same recomputed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from lavita.results.audit_line import FAIL, NOT_APPLICABLE, PASS, AuditLine

ALL = "all rows"


def same(check: str, values: Mapping[str, Any]) -> Iterator[AuditLine]:
    """One line if every cell has the same value; else a failure for each cell that differs from most (from the first,
    where none is in the majority).
    """
    if not values:
        yield AuditLine(check, ALL, NOT_APPLICABLE, "no row completed")
        return
    texts = {cell: str(value) for cell, value in values.items()}
    usual = Counter(texts.values()).most_common(1)[0][0]
    first = next(cell for cell, text in texts.items() if text == usual)
    others = [cell for cell, text in texts.items() if text != usual]
    if not others:
        yield AuditLine(check, ALL, PASS, short(usual))
    for cell in others:
        yield AuditLine(check, cell, FAIL, f"{short(texts[cell])}, but {short(usual)} of {first}")


def equal(check: str, where: str, found: Any, wanted: Any, of: str) -> AuditLine:
    """Whether two values are the same text; of: what the second is."""
    if str(found) == str(wanted):
        return AuditLine(check, where, PASS, short(str(found)))
    return AuditLine(check, where, FAIL, f"{short(str(found))}, but {of}: {short(str(wanted))}")


def short(text: str, most: int = 160) -> str:
    """A text that fits a line."""
    return text if len(text) <= most else f"{text[: most - 3]}..."
