"""overview.webp: real clips above those of every row, moving, one line each: a suite at a glance."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lavita.data.clip_folder import GAP, SPRITE_COLUMNS, moving
from lavita.files import atomic_write
from lavita.report.page.clips import Sprite, read_sprite
from lavita.results.run_folder import RunFolder

OVERVIEW = "overview.webp"
CLIPS = 8  # of a line
SIDE = 64  # pixels of a clip; smaller ones are magnified by a whole factor
LETTERS, MARGIN = 14, 6  # pixels: height of a line's name, and room on both sides of it
QUALITIES = (80, 60, 40)
MOST_BYTES = 1_400_000


def write_overview(run: RunFolder) -> Path | None:
    """Write overview.webp of a results folder: a line of eight moving clips for the real ones and for each row.

    Made from the pictures that the runs kept; nothing is scored from it. None where none was kept.
    """
    lines = [(name, clips_of(sprite)[:CLIPS]) for name, sprite in sprites_of(run)]
    if len(lines) < 2:
        return None
    path = run.path / OVERVIEW
    frames = [Image.fromarray(frame) for frame in drawn(lines)]
    for quality in QUALITIES:
        content = io.BytesIO()
        frames[0].save(content, "webp", save_all=True, append_images=frames[1:], duration=125, loop=0, quality=quality)
        if content.tell() <= MOST_BYTES:
            break
    atomic_write(path, lambda part: part.write_bytes(content.getvalue()))
    return path


def sprites_of(run: RunFolder) -> Iterator[tuple[str, Sprite]]:
    """The name and the kept picture of each line; the run's whole name where several seeds share a row's."""
    rows = Counter(one.record.label for one in run.attempts)
    folders = [("real", run.shared_folder(name), "real") for name in list(run.used_shared)[:1]]
    for one in run.attempts:
        name = one.record.label if rows[one.record.label] == 1 else one.record.cell
        folders.append((name, run.folder_of(one), "samples"))
    for name, folder, picture in folders:
        sprite = read_sprite(folder, picture)
        if sprite is not None:
            yield name, sprite


def clips_of(sprite: Sprite) -> np.ndarray:
    """The clips of a picture as they stand in it, uint8 (N, F, h, w, 3)."""
    sheet = np.asarray(Image.open(io.BytesIO(sprite.content)).convert("RGB"))
    columns = min(SPRITE_COLUMNS, sprite.clips)
    rows = -(-sprite.clips // columns)
    height, width = (sprite.height - GAP) // rows - GAP, (sprite.width - GAP) // columns - GAP
    clips = np.empty((sprite.clips, sprite.frames, height, width, 3), dtype=np.uint8)
    for frame in range(sprite.frames):
        top, left = frame % sprite.down * sprite.height, frame // sprite.down * sprite.width
        for clip in range(sprite.clips):
            y, x = top + GAP + clip // columns * (height + GAP), left + GAP + clip % columns * (width + GAP)
            clips[clip, frame] = sheet[y : y + height, x : x + width]
    return clips


def drawn(lines: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """The frames of the whole, uint8 (F, h, w, 3), lines below each other, each with its name on the left.

    lines: name and clips (n, F, H, W, 3), n of at most CLIPS. A line of fewer frames stays on its last one.
    """
    frames = max(clips.shape[1] for _, clips in lines)
    font = ImageFont.load_default(LETTERS)
    room = 2 * MARGIN + max(math.ceil(font.getlength(name)) for name, _ in lines)
    sheets = []
    for name, clips in lines:
        factor = max(1, SIDE // clips.shape[2])
        held = clips[:, np.minimum(np.arange(frames), clips.shape[1] - 1)]  # (n, F, H, W, 3)
        line = moving(held.repeat(factor, axis=2).repeat(factor, axis=3), CLIPS)  # (F, h, w, 3)
        label = Image.new("RGB", (room, line.shape[1]), "white")
        draw = ImageDraw.Draw(label)
        draw.text((MARGIN, line.shape[1] / 2), name, fill="black", anchor="lm", font=font)
        labels = np.broadcast_to(np.asarray(label), (frames, *np.asarray(label).shape))
        sheets.append(np.concatenate([labels, line], axis=2))
    width = max(sheet.shape[2] for sheet in sheets)
    pads = [((0, 0), (0, 0), (0, width - sheet.shape[2]), (0, 0)) for sheet in sheets]
    return np.concatenate([np.pad(s, pad, constant_values=255) for s, pad in zip(sheets, pads, strict=True)], axis=1)
