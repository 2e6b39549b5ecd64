"""The data of a run: the given root, or (demo only) small videos that the code draws. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lavita.bench.suite import CellConfig, load_yaml
from lavita.config import ConfigError
from lavita.data.catalogue import Catalogue
from lavita.data.embedded import write_embedded
from lavita.data.layouts import read_layout

EMBEDDED = "embedded"


@dataclass(frozen=True)
class DataSource:
    """name stands in the folder's name, label in the rows: what the data really is."""

    catalogue: Catalogue
    name: str
    label: str


def find_data(cell: CellConfig, cache: Path) -> DataSource:
    """The catalogue of a cell's data set. Raises ConfigError or ValueError with one message."""
    dataset = cell.data.dataset
    if cell.data.root is None:
        if cell.tier != "demo":
            raise ConfigError(no_data_message(cell))
        root = write_embedded(dataset, cache / "embedded")
        catalogue = read_layout(dataset, root, cache_dir=cache)
        return DataSource(usable(catalogue, cell), EMBEDDED, f"{dataset} ({EMBEDDED})")
    root = Path(cell.data.root).expanduser()
    catalogue = usable(read_layout(dataset, root, cache_dir=cache), cell)
    videos = len(catalogue.videos)
    name = root.resolve().name
    return DataSource(catalogue, name, f"{dataset} ({name}, {videos} videos)")


def usable(catalogue: Catalogue, cell: CellConfig) -> Catalogue:
    """The catalogue without videos too short for a clip, where the configuration allows leaving them out."""
    return catalogue.long_enough(cell.data.frames, cell.data.interval, cell.data.short_videos)


def no_data_message(cell: CellConfig) -> str:
    """What was looked for, the expected tree, where the data comes from, and the demo command."""
    facts = load_yaml("datasets", cell.data.dataset)
    tree = "".join(f"    {line}\n" for line in facts["expected_tree"].splitlines())
    return (
        f"tier {cell.tier} needs {facts['title']}: data.root is not set, give data.root=ROOT\n"
        f"  expected tree:\n{tree}"
        f"  where it comes from: {facts['homepage']}\n"
        f"  {' '.join(facts['how_to_get'].split())}\n"
        f"  without data: python benchmarks/run.py --suite {cell.suite} --tier demo"
    )
