"""HTML from values: what is not marked as HTML is escaped, so no text of a record can become markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

VOID = {"img", "meta", "br", "link"}  # elements without an end tag


class Html(str):
    """Text that is HTML already. Made by this file's functions and by charts that escape for themselves."""

    __slots__ = ()


def html(value: Any) -> Html:
    """A value as HTML; text is escaped, None is nothing."""
    if isinstance(value, Html):
        return value
    return Html("" if value is None else escape(str(value), quote=True))


def element(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element. class_ and for_ name those attributes, aria_label is aria-label; True is an attribute without a
    value, None and False are none."""
    shown = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{html(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in VOID:
        return Html(f"<{name}{shown}>")
    return Html(f"<{name}{shown}>{together(children)}</{name}>")


def together(parts: Iterable[Any], between: str = "") -> Html:
    """Parts one after the other."""
    return Html(between.join(html(part) for part in parts))


def breakable(name: str) -> Html:
    """A name that may be broken behind its underscores, so that a narrow column can hold it."""
    return Html(html(name).replace("_", "_<wbr>"))


def section(name: str, heading: str, *children: Any) -> Html:
    """A section of the page; name is what links to it."""
    title = element("h2", heading, id=f"{name}-heading")
    return element("section", title, *children, id=name, aria_labelledby=f"{name}-heading")


def details(summary: Any, *children: Any, **attributes: Any) -> Html:
    """What is folded until it is asked for; print unfolds it."""
    return element("details", element("summary", summary), *children, **attributes)


def scrolling(label: str, *children: Any) -> Html:
    """A box that scrolls by itself where its content is wider than the page, with keys too, and says so."""
    hint = element("p", "Wider than this window: scroll sideways for the rest.", class_="hint", hidden=True)
    return together([hint, element("div", *children, class_="scroll", role="region", aria_label=label, tabindex="0")])


def table(
    caption: Any, columns: Sequence[Any], rows: Iterable[Sequence[Any]], label: str, class_: str | None = None
) -> Html:
    """A table in a box of its own; the first cell of a row heads it. A row that is Html already stands as it is."""
    lines = list(rows)
    first = next((row for row in lines if not isinstance(row, Html)), ())
    numbers = [position > 0 and is_number(cell) for position, cell in enumerate(first)] + [False] * len(columns)
    heads = zip(columns, numbers, strict=False)
    head = element("tr", *[element("th", name, scope="col", class_="number" if one else None) for name, one in heads])
    body = [row if isinstance(row, Html) else table_row(row) for row in lines]
    title = element("caption", element("span", caption))
    made = element("table", title, element("thead", head), element("tbody", *body), class_=class_)
    return scrolling(label, made)


def table_row(cells: Sequence[Any]) -> Html:
    """A row whose first cell heads it; numbers stand at the right."""
    first, *rest = cells
    tds = [element("td", cell, class_="number" if is_number(cell) else None) for cell in rest]
    return element("tr", element("th", first, scope="row"), *tds)


def is_number(cell: Any) -> bool:
    """Whether a cell is a number, with its unit at most behind a space."""
    word = str(cell).split(" ")[0].replace(",", "")
    try:
        float(word)
    except ValueError:
        return False
    return True


def points(pairs: Iterable[tuple[Any, Any]]) -> Html:
    """A list of names and what is said of each."""
    inner = [together([element("dt", name), element("dd", said)]) for name, said in pairs]
    return element("dl", *inner)
