"""The figures of the choices: how a clip becomes tokens, and training on images beside video."""

from __future__ import annotations

from canvas import FRAMES, NAMES, POSITIONS, QUERY, Canvas, seen


def embedding() -> str:
    c = Canvas(
        "Clip embedding: uniform frame and compression frame",
        "Uniform frame: each of the F frames is cut into patches of p x p on its own, so there are F rows of N tokens. "
        "Compression frame: s frames at a time are cut into tubelets of s x p x p by a strided 3D convolution, so "
        "there are F / s rows of N tokens; after the last layer a transposed 3D convolution brings the s frames back.",
    )
    for index, (name, step) in enumerate((("uniform frame", 1), ("compression frame, s = 2", 2))):
        y = 62 + 190 * index
        c.text(20, y, name, anchor="start", weight="bold")
        for frame in range(FRAMES):
            stack_of_patches(c, 28 + 16 * frame, y + 20 + 16 * frame, frame < step)
        c.text(76, y + 146, "F frames, h x w")
        c.path((146, y + 72), (252, y + 72))
        how = ("p x p patches", "of every frame") if step == 1 else ("tubelets s x p x p", "(3D convolution)")
        c.text(200, y + 62, how[0])
        c.text(200, y + 88, how[1])
        rows = FRAMES // step
        names = NAMES if step == 1 else ["1 and 2", "3 and 4"]
        kinds = [["none"] * POSITIONS for _ in range(rows)]
        kinds[0][0] = "query"
        c.grid(310, y + 72 - 11 * rows, names, kinds)
        c.text(376, y + 146, "F x N tokens" if step == 1 else "(F / s) x N tokens")
        c.path((446, y + 72), (466, y + 72))
        c.box(466, y + 52, 62, 40, "both", "blocks")
        c.path((528, y + 72), (546, y + 72))
        last = (
            ("last layer:", "p x p patches") if step == 1 else ("last layer, then", "transposed 3D", "convolution, x s")
        )
        c.box(546, y + 44, 116, 56, "mlp", *last)
        c.path((662, y + 72), (680, y + 72))
        c.text(604, y + 146, "F frames, 2C channels")
    c.text(350, 424, "Black: one patch or tubelet, and the token that it becomes.")
    return c.svg(440)


def stack_of_patches(c: Canvas, x: float, y: float, marked: bool) -> None:
    """A frame of 3 x 2 patches, whose first may be marked."""
    for patch in range(POSITIONS):
        kind = "query" if marked and patch == 0 else "none"
        c.box(x + 18 * (patch % 3), y + 18 * (patch // 3), 18, 18, kind, radius=0)


def joint_images() -> str:
    c = Canvas(
        "Joint training with images",
        "n images, single frames drawn from the training set, are appended to the F frames of a clip. Spatial "
        "attention and the MLP treat all F + n alike; temporal attention sees the F video frames only, and the images "
        "pass it by. Every image has its own label.",
    )
    names = [*NAMES, "image 1", "image 2"]
    for index, (head, kind) in enumerate((("spatial attention", "space"), ("temporal attention", "time"))):
        left = 110 + 300 * index
        c.text(left + 66, 54, head, weight="bold")
        kinds = seen(kind)
        images = [["none"] * POSITIONS for _ in range(2)]
        if kind == "space":
            images[0] = seen("space")[QUERY[0]]
        c.grid(left, 64, names[:FRAMES], kinds)
        c.grid(left, 64 + 22 * FRAMES + 12, names[FRAMES:], images)
    c.text(176, 228, "(B, F + n, N, D), every frame alone")
    c.text(476, 228, "(B, N, F, D), video only")
    c.text(550, 190, "skip this attention", anchor="start")
    c.text(350, 262, "Black: tokens that look. Coloured: what they see. Images meet neither the video nor each other.")
    return c.svg(280)
