"""Text of records as typed values that the templates write out: tables of cells, and the Markdown of notes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

BULLET = re.compile(r"( *)\* (.*)")
INLINE = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*|\[([^\]]+)\]\(([^)\s]+)\)")
WEB = ("https://", "http://")  # the only addresses that the page links to


def is_number(text: str) -> bool:
    """Whether a text is a number, with its unit at most behind a space."""
    try:
        float(text.split(" ")[0].replace(",", ""))
    except ValueError:
        return False
    return True


def slug(words: str) -> str:
    """A class name or an identifier of a text: lower-case letters, a hyphen for whatever else there is."""
    return re.sub(r"[^a-z]+", "-", words.lower())


@dataclass(frozen=True)
class Cell:
    """A cell of a table. kind: "" for text, "name" for one that may be broken behind underscores, "status" for a
    verdict; before: the value that text replaced, None where there was none.
    """

    text: str
    kind: str = ""
    before: str | None = None

    @property
    def numeric(self) -> bool:
        """Whether it stands at the right."""
        return not self.kind and is_number(self.text if self.before is None else self.before)


@dataclass(frozen=True)
class Table:
    """label: what its box is called; kind: its class in the style sheet; the first cell of a row heads it."""

    caption: str
    columns: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]
    label: str
    kind: str

    @property
    def numbers(self) -> list[bool]:
        """Of each column whether its head stands at the right, as the cells of the first row do."""
        first = self.rows[0] if self.rows else ()
        return [0 < at < len(first) and first[at].numeric for at in range(len(self.columns))]


def table(
    caption: str, columns: Sequence[str | Cell], rows: Iterable[Sequence[str | Cell]], label: str, kind: str = ""
) -> Table:
    """A table of texts and cells."""
    made = tuple(tuple(as_cell(cell) for cell in row) for row in rows)
    return Table(caption, tuple(as_cell(column) for column in columns), made, label, kind)


def as_cell(value: str | Cell) -> Cell:
    return value if isinstance(value, Cell) else Cell(value)


@dataclass(frozen=True)
class Span:
    """A piece of a line. kind: "" for text, "code", "strong" or "link"; address: of a link."""

    text: str
    kind: str = ""
    address: str = ""


Line = tuple[Span, ...]


@dataclass(frozen=True)
class Paragraph:
    kind: ClassVar[str] = "paragraph"
    line: Line


@dataclass(frozen=True)
class Item:
    """An item of a list, with the items inside it."""

    line: Line
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Items:
    kind: ClassVar[str] = "list"
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Grid:
    """A table of the Markdown; label: its caption, and what its box is called."""

    kind: ClassVar[str] = "table"
    label: str
    head: tuple[Line, ...]
    rows: tuple[tuple[Line, ...], ...]


Block = Paragraph | Items | Grid


def prose(text: str, label: str = "table") -> list[Block]:
    """Paragraphs, lists, tables, code, bold and links of a Markdown text; whatever is no such Markdown stands as it is
    written. label: what a table in it is called.
    """
    found: list[Block] = []
    tables = 0
    for lines in blocks_of(text):
        kind = kind_of(lines[0])
        if kind == "table":
            tables += 1
            found.append(grid(lines, label if tables < 2 else f"{label}, table {tables}"))
        elif kind == "list":
            found.append(Items(nested(items_of(lines))))
        else:
            found.append(Paragraph(inline(" ".join(line.strip() for line in lines))))
    return found


def blocks_of(text: str) -> list[list[str]]:
    """The lines of each paragraph, list and table."""
    found: list[list[str]] = []
    last = ""
    for line in text.splitlines():
        kind = kind_of(line)
        if not kind:
            last = ""
            continue
        # A line that continues a list item belongs to it, however it begins.
        if not last or (kind != last and last != "list"):
            found.append([])
        found[-1].append(line)
        last = "list" if last == "list" else kind
    return found


def kind_of(line: str) -> str:
    if not line.strip():
        return ""
    return "table" if line.startswith("|") else "list" if BULLET.fullmatch(line) else "text"


def items_of(lines: Sequence[str]) -> list[tuple[int, str]]:
    """(indentation, text) of each item; lines that continue one are joined to it."""
    found: list[tuple[int, str]] = []
    for line in lines:
        bullet = BULLET.fullmatch(line)
        if bullet:
            found.append((len(bullet[1]), bullet[2]))
        else:
            found[-1] = (found[-1][0], f"{found[-1][1]} {line.strip()}")
    return found


def nested(items: Sequence[tuple[int, str]]) -> tuple[Item, ...]:
    """Items, each with those that follow it and are indented further."""
    made, position = [], 0
    while position < len(items):
        depth, text = items[position]
        position += 1
        start = position
        while position < len(items) and items[position][0] > depth:
            position += 1
        made.append(Item(inline(text), nested(items[start:position])))
    return tuple(made)


def grid(lines: Sequence[str], label: str) -> Grid:
    """A table of `| a | b |` lines, the first of which heads it; `\\|` is a bar inside a cell."""
    rows = [
        [cell.strip().replace("\0", "|") for cell in line.strip().replace("\\|", "\0").strip("|").split("|")]
        for line in lines
    ]
    body = [row for row in rows[1:] if not all(set(cell) <= set("-: ") for cell in row)]
    return Grid(label, tuple(map(inline, rows[0])), tuple(tuple(map(inline, row)) for row in body))


def inline(text: str) -> Line:
    """Code, bold and links of one line; addresses other than of the web are left out, their words stay."""
    spans, position = [], 0
    for found in INLINE.finditer(text):
        spans.append(Span(text[position : found.start()]))
        code, bold, words, address = found.groups()
        if code:
            spans.append(Span(code, "code"))
        elif bold:
            spans.append(Span(bold, "strong"))
        elif address.startswith(WEB):
            spans.append(Span(words, "link", address))
        else:
            spans.append(Span(words))
        position = found.end()
    spans.append(Span(text[position:]))
    return tuple(span for span in spans if span.text)
