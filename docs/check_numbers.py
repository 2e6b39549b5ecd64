"""Compares the scores that documents print with docs/numbers.csv. Run: python docs/check_numbers.py

A table is one of scores where its head names a metric (METRIC). Each of its cells that begins with a number, but for
the first column, has a line there: document; set (the data); method (the row's first cell); metric (the column's head);
value as printed; allowed (by how much a run elsewhere may differ: "5 %", "exact", or "not measured"); commit.
A document says the same: "29.3 (± 5 %)" in the cell, or "± 5 %" in the column's head; "not measured" in the table's
section where a value's variation is; and the commit.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORDED = ROOT / "docs" / "numbers.csv"
COLUMNS = ("document", "set", "method", "metric", "value", "allowed", "commit")
METRIC = re.compile(r"\b(FVD|KVD|IS|FID|R-FVD|PSNR|Frechet distance|times the baseline)\b")
NUMBER = re.compile(r"\d[\d.]*(e[+-]\d+)?(?=[\s,(]|$)")
ALLOWED = re.compile(r" ?\(?± (\d+(?:\.\d+)? %)\)?")
NOT_MEASURED, EXACT = "not measured", "exact"


@dataclass(frozen=True)
class Printed:
    """A cell of a document's table of scores. allowed: as the cell or its column's head states it, "" where neither
    does; section: the text from one heading to the next.
    """

    document: str
    method: str
    metric: str
    value: str
    allowed: str
    section: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.document, self.method, self.metric, self.value


def documents() -> list[Path]:
    """README.md, those of docs/ and of results/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "results" / "README.md"]


def printed(path: Path) -> list[Printed]:
    """What a document prints, from top to bottom."""
    name = path.relative_to(ROOT).as_posix()
    return [cell for section in sections(path.read_text(encoding="utf-8")) for cell in cells_of(name, section)]


def sections(text: str) -> list[str]:
    """The parts of a document, each from its heading to the next."""
    return re.split(r"^(?=#+ )", text, flags=re.MULTILINE)


def cells_of(name: str, section: str) -> Iterator[Printed]:
    """The scores in the tables of a section."""
    for head, *rows in tables(section):
        if not METRIC.search(" ".join(head)):
            continue
        for row in rows:
            for title, cell in zip(head[1:], row[1:], strict=True):
                said = ALLOWED.search(cell) or ALLOWED.search(title)
                if NUMBER.match(cell):
                    bare = [ALLOWED.sub("", text).strip() for text in (title, cell)]
                    yield Printed(name, row[0], *bare, said[1] if said else "", section)


def tables(text: str) -> Iterator[list[list[str]]]:
    """The Markdown tables of a text: rows of cells, the head first, without the line below it."""
    for block in re.findall(r"(?:^\|.*\n)+", text + "\n", flags=re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.splitlines()]
        yield [rows[0], *rows[2:]]


def recorded() -> list[dict[str, str]]:
    """The lines of docs/numbers.csv. Raises ValueError for other columns."""
    with open(RECORDED, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{RECORDED}: columns {reader.fieldnames}, wanted {', '.join(COLUMNS)}")
        return list(reader)


def differences() -> list[str]:
    """A line for each thing that is wrong, those to be added as lines of the CSV; none where all agree."""
    found = [cell for path in documents() for cell in printed(path)]
    lines = recorded()
    keys = Counter((line["document"], line["method"], line["metric"], line["value"]) for line in lines)
    shown = Counter(cell.key for cell in found)
    wrong = [f"not recorded: {','.join([k[0], '', *map(quoted, k[1:]), '', ''])}" for k in (shown - keys).elements()]
    wrong += [f"recorded but not printed: {','.join(map(quoted, k))}" for k in (keys - shown).elements()]
    by_key: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for line in lines:
        by_key.setdefault((line["document"], line["method"], line["metric"], line["value"]), []).append(line)
    for cell in found:
        if by_key.get(cell.key):
            wrong += disagreements(cell, by_key[cell.key].pop(0))  # equal ones in their order
    return wrong


def disagreements(cell: Printed, line: dict[str, str]) -> list[str]:
    """What a document says otherwise than the line of one of its numbers."""
    where, allowed = f"{cell.document}: {cell.method}, {cell.metric}, {cell.value}", line["allowed"]
    found = []
    if not line["set"]:
        found.append(f"{where}: no set is recorded")
    if not (allowed in (NOT_MEASURED, EXACT) or re.fullmatch(r"\d+(\.\d+)? %", allowed)):
        found.append(f"{where}: allowed is {allowed!r}, wanted such as '5 %', '{EXACT}' or '{NOT_MEASURED}'")
    elif cell.allowed != ("" if allowed in (NOT_MEASURED, EXACT) else allowed):
        found.append(f"{where}: printed with ± {cell.allowed or 'nothing'}, recorded: {allowed}")
    if allowed == NOT_MEASURED and NOT_MEASURED not in " ".join(cell.section.split()):
        found.append(f"{where}: its section does not say '{NOT_MEASURED}'")
    if not re.fullmatch(r"[0-9a-f]{7,40}", line["commit"]):
        found.append(f"{where}: commit is {line['commit']!r}, wanted 7 hexadecimal digits or more")
    elif line["commit"] not in (ROOT / cell.document).read_text(encoding="utf-8"):
        found.append(f"{where}: the document does not name its commit {line['commit']}")
    return found


def quoted(text: str) -> str:
    """A cell of CSV."""
    return f'"{text}"' if "," in text else text


def main() -> int:
    wrong = differences()
    print("\n".join(wrong) or f"all {len(recorded())} numbers are as recorded")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
