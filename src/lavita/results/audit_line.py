"""One answer of the audit."""

from __future__ import annotations

from dataclasses import dataclass

PASS, FAIL, NOT_APPLICABLE = VERDICTS = ("pass", "fail", "not applicable")


@dataclass(frozen=True)
class AuditLine:
    """check: the rule; where: the cell, file or "run"; text: what was found, at a failure the values that differ."""

    check: str
    where: str
    verdict: str
    text: str
