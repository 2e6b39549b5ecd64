"""Systems that a comparison should hold and the suite does not train yet: listed, never silently absent."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from lavita.config import ConfigError, read
from lavita.plain_yaml import read_yaml
from lavita.registry import CONFIGS, names_in

FILE = CONFIGS / "not_yet.yaml"


@dataclass(frozen=True)
class NotYet:
    """name: as configs/methods would have it; source: the paper's address; left_out: why it takes no part at all."""

    name: str
    title: str
    source: str
    left_out: str


def not_yet() -> list[dict[str, str]]:
    """The systems of configs/not_yet.yaml that are no method yet, as plain values. Raises ConfigError."""
    entries = read_yaml(FILE, FILE.name)
    if not isinstance(entries, list):
        raise ConfigError(f"{FILE.name}: wanted a list of systems, got {type(entries).__name__}")
    found = [read(NotYet, {"left_out": ""} | entry, f"{FILE.name}, entry {i}") for i, entry in enumerate(entries, 1)]
    return [asdict(one) for one in found if one.name not in names_in("methods")]
