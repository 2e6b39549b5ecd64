"""The Markdown that notes and method cards are written in, as HTML: paragraphs, lists, tables, code, bold, links."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lavita.report.page.html import Html, details, element, html, table_row, together
from lavita.report.page.html import scrolling as scrolling_box

BULLET = re.compile(r"( *)\* (.*)")
INLINE = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*|\[([^\]]+)\]\(([^)\s]+)\)")


def prose(text: str, label: str = "table") -> Html:
    """HTML of a text; whatever is no such Markdown stands as it is written. label: what a table in it is called."""
    found, tables = [], 0
    for lines in blocks_of(text):
        tables += kind_of(lines[0]) == "table"
        found.append(block_html(lines, label if tables < 2 else f"{label}, table {tables}"))
    return together(found)


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


def block_html(lines: Sequence[str], label: str) -> Html:
    """One paragraph, list or table."""
    kind = kind_of(lines[0])
    if kind == "table":
        return table_html(lines, label)
    if kind == "list":
        return list_html(items_of(lines))
    return element("p", inline(" ".join(line.strip() for line in lines)))


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


def list_html(items: Sequence[tuple[int, str]]) -> Html:
    """A list, with a list inside where items are indented further."""
    made, position = [], 0
    while position < len(items):
        depth, text = items[position]
        position += 1
        inner = []
        while position < len(items) and items[position][0] > depth:
            inner.append(items[position])
            position += 1
        made.append(element("li", inline(text), list_html(inner) if inner else None))
    return element("ul", *made)


def table_html(lines: Sequence[str], label: str) -> Html:
    """A table of `| a | b |` lines, the first of which heads it."""
    rows = [[cell.strip().replace("\0", "|") for cell in escaped_bars(line).strip("|").split("|")] for line in lines]
    head = element("tr", *[element("th", inline(cell), scope="col") for cell in rows[0]])
    body = [table_row([inline(cell) for cell in row]) for row in rows[1:] if not is_rule(row)]
    made = element(
        "table",
        element("caption", element("span", label)),
        element("thead", head),
        element("tbody", *body),
        class_="prose",
    )
    return scrolling_box(label, made)


def escaped_bars(line: str) -> str:
    return line.strip().replace("\\|", "\0")


def is_rule(row: Sequence[str]) -> bool:
    return all(set(cell) <= set("-: ") for cell in row)


def inline(text: str) -> Html:
    """Code, bold and links of one line; addresses other than of the web are left out, their words stay."""
    parts, position = [], 0
    for found in INLINE.finditer(text):
        parts.append(html(text[position : found.start()]))
        code, bold, words, address = found.groups()
        if code:
            parts.append(element("code", code))
        elif bold:
            parts.append(element("strong", bold))
        elif address.startswith(("https://", "http://")):
            parts.append(element("a", words, href=address, rel="noreferrer"))
        else:
            parts.append(html(words))
        position = found.end()
    return together([*parts, html(text[position:])])


def folded(summary: str, text: str, label: str = "table") -> Html:
    """A text under a summary."""
    return details(summary, prose(text, label))
