"""A line of the audit, as the report shows it."""

from __future__ import annotations

from dataclasses import dataclass

PASS, FAIL, NOT_APPLICABLE = "pass", "fail", "not applicable"
VERDICTS = (PASS, FAIL, NOT_APPLICABLE)


@dataclass(frozen=True)
class AuditLine:
    """check: the rule's name; where: the cell or file; verdict: one of VERDICTS; text: the two values that differ."""

    check: str
    where: str
    verdict: str
    text: str

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"audit of {self.where}: got verdict {self.verdict!r}, allowed {', '.join(VERDICTS)}")
