"""What the tests of traps share: a small protocol."""

from __future__ import annotations

from dataclasses import replace

from lavita.config.compose import read_protocol
from lavita.config.protocol import Protocol


def protocol(clips: int, interval: int = 1, frames: int = 4) -> Protocol:
    """The suite's protocol for so many clips of 16 pixels."""
    changes = {"n": clips, "frames": frames, "resolution": 16, "is_splits": 1}
    return replace(
        read_protocol("suite", changes | {"real_interval": interval, "generated_interval": interval}),
        extractor="embedded",
    )
