"""The sections with moving clips: every row beside real clips, and what first stages lose by themselves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from lavita.report.notes import FIRST_STAGES_TEXT
from lavita.report.page.html import Html, breakable, element, section, table
from lavita.report.page.moving import figure, read_sprite
from lavita.report.page.prose import prose
from lavita.report.tables import number
from lavita.results.records import shown
from lavita.results.run_folder import RunFolder


def clips_section(run: RunFolder) -> Html:
    """The first clips of every row beside the first real ones, chosen by nobody."""
    figures = [
        figure(
            read_sprite(run.path / "shared" / name, "real"),
            f"The first real clips of protocol {one['protocol_name']}.",
            element("strong", "Real clips"),
            f": the first windows of protocol {one['protocol_name']}, {one['dataset']}.",
        )
        for name, one in run.used_shared.items()
    ]
    figures += [generated(run, attempt.name, attempt.record) for attempt in run.cells]
    control = element("button", "Pause all clips", type="button", id="motion", hidden=True)
    text = element(
        "p",
        "Uncurated: the clips of the first sampling seeds, in order, row by row, the same seeds for every method. "
        "Nothing was left out or chosen. All clips of a row lie without loss in cells/<cell>/samples/.",
    )
    grid = element("div", *figures, class_="grid")
    return section("clips", "Clips", text, element("p", control, class_="control"), grid)


def generated(run: RunFolder, folder: str, record: dict[str, Any]) -> Html:
    """The figure of one cell."""
    if record["status"] != "ok":
        reason = f"{record['status']}: {record.get('reason') or 'no reason is recorded'}"
        return figure(None, "", element("strong", record["cell"]), missing=f"No clips. {reason}")
    sprite = read_sprite(run.path / "cells" / folder, "samples")
    seeds = sampling_seeds(run, folder, sprite.clips if sprite else 0)
    scores = [
        f"{score['metric']} {shown(float(score['value']))}"
        for score in record["scores"]
        if score["stage"] == "train" and score["metric"].startswith("fvd_")
    ]
    return figure(
        sprite,
        f"Clips of {record['cell']}, {seeds}.",
        element("strong", record["cell"]),
        f": {'; '.join([seeds, *scores])}.",
        missing="No picture was kept of these clips: the run is older than the page.",
    )


def sampling_seeds(run: RunFolder, folder: str, count: int) -> str:
    """Which seeds the first clips have, from the list that is kept with them."""
    manifest = run.path / "cells" / folder / "samples" / "clips.json"
    if not manifest.is_file():
        return "seeds not recorded"
    clips = json.loads(manifest.read_text(encoding="utf-8"))["clips"]
    seeds = [clip.get("seed") for clip in clips[:count]]
    if not seeds or None in seeds:
        return f"the first {count} of {len(clips)} clips"
    return f"sampling seeds {seeds[0]} to {seeds[-1]} of {len(clips)}"


def first_stages_section(run: RunFolder) -> Html:
    """What codecs and autoencoders lose by themselves, with the pictures."""
    figures = []
    places = [(run.path / "shared" / name, "codec", f"the suite’s codec ({name})") for name in run.used_shared]
    places += [
        (run.path / "cells" / one.name, "autoencoder", f"the first stage of {one.record['cell']}") for one in run.cells
    ]
    for folder, name, whose in places:
        sprite = read_sprite(folder, name)
        if sprite:
            columns = "Columns: original, reconstruction, each frame averaged to 4 x 4 blocks."
            alt = f"Held-out clips through {whose}. {columns}"
            figures.append(figure(sprite, alt, element("strong", whose[0].upper() + whose[1:]), f". {columns}"))
    return section(
        "first-stages",
        "First stages",
        prose(FIRST_STAGES_TEXT),
        first_stages_table(run.records),
        element("div", *figures, class_="grid") if figures else None,
    )


def first_stages_table(records: Sequence[dict[str, Any]]) -> Html:
    """A row a first stage, a column a metric; a codec that several rows share stands once."""
    found: dict[tuple[Any, ...], list[str]] = {}
    for record in records:
        for stage in ("codec", "autoencoder"):
            scores = {one["metric"]: one["value"] for one in record["scores"] if one["stage"] == stage}
            if scores:
                whose = record["shared"] if stage == "codec" else record["cell"]
                found.setdefault((stage, whose, *scores.items()), []).append(record["cell"])
    if not found:
        return element("p", "No method has one here: all work in pixels.")
    metrics = list(dict.fromkeys(name for _, _, *scores in found for name, _ in scores))
    lines = []
    for (stage, _, *scores), cells in found.items():
        values = dict(scores)
        lines.append((stage, *[number(values.get(name, "not measured"), name) for name in metrics], ", ".join(cells)))
    columns = [breakable(name) for name in ("first stage", *metrics, "of")]
    return table("What each first stage loses by itself.", columns, lines, "Table of first stages", "first-stages")
