"""Finds the data of a run: a copy of the data set below data.root, or the synthetic videos of the demo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lavita.config.compose import load_yaml
from lavita.config.schema import ConfigError, DataConfig
from lavita.console import invocation
from lavita.data.catalogue import Catalogue
from lavita.data.layouts import read_layout
from lavita.data.scan import Report
from lavita.data.synthetic import write_synthetic

SYNTHETIC = "embedded"


@dataclass(frozen=True)
class DataSource:
    """name stands in the folder's name, label in the rows: what the data really is."""

    catalogue: Catalogue
    name: str
    label: str


def find_data(data: DataConfig, suite: str, tier: str, cache: Path, report: Report | None = None) -> DataSource:
    """The catalogue of a data set; report(done, all) as its videos are checked.

    Without data.root the demo has its synthetic videos. Raises ConfigError or ValueError with one message.
    """
    dataset = data.dataset
    if data.root is None:
        if tier != "demo":
            raise ConfigError(no_data_message(dataset, suite, tier))
        root = write_synthetic(dataset, cache / "embedded")
        return DataSource(usable_catalogue(data, root, cache), SYNTHETIC, f"{dataset} ({SYNTHETIC})")
    root = Path(data.root).expanduser()
    catalogue = usable_catalogue(data, root, cache, report)
    name = root.resolve().name
    facts = [name, f"{len(catalogue.videos)} videos", f"fold {data.fold}" if (data.fold or 1) > 1 else ""]
    return DataSource(catalogue, name, f"{dataset} ({', '.join(filter(None, [*facts, catalogue.left_out]))})")


def usable_catalogue(data: DataConfig, root: Path | str, cache: Path, report: Report | None = None) -> Catalogue:
    """The videos of a data set below root that hold a clip: others are left out where the configuration allows.

    Raises ValueError where it does not.
    """
    catalogue = read_layout(data.dataset, root, cache, data.fold, data.max_unreadable, report)
    return catalogue.long_enough(data.frames, data.interval, data.short_videos, data.frame_choice)


def no_data_message(dataset: str, suite: str, tier: str) -> str:
    """What was looked for, the expected tree, where the data comes from, and the demo command."""
    facts = load_yaml("datasets", dataset)
    tree = "".join(f"    {line}\n" for line in facts["expected_tree"].splitlines())
    return (
        f"tier {tier} needs {facts['title']}: data.root is not set, give data.root=ROOT\n"
        f"  expected tree:\n{tree}"
        f"  where it comes from: {facts['homepage']}\n"
        f"  {' '.join(facts['how_to_get'].split())}\n"
        f"  without data: {invocation('run')} --suite {suite} --tier demo"
    )
