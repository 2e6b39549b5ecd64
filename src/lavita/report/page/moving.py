"""Moving clips in a page: the sprite files of a run, their bytes as they are, moved by the page's style."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lavita.files import require_inside
from lavita.report.page.html import Html, element, html

PIXELATED_UP_TO = 64  # pixels of a clip: smaller ones are shown with their pixels as they are


@dataclass(frozen=True)
class Sprite:
    """content: a WebP file whose frames lie below each other, `down` of them, then `across` such columns; width,
    height: of a frame, in pixels; clips: on each frame; clip_size: before any scaling; fps: to be shown at.
    """

    content: bytes
    frames: int
    across: int
    down: int
    width: int
    height: int
    clips: int
    clip_size: tuple[int, int]
    lossless: bool
    fps: float


def read_sprite(folder: Path, name: str) -> Sprite | None:
    """A sprite of a run, None where none was kept. Raises ValueError for a picture that lies elsewhere."""
    description = folder / f"{name}.sprite.json"
    if not description.is_file():
        return None
    facts: dict[str, Any] = json.loads(description.read_text(encoding="utf-8"))
    picture = require_inside(folder, facts["picture"], f"{description}: picture")
    if not picture.is_file():
        return None
    values = {field.name: facts[field.name] for field in fields(Sprite) if field.name != "content"}
    return Sprite(picture.read_bytes(), **values | {"clip_size": tuple(facts["clip_size"])})


def figure(sprite: Sprite | None, alt: str, *caption: Any, missing: str = "") -> Html:
    """A figure of moving clips with its caption; missing: what is said where there are none."""
    if sprite is None:
        box = element("p", missing or "No picture was kept.", class_="missing")
        return element("figure", box, element("figcaption", *caption), class_="clips")
    # The sizes are numbers of our own making; the style needs them to move from frame to frame.
    place = {
        "aspect-ratio": f"{int(sprite.width)} / {int(sprite.height)}",
        "--across": int(sprite.across),
        "--down": int(sprite.down),
        "--frame": f"{1 / float(sprite.fps):.6g}s",
    }
    picture = element(
        "img",
        src=Html(f"data:image/webp;base64,{base64.b64encode(sprite.content).decode('ascii')}"),
        alt=f"{alt} Moving picture of {sprite.frames} frames.",
        class_="pixels" if max(sprite.clip_size) <= PIXELATED_UP_TO else None,
    )
    style = "; ".join(f"{key}: {value}" for key, value in place.items())
    window = element("div", picture, class_="window", style=style)
    return element("figure", window, element("figcaption", *caption, html(note(sprite))), class_="clips")


def note(sprite: Sprite) -> str:
    """What the page's picture lost against the clips that are scored, if anything."""
    if sprite.lossless:
        return ""
    height, width = sprite.clip_size
    return f" Picture stored with loss, from clips of {width} x {height} pixels; the scored clips are lossless."
