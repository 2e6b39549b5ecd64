"""speed.py gpu: all that a full-size run depends on, measured on the accelerator that is there, under a time limit."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lavita.speed.bench import Part, Row, Setting

# What each part measures, in the order of measurement, and its share of the time.
PARTS = {
    "matmul": (1, "what the device can do: matrix products in float32, TF32 and bfloat16, and copies in its memory"),
    "step": (9, "training steps of XL/2 and S/2 (lavita-v1) in float32, TF32 and bfloat16, eager and recomputed"),
    "sdpa": (4, "attention, forward and backward, by back-end and precision at the shapes of XL/2"),
    "autoencoder": (6, "Stable Diffusion's autoencoder by frames a call; what chunks, TF32 and bfloat16 change"),
    "feed": (4, "loader with 0 to all workers, copies of a batch to the device, noise of a batch"),
    "optimiser": (2, "AdamW by implementation, moving average, gradient clipping at the size of XL/2"),
    "sampling": (5, "seconds a clip of 250 steps by batch and precision"),
    "features": (2, "I3D and C3D in the published shapes, clips one by one and 16 at once"),
    "repeatability": (2, "whether a step gives the same bits twice, with torch's deterministic algorithms and without"),
    "checkpoint": (3, "what an XL/2 stage resumes from: copied to the host, hashed and written beside training, read"),
    "compiled": (8, "steps and sampling with compiled blocks, and what compiling takes"),
    "end-to-end": (10, "a small run of tier paper on drawn videos, by stage (not on a CPU: tests/soak has it)"),
}
EPILOG = "parts:\n" + "\n".join(f"  {name:14} {what}" for name, (_, what) in PARTS.items())
EPILOG += """

A case that fails (out of memory, no kernel for it) is kept as a row with its reason, and so is one that found no time
left. The file is written anew after every case, so that what was measured before a kill is there. Weights are random:
no number here is about quality. Times are medians, spread is the distance of their quartiles."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the subcommand."""
    parser.epilog = EPILOG
    parser.add_argument("--out", metavar="FILE", type=Path, help="also write all rows with their setting, JSON")
    parser.add_argument("--seconds", type=float, default=540, help="the time limit, shared out (default: 540)")
    parser.add_argument("--only", help="some parts, separated by commas (default: all)")
    parser.add_argument("--list", action="store_true", help="name the parts with what they measure, and end")
    parser.add_argument("--tiny", action="store_true", help="sizes that only try the code; always without accelerator")
    parser.add_argument("--official", type=Path, metavar="DIR", help="a checkout of Vchitect/Latte, to time as well")


def run(options: argparse.Namespace) -> None:
    """Measure and print. Raises ValueError, naming the option, for what can't be measured."""
    names = check_options(options)
    if options.list:
        print("\n".join(f"{name:14} {PARTS[name][1]}" for name in names))
        return
    from lavita.speed.bench import measure_all

    setting = setting_of(options)
    facts = facts_of(options, setting)

    def report(rows: list[Row]) -> None:
        if options.out is not None:
            from lavita.files import atomic_write_text

            text = json.dumps(facts | {"rows": [asdict(row) for row in rows]}, indent=1)
            atomic_write_text(options.out, text + "\n")

    rows = measure_all(parts_of(names), setting, options.seconds, report)
    report(rows)
    print(table(rows, facts))


def check_options(options: argparse.Namespace) -> list[str]:
    """The parts asked for, in the order of PARTS. Raises ValueError naming the option."""
    from lavita.config.schema import nearest

    if not options.seconds > 0:
        raise ValueError(f"--seconds: got {options.seconds:g}, wanted more than 0")
    names = list(PARTS) if options.only is None else options.only.split(",")
    for name in names:
        if name not in PARTS:
            raise ValueError(f"--only: got {name!r}: {nearest(name, PARTS)}; --list says what each is")
    return [name for name in PARTS if name in names]


def setting_of(options: argparse.Namespace) -> Setting:
    """The accelerator that is there, with full sizes, or the CPU with tiny ones."""
    import os

    import torch

    from lavita.speed.bench import Setting

    # What deterministic products on a GPU need; read when its first one is started.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Setting(device, options.tiny or device.type == "cpu", options.official)


def parts_of(names: Sequence[str]) -> dict[str, Part]:
    """The parts of some names."""
    from lavita.speed import gpu_clips, gpu_network
    from lavita.speed.bench import Part

    cases = gpu_network.PARTS | gpu_clips.PARTS
    return {name: Part(PARTS[name][0], cases[name]) for name in names}


def facts_of(options: argparse.Namespace, setting: Setting) -> dict[str, Any]:
    """What holds for all rows: where, with what, of which code, how large."""
    from datetime import UTC, datetime

    import torch

    from lavita.results import provenance

    commit, changed = provenance.commit()
    return {
        "device": setting.device.type,
        "hardware": provenance.hardware(),
        "versions": provenance.versions(),
        "cuda": torch.version.cuda,
        "commit": commit,
        "changed": changed,
        "scale": "tiny" if setting.tiny else "full",
        "seconds": options.seconds,
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def table(rows: Sequence[Row], facts: dict[str, Any]) -> str:
    """What is printed: a line a number, part by part, then where it was measured."""
    lines: list[str] = []
    for part in dict.fromkeys(row.part for row in rows):
        lines.append(f"{part}: {PARTS[part][1]}")
        own = [row for row in rows if row.part == part]
        shown = [row for row in own if row.status != "skipped"]
        width = max((len(row.name) for row in shown), default=0)
        lines += [line(row, width) for row in shown]
        if len(shown) < len(own):
            lines.append(f"  {len(own) - len(shown)} cases skipped: {own[-1].reason}")
    if facts["scale"] == "tiny":
        lines.append("tiny sizes, which only try the code: these numbers say nothing of a full-size run")
    lines += [
        f"{facts['hardware']}; {facts['versions']}",
        f"commit {facts['commit'][:12]}{' with changes' if facts['changed'] == 'true' else ''}",
    ]
    return "\n".join(lines)


def line(row: Row, width: int) -> str:
    """One line of the printed table."""
    if row.status != "ok":
        return f"  {row.name:{width}}  failed: {row.reason}"
    value = "not a number" if row.value is None else f"{row.value:.5g} {row.unit}".rstrip()
    spread = f" (+- {row.spread / 2:.2g}, {row.repeats} times)" if row.repeats > 1 else ""
    peak = "" if row.peak_bytes is None else f"; peak {row.peak_bytes / 2**30:.2f} GiB"
    return f"  {row.name:{width}}  {row.quantity}: {value}{spread}{peak}"
