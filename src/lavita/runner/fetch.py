"""Fetches a data set with bars or lines on standard output. Only `prepare.py --download` comes here."""

from __future__ import annotations

from pathlib import Path

from lavita.runner.display import Display


def fetched(dataset: str, root: Path) -> bool:
    """Whether a data set's tree is in root now; where it must be asked for, how to ask has been printed.

    Raises ValueError, in one line, for what went wrong; the same command then goes on where it stopped.
    """
    # Imported here, so that nothing else ever loads the code that opens a connection.
    from lavita.data.sources import fetch_dataset

    display = Display()
    channel = display.channel(f"download of {dataset}")

    def progress(name: str, done: int, total: int | None) -> None:
        unit = 2**20
        # Without a known total the bar shows what has come so far.
        event = {"kind": "progress", "stage": f"{name} (MiB)", "done": done // unit}
        channel.show(event | {"total": -(-(total or done + unit) // unit)})

    try:
        return fetch_dataset(dataset, root, display.line, progress)
    finally:
        channel.close()
        display.end()
