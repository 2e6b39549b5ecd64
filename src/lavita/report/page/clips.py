"""Moving clips in the page: every row beside real clips, and what first stages lose by themselves. The bytes of the
run's sprite files stand in it as they are, and the page's style moves them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lavita.files import require_inside
from lavita.metrics.table import is_metric, metric_words
from lavita.report.page.text import Table, table
from lavita.results.records import Record
from lavita.results.rows import shown
from lavita.results.run_folder import Attempt, RunFolder

PIXELATED_UP_TO = 64  # pixels of a clip: smaller ones are shown with their pixels as they are
COLUMNS = "Columns: original, reconstruction, each frame averaged to 4 x 4 blocks."


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


@dataclass(frozen=True)
class Picture:
    """A sprite as the page needs it. seconds: that a frame is shown; pixelated: whether its pixels are kept sharp."""

    base64: str
    alt: str
    width: int
    height: int
    across: int
    down: int
    seconds: str
    pixelated: bool


@dataclass(frozen=True)
class Figure:
    """name and said: its caption; missing: what is said where there is no picture."""

    name: str
    said: str
    picture: Picture | None
    missing: str = "No picture was kept."


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


def figure(sprite: Sprite | None, alt: str, name: str, said: str, missing: str = Figure.missing) -> Figure:
    """A figure of moving clips. Raises ValueError for sizes that are no numbers: the page's style is made of them."""
    if sprite is None:
        return Figure(name, said, None, missing)
    picture = Picture(
        base64=base64.b64encode(sprite.content).decode("ascii"),
        alt=f"{alt} Moving picture of {sprite.frames} frames.",
        width=int(sprite.width),
        height=int(sprite.height),
        across=int(sprite.across),
        down=int(sprite.down),
        seconds=f"{1 / float(sprite.fps):.6g}",
        pixelated=max(sprite.clip_size) <= PIXELATED_UP_TO,
    )
    return Figure(name, said + note(sprite), picture)


def note(sprite: Sprite) -> str:
    """What the page's picture lost against the clips that are scored, if anything."""
    if sprite.lossless:
        return ""
    height, width = sprite.clip_size
    return f" Picture stored with loss, from clips of {width} x {height} pixels; the scored clips are lossless."


def clip_figures(run: RunFolder) -> list[Figure]:
    """The first clips of every row beside the first real ones, chosen by nobody."""
    real = [
        figure(
            read_sprite(run.shared_folder(name), "real"),
            f"The first real clips of protocol {one.artifacts.protocol_name}.",
            "Real clips",
            f": the first windows of protocol {one.artifacts.protocol_name}, {one.record.dataset}.",
        )
        for name, one in run.used_shared.items()
    ]
    return real + [generated(run, attempt) for attempt in run.attempts]


def generated(run: RunFolder, attempt: Attempt) -> Figure:
    """The figure of one run."""
    record, folder = attempt.record, run.folder_of(attempt)
    if record.status != "ok":
        reason = f"{record.status}: {record.reason or 'no reason is recorded'}"
        return Figure(record.cell, "", None, f"No clips. {reason}")
    sprite = read_sprite(folder, "samples")
    seeds = sampling_seeds(folder, sprite.clips if sprite else 0)
    scores = [
        f"{metric_words(score.metric)} {shown(float(score.value))}"
        for score in record.scores_of("train")
        if is_metric(score.metric, "fvd")
    ]
    return figure(
        sprite,
        f"Clips of {record.cell}, {seeds}.",
        record.cell,
        f": {'; '.join([seeds, *scores])}.",
        missing="No picture was kept of these clips: the run is older than the page.",
    )


def sampling_seeds(folder: Path, count: int) -> str:
    """Which seeds the first clips have, from the list that is kept with them."""
    manifest = folder / "samples" / "clips.json"
    if not manifest.is_file():
        return "seeds not recorded"
    clips = json.loads(manifest.read_text(encoding="utf-8"))["clips"]
    seeds = [clip.get("seed") for clip in clips[:count]]
    if not seeds or None in seeds:
        return f"the first {count} of {len(clips)} clips"
    return f"sampling seeds {seeds[0]} to {seeds[-1]} of {len(clips)}"


def first_stage_figures(run: RunFolder) -> list[Figure]:
    """Held-out clips through every autoencoder of which a picture was kept."""
    places = [(run.shared_folder(name), "codec", f"the suite’s autoencoder ({name})") for name in run.used_shared]
    places += [(run.folder_of(one), "autoencoder", f"the first stage of {one.record.cell}") for one in run.attempts]
    found = [(read_sprite(folder, name), stage) for folder, name, stage in places]
    return [
        figure(sprite, f"Held-out clips through {stage}. {COLUMNS}", f"{stage[0].upper()}{stage[1:]}", f". {COLUMNS}")
        for sprite, stage in found
        if sprite
    ]


def first_stages_table(records: Sequence[Record]) -> Table | None:
    """One row per first stage, one column per metric; an autoencoder that several rows share stands once."""
    found: dict[tuple[Any, ...], list[str]] = {}
    for record in records:
        for stage in ("codec", "autoencoder"):
            scores = {one.metric: one.value for one in record.scores_of(stage)}
            if scores:
                place = record.shared if stage == "codec" else record.cell
                found.setdefault((stage, place, *scores.items()), []).append(record.cell)
    if not found:
        return None
    metrics = list(dict.fromkeys(name for _, _, *scores in found for name, _ in scores))
    lines = []
    for (stage, _, *scores), cells in found.items():
        values = dict(scores)
        lines.append((stage, *[shown(values.get(name, "not measured")) for name in metrics], ", ".join(cells)))
    columns = ("first stage", *map(metric_words, metrics), "of")
    return table(
        "Reconstruction of each first stage by itself.", columns, lines, "Table of first stages", "first-stages"
    )
