"""A small SVG canvas: boxes, arrows, token grids and residual sub-layers, alike in every figure."""

from __future__ import annotations

from html import escape

INK, FAINT = "#222222", "#8a8a8a"
# Fill and outline by what a thing is; every thing is also labelled, so that a grey print can be read.
COLOURS = {
    "space": ("#cfe0f5", "#2f5f9e"),
    "time": ("#fbdcc0", "#b3560f"),
    "both": ("#e3d6f2", "#6b4796"),
    "mlp": ("#e9e9e9", "#666666"),
    "modulate": ("#dcefdc", "#2f7a3a"),
    "none": ("#ffffff", "#b5b5b5"),
    "query": ("#222222", "#222222"),
}
FRAMES, POSITIONS, QUERY = 4, 6, (1, 2)  # tokens of the small grids, and the one that looks at the others
NAMES = [f"frame {index + 1}" for index in range(FRAMES)]


def seen(reach: str, rows: int = FRAMES) -> list[list[str]]:
    """Kind of every token of a grid: which the query sees."""
    kinds = [["none"] * POSITIONS for _ in range(rows)]
    for row in range(rows):
        for column in range(POSITIONS):
            same = {"space": row == QUERY[0], "time": column == QUERY[1]}
            if reach == "all" or same.get(reach, False) or (reach == "both" and any(same.values())):
                kinds[row][column] = "both" if reach in ("all", "both") else reach
    kinds[QUERY[0]][QUERY[1]] = "query"
    return kinds


class Canvas:
    """Collects elements in pixels, 700 wide; `svg` is the whole file."""

    width = 700

    def __init__(self, title: str, description: str) -> None:
        self.title, self.description = title, description
        self.parts: list[str] = []
        self.text(20, 26, title, size=15, weight="bold", anchor="start")

    def text(
        self, x: float, y: float, words: str, size: int = 11, anchor: str = "middle", weight: str = "normal", fill=INK
    ) -> None:
        """A line of text whose baseline is at y."""
        style = f'font-size="{size}" text-anchor="{anchor}" fill="{fill}"'
        style += "" if weight == "normal" else f' font-weight="{weight}"'
        self.parts.append(f'<text x="{x:g}" y="{y:g}" {style}>{escape(words)}</text>')

    def box(self, x: float, y: float, width: float, height: float, kind: str, *lines: str, radius: int = 3) -> None:
        """A rectangle with its lines of text in the middle."""
        fill, edge = COLOURS[kind]
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius}" fill="{fill}" '
            f'stroke="{edge}"/>'
        )
        for index, words in enumerate(lines):
            self.text(x + width / 2, y + height / 2 + 4 + 13 * (index - (len(lines) - 1) / 2), words)

    def path(self, *points: tuple[float, float], arrow: bool = True, dashed: bool = False) -> None:
        """A line through points, with an arrow head at its end."""
        way = " ".join(f"{x:g},{y:g}" for x, y in points)
        style = (' marker-end="url(#head)"' if arrow else "") + (' stroke-dasharray="4 3"' if dashed else "")
        self.parts.append(f'<polyline points="{way}" fill="none" stroke="{INK}" stroke-width="1.2"{style}/>')

    def circle(self, x: float, y: float, sign: str, kind: str = "none") -> None:
        """A small circle with a sign: + adds, × multiplies."""
        fill, _ = COLOURS[kind]
        self.parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="9" fill="{fill}" stroke="{INK}"/>')
        self.text(x, y + 5, sign, size=15)

    def grid(self, x: float, y: float, rows: list[str], kinds: list[list[str]], cell: int = 22) -> None:
        """Tokens: one row per frame (named at the left), one column per position."""
        for row, name in enumerate(rows):
            self.text(x - 6, y + cell * row + cell / 2 + 4, name, anchor="end")
            for column, kind in enumerate(kinds[row]):
                self.box(x + cell * column, y + cell * row, cell - 2, cell - 2, kind, radius=2)

    def sublayer(self, x: float, y: float, kind: str, name: str, number: str | None, parts: tuple[str, str]) -> float:
        """Norm and modulation, operation, gate and residual sum, from x on the line y; returns where it ends.

        The modulation's vectors come from the bar 46 below y and are numbered `number`.
        """
        self.box(x + 14, y - 17, 62, 34, "modulate", "norm,", "modulate")
        self.box(x + 86, y - 17, 68, 34, kind, *parts)
        self.path((x, y), (x + 14, y))
        self.path((x + 76, y), (x + 86, y))
        return self.gate_and_sum(x, x + 154, y, number, x + 45, 34)

    def gate_and_sum(self, start: float, x: float, y: float, number: str, norm: float, rise: float) -> float:
        """Gate and residual sum after x; the residual leaves the line at `start`, `rise` above; returns the end."""
        gate, total = x + 21, x + 50
        self.path((x, y), (gate - 9, y))
        self.circle(gate, y, "×", "modulate")
        self.path((gate + 9, y), (total - 9, y))
        self.path((start + 4, y), (start + 4, y - rise), (total, y - rise), (total, y - 9))
        self.circle(total, y, "+")
        bar = y + 46 if rise < 60 else y + 82
        for place, words in ((norm, f"shift{number}, scale{number}"), (gate, f"gate{number}")):
            self.path((place, bar), (place, y + (17 if place == norm else 9)))
            self.text(place, bar + 15, words)
        return total + 9

    def bar(self, x: float, y: float, width: float, words: str) -> None:
        """The source of the modulation; drawn before the vectors that it is the ground of."""
        self.box(x, y, width, 38, "modulate")
        self.text(x + width / 2, y + 31, words)

    def svg(self, height: int) -> str:
        """The file."""
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{height}" '
                f'viewBox="0 0 {self.width} {height}" role="img" aria-labelledby="title desc" '
                'font-family="DejaVu Sans, Verdana, Arial, sans-serif">',
                f'<title id="title">{escape(self.title)}</title>',
                f'<desc id="desc">{escape(self.description)}</desc>',
                '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
                f'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="{INK}"/></marker></defs>',
                f'<rect width="{self.width}" height="{height}" fill="#ffffff"/>',
                *self.parts,
                "</svg>\n",
            ]
        )
