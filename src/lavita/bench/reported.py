"""Published numbers as data: results/reported.csv, each with its protocol, its source and how well that was seen."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from lavita.registry import ROOT

PATH = ROOT / "results" / "reported.csv"
COLUMNS = (
    "method,variant,dataset,resolution,frames,metric,value,std,bound,lower_is_better,conditioning,protocol,"
    "protocol_notes,own,as_reported_by,source,table,evidence,reprinted_by"
).split(",")
SEEN, STD_NOT_SEEN, UNVERIFIED = "second-hand", "second-hand; std unverified", "unverified"
EVIDENCE = (SEEN, STD_NOT_SEEN, UNVERIFIED)
FLAGS = {"true": True, "false": False}
ALLOWED = {
    "evidence": EVIDENCE,
    "bound": ("", "about", "more than"),
    "conditioning": ("", "none", "class", "text"),
    "own": tuple(FLAGS),
    "lower_is_better": (*FLAGS, ""),
}
NEEDED = ("method", "resolution", "frames", "metric", "value", "as_reported_by", "source")
RESOLUTION = re.compile(r"mixed|[1-9]\d*x[1-9]\d*")


@dataclass(frozen=True)
class Reported:
    """One published number; results/README.md says what each column means.

    std None: none is printed. lower_is_better None: a size or a count, no score. own: whether the method's authors
    print it. protocol: the preset that it was scored by, with its changes as `Protocol.derive` writes them, or "".
    """

    method: str
    variant: str
    dataset: str
    resolution: str
    frames: int
    metric: str
    value: float
    std: float | None
    bound: str
    lower_is_better: bool | None
    conditioning: str
    protocol: str
    protocol_notes: str
    own: bool
    as_reported_by: str
    source: str
    table: str
    evidence: str
    reprinted_by: str

    @property
    def seen_std(self) -> float | None:
        """The deviation, where it was seen in print."""
        return self.std if self.evidence == SEEN else None


def read_reported(path: Path = PATH) -> list[Reported]:
    """The published numbers in the order of the file.

    Raises ValueError naming file and line: for a missing or unknown column, a line of another length, missing evidence
    or source, a number that is none, a value that is not allowed, a line that stands there twice.
    """
    found: dict[Reported, int] = {}
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        check_header(next(reader, []), path)
        for cells in reader:
            where = f"{path.name}, line {reader.line_num}"
            if len(cells) != len(COLUMNS):
                raise ValueError(f"{where}: got {len(cells)} cells, wanted {len(COLUMNS)}; quote cells with a comma")
            one = reported(dict(zip(COLUMNS, cells, strict=True)), where)
            if one in found:
                raise ValueError(f"{where}: says the same as line {found[one]}; remove one")
            found[one] = reader.line_num
    return list(found)


def check_header(header: list[str], path: Path) -> None:
    """Raise ValueError unless the first line has exactly the columns in their order."""
    unknown = [name for name in header if name not in COLUMNS]
    missing = [name for name in COLUMNS if name not in header]
    if unknown or missing or header != COLUMNS:
        raise ValueError(
            f"{path.name}, line 1: unknown columns {unknown}, missing columns {missing}; wanted {','.join(COLUMNS)}"
        )


def reported(cells: Mapping[str, str], where: str) -> Reported:
    """One line. Raises ValueError, which begins with where."""
    for name in NEEDED:
        if not cells[name].strip():
            raise ValueError(f"{where}: {name} is empty; every published number needs it")
    for name, allowed in ALLOWED.items():
        if cells[name] not in allowed:
            choices = ", ".join(repr(one) for one in allowed)
            raise ValueError(f"{where}: {name} is {cells[name]!r}, allowed {choices}")
    if not RESOLUTION.fullmatch(cells["resolution"]):
        raise ValueError(f"{where}: resolution is {cells['resolution']!r}, wanted for example 256x256, or mixed")
    if not (cells["frames"].isdecimal() and int(cells["frames"])):
        raise ValueError(f"{where}: frames is {cells['frames']!r}, wanted a whole number, 1 or more")
    values = {field.name: cells[field.name] for field in fields(Reported)}
    values |= {"frames": int(cells["frames"]), "value": number(cells["value"], "value", where)}
    values |= {"std": None if cells["std"] == "" else number(cells["std"], "std", where)}
    values |= {name: FLAGS.get(cells[name]) for name in ("lower_is_better", "own")}
    return Reported(**values)


def number(text: str, name: str, where: str) -> float:
    """A finite number, 0 or more: no metric of the file is ever below."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{where}: {name} is {text!r}, wanted a number, 0 or more")
    return value
