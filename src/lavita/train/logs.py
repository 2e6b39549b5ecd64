"""Files that a stage only ever appends to, cut back to where they were when the stage is gone on with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning


class AppendedFiles(lightning.Callback):
    """Remembers how long the stage's logs (steps.csv, TensorBoard's event files) are, and cuts them back to that:
    steps taken after the last checkpoint are taken again, and would stand there twice.

    folder: what is searched; patterns: of the stage's files below it; flush: writes what is still in memory, to be set
    once the writers are there.
    """

    def __init__(self, folder: Path, patterns: list[str]) -> None:
        self.folder, self.patterns = folder, patterns
        self.flush: Callable[[], Any] = lambda: None

    def files(self) -> list[Path]:
        return sorted(path for pattern in self.patterns for path in self.folder.glob(pattern))

    def state_dict(self) -> dict[str, int]:
        self.flush()
        return {path.relative_to(self.folder).as_posix(): path.stat().st_size for path in self.files()}

    def remove(self, start: str) -> None:
        """Remove the files whose path below the folder begins with start: an earlier try's."""
        for path in self.files():
            if path.relative_to(self.folder).as_posix().startswith(start):
                path.unlink()

    def cut_to(self, lengths: Mapping[str, Any]) -> None:
        """Bring the files to these lengths in bytes; one that is not named was begun later, and goes.

        Raises ValueError where one is shorter: it was changed from outside.
        """
        for path in self.files():
            length, found = lengths.get(path.relative_to(self.folder).as_posix()), path.stat().st_size
            if length is None:
                path.unlink()
            elif found < length:
                raise ValueError(f"{path}: {found} bytes, but {length} were written; this stage can't be gone on with")
            else:
                with path.open("r+b") as file:
                    file.truncate(length)
