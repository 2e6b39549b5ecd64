"""The figures of the four variants: what is attended to when, and one block of each."""

from __future__ import annotations

from canvas import FAINT, NAMES, Canvas, seen

SPACE, TIME, MLP = ("spatial", "attention"), ("temporal", "attention"), ("MLP", "D, 4D, D")


def panels(c: Canvas, reach: str, after: str) -> None:
    """Three grids: what spatial and temporal attention see, and what has reached a token `after` so many blocks."""
    heads = ("spatial attention: one frame", "temporal attention: one position", after)
    for index, (head, kind) in enumerate(zip(heads, ("space", "time", reach), strict=True)):
        left = 20 + 228 * index
        c.text(left + 102, 54, head, weight="bold")
        c.grid(left + 52, 64, NAMES, seen(kind))
        c.text(left + 52 + 66, 166, "N positions", fill=FAINT)
    c.text(350, 184, "Black: the token that looks. Coloured: the tokens that it sees or that can have changed it.")


def strip(c: Canvas, y: float, chips: list[tuple[str, str]], words: str) -> None:
    """The order of blocks as a row of chips, and what it says."""
    x = 20
    for name, kind in chips:
        width = 14 + 8 * len(name)
        if kind == "gap":
            c.text(x + 8, y + 15, name)
            x += 20
            continue
        c.box(x, y, width, 22, kind, name)
        x += width + 4
    c.text(x + 8, y + 15, words, anchor="start")


def modulated_block(c: Canvas, y: float, kind: str, name: str, notes: list[str]) -> None:
    """A block of variants 1 and 2: one attention and the MLP, with a remark at the right."""
    c.text(20, y, name, anchor="start", weight="bold")
    line = y + 56
    c.bar(30, line + 46, 420, "c = time + class (B, 1, D), SiLU, linear: six vectors, once per clip")
    c.path((20, line), (30, line), arrow=False)
    x = c.sublayer(30, line, kind, name, "1", SPACE if kind == "space" else TIME)
    x = c.sublayer(x, line, "mlp", "MLP", "2", MLP)
    c.path((x, line), (x + 16, line))
    for index, words in enumerate(notes):
        c.text(486, line - 20 + 16 * index, words, anchor="start")


def interleaved(title: str, description: str, chips: list[tuple[str, str]], words: str, after: str) -> str:
    """Variants 1 and 2: the same two kinds of block in another order."""
    c = Canvas(title, description)
    panels(c, "all", after)
    strip(c, 200, chips, words)
    notes = ["tokens (B, F, N, D)", "B F rows of N tokens:", "every frame alone"]
    modulated_block(c, 252, "space", "spatial block (S)", notes)
    notes = ["regrouped to (B, N, F, D)", "B N rows of F tokens:", "every position alone;", "then back to (B, F, N, D)"]
    modulated_block(c, 416, "time", "temporal block (T)", notes)
    return c.svg(570)


def variant_1() -> str:
    s, t = ("S", "space"), ("T", "time")
    return interleaved(
        "Variant 1: interleaved blocks",
        "Spatial and temporal blocks alternate. A spatial block attends over the positions of each frame, a temporal "
        "block over the frames of each position; each has its own MLP and its own six modulation vectors. After one "
        "pair of blocks every token has reached every other.",
        [s, t, s, t, s, t, ("...", "gap"), s, t],
        "28 blocks at XL, in pairs; each holds an attention and an MLP",
        "after one S and one T: all",
    )


def variant_2() -> str:
    s, t = ("S", "space"), ("T", "time")
    return interleaved(
        "Variant 2: late fusion",
        "The first half of the blocks is spatial, the second half temporal; the blocks are those of variant 1. Frames "
        "do not meet before the first temporal block, and no position meets another one after the last spatial block.",
        [s, s, s, ("...", "gap"), s, t, t, t, ("...", "gap"), t],
        "14 spatial, then 14 temporal blocks at XL",
        "after the first T: all",
    )


def variant_3() -> str:
    c = Canvas(
        "Variant 3: factorised attention, space then time in every block",
        "Every block has a spatial attention, a temporal attention and an MLP, each with a norm, a gate and a "
        "residual. There are six vectors per block: shift1, scale1 and gate1 serve both attentions, shift2, scale2 "
        "and gate2 the MLP. After one block every token has reached every other.",
    )
    panels(c, "all", "after one block: all")
    chips = [("S T M", "both"), ("S T M", "both"), ("...", "gap"), ("S T M", "both")]
    strip(c, 200, chips, "23 blocks at XL; M is the MLP")
    c.text(20, 254, "one block", anchor="start", weight="bold")
    c.bar(30, 356, 640, "c = time + class (B, 1, D), SiLU, linear: six vectors, once per clip; 1 is used twice")
    c.path((20, 310), (30, 310), arrow=False)
    x = c.sublayer(30, 310, "space", "space", "1", SPACE)
    x = c.sublayer(x, 310, "time", "time", "1", TIME)
    x = c.sublayer(x, 310, "mlp", "MLP", "2", MLP)
    c.path((x, 310), (x + 14, 310))
    c.text(136, 414, "(B, F, N, D), over N")
    c.text(350, 414, "as (B, N, F, D), over F; then back")
    c.text(564, 414, "each token alone")
    return c.svg(430)


def variant_4() -> str:
    c = Canvas(
        "Variant 4: factorised attention, space and time in parallel",
        "In every block half of the heads attend over space and half over time, at twice the head width. Both read the "
        "same normalised tokens of shape (B, F, N, D). The temporal component works on (B, N, F, D) and is brought "
        "back to (B, F, N, D); the sum of the two has that shape, is gated once and added to the tokens; the MLP "
        "follows. After one block a token has been reached by its own frame and its own position.",
    )
    panels(c, "both", "after one block: the cross")
    chips = [("S+T M", "both"), ("S+T M", "both"), ("...", "gap"), ("S+T M", "both")]
    strip(c, 200, chips, "23 blocks at XL; M is the MLP")
    c.text(20, 254, "one block", anchor="start", weight="bold")
    line = 344
    c.bar(30, line + 82, 640, "c = time + class (B, 1, D), SiLU, linear: six vectors, once per clip")
    c.path((20, line), (44, line))
    c.box(44, line - 17, 62, 34, "modulate", "norm,", "modulate")
    c.path((106, line), (113, line), (113, line - 32), (182, line - 32))
    c.path((113, line), (113, line + 36), (124, line + 36))
    c.box(182, line - 52, 116, 40, "space", "spatial attention", "half of the heads")
    c.path((298, line - 32), (377, line - 32), (377, line - 9))
    c.box(124, line + 19, 50, 34, "none", "(B, N,", "F, D)")
    c.path((174, line + 36), (182, line + 36), arrow=False)
    c.box(182, line + 16, 116, 40, "time", "temporal attention", "half of the heads")
    c.path((298, line + 36), (306, line + 36), arrow=False)
    c.box(306, line + 19, 50, 34, "none", "(B, F,", "N, D)")
    c.path((356, line + 36), (377, line + 36), (377, line + 9))
    c.circle(377, line, "+", "both")
    c.text(362, line + 4, "fused: (B, F, N, D)", anchor="end")
    x = c.gate_and_sum(30, 386, line, "1", 75, 74)
    c.box(x + 14, line - 17, 62, 34, "modulate", "norm,", "modulate")
    c.path((x, line), (x + 14, line))
    c.path((x + 76, line), (x + 86, line))
    c.box(x + 86, line - 17, 68, 34, "mlp", *MLP)
    x = c.gate_and_sum(x, x + 154, line, "2", x + 45, 74)
    c.path((x, line), (x + 12, line))
    heads(c, 492)
    return c.svg(606)


def heads(c: Canvas, y: float) -> None:
    """What is decomposed: the heads of one attention (16 at XL) into two components of 8 at twice the width."""
    c.text(20, y, "what is decomposed (XL, D = 1152)", anchor="start", weight="bold")
    c.text(20, y + 28, "variants 1 to 3: one attention", anchor="start")
    for index in range(16):
        c.box(250 + 24 * index, y + 14, 22, 20, "mlp", radius=2)
    c.text(640, y + 28, "16 x 72", anchor="start")
    for row, (name, kind) in enumerate((("spatial", "space"), ("temporal", "time"))):
        top = y + 42 + 26 * row
        c.text(20, top + 14, f"variant 4: the {name} component", anchor="start")
        for index in range(8):
            c.box(250 + 48 * index, top, 46, 20, kind, radius=2)
        c.text(640, top + 14, "8 x 144", anchor="start")
