"""Published numbers as data: results/reported.csv, each with its protocol, its source and how well that was seen."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path

from lavita.config.compose import load_method, load_yaml
from lavita.config.plain_yaml import read_yaml
from lavita.config.registry import CONFIGS, PACKAGE, names_in
from lavita.config.schema import ConfigError, read
from lavita.metrics.table import parse_key
from lavita.results.published import SEEN, Known, Reported
from lavita.results.rows import Row
from lavita.results.run_folder import AbsentSystem

PATH = PACKAGE / "report" / "reported.csv"
COLUMNS = (
    "method,variant,dataset,resolution,frames,metric,value,std,bound,lower_is_better,conditioning,protocol,"
    "protocol_notes,own,as_reported_by,source,table,evidence,reprinted_by"
).split(",")
STD_NOT_SEEN, UNVERIFIED = "second-hand; std unverified", "unverified"
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


PAPER = "paper"  # the tier of the published settings
COUNTED = re.compile(r" \(\d+ windows of \d+ videos\)$")  # what a run adds to its protocol's name
NETWORK_OF = {"is": "is_extractor", "fid": None}  # other metrics: the protocol's extractor
FRAME_NETWORK = "inception"


def read_known(methods: Iterable[str]) -> Known:
    """`Known` of these methods (those without a file, external samples, have no published name) and of all else."""
    facts = {name: load_yaml("datasets", name) for name in names_in("datasets")}
    files = set(names_in("methods"))
    return Known(
        published_as={name: tuple(load_method(name).published_as) for name in methods if name in files},
        titles={name: one["title"] for name, one in facts.items()},
        sizes={name: tuple(one["published_videos"]) for name, one in facts.items()},
        presets={name: load_yaml("protocols", name) for name in names_in("protocols")},
    )


def why_not(row: Row, published: Reported, known: Known) -> tuple[str, ...]:
    """Every reason why a tidy row of the ledger and a published number can't be compared; () where they can.

    Compared must be: the tier, the data (as many videos as a whole copy has, left-out ones counted), the feature
    network with its recorded hash, the protocol with all its changes, the frames of a clip, what clips are made from.
    What is not known of either side counts as a difference. A rounded number is compared with nothing. Guidance,
    sampler and steps are not looked at: they are the method's, and stand in its row.
    """
    reasons = [] if row.tier == PAPER else [f"tier {row.tier or 'unknown'}, not {PAPER}"]
    reasons += data_differs(row.dataset, known)
    reasons += network_differs(row, published, known)
    pairs = {"protocol": (COUNTED.sub("", row.protocol), published.protocol)}
    pairs["conditioning"] = (row.conditioning, published.conditioning)
    for name, (ours, theirs) in pairs.items():
        if ours != theirs:
            reasons.append(f"{name} {ours}, " + (f"not {theirs}" if theirs else "the published one is not known"))
    if kind_of(row) != "fid" and frames_of(row) != published.frames:
        reasons.append(f"clips of {frames_of(row)} frames, not {published.frames}")
    if published.bound:
        reasons.append(f"the published number is no exact one ({published.bound})")
    return tuple(reasons)


def kind_of(row: Row) -> str:
    """fvd, kvd, is, ...: what a row's metric measures; "" where it is measured against a side of its own."""
    key = parse_key(row.metric)
    return key.row.name if key is not None and key.row.against is None else ""


def frames_of(row: Row) -> int:
    """Frames of the clips that a row's metric measures; 0 where `kind_of` is ""."""
    key = parse_key(row.metric)
    return key.frames if key is not None and key.row.against is None else 0


def dataset_of(label: str) -> str:
    """ucf101 of "ucf101 (weizmann, 72 videos)"."""
    return label.partition(" (")[0]


def data_differs(label: str, known: Known) -> list[str]:
    """Whether a row's data is a whole copy of the published set, by its number of videos."""
    sizes = known.sizes.get(dataset_of(label), ())
    used = re.search(r", (\d+) videos", label)
    left_out = sum(int(number) for number in re.findall(r"(\d+) (?:unreadable|duplicate|too short)", label))
    if used and int(used[1]) + left_out in sizes:
        return []
    whole = " or ".join(f"{size:,}" for size in sizes)
    return [f"data {label}, {f'a whole copy has {whole} videos' if whole else 'no number says what is a whole copy'}"]


def network_differs(row: Row, published: Reported, known: Known) -> list[str]:
    """Whether a row's feature network is that of the published protocol."""
    ours = row.extractor
    if ours == "embedded":
        return ["feature network embedded, the suite's own"]
    preset = known.presets.get(published.protocol.partition("[")[0])
    if preset is None:
        return []
    key = NETWORK_OF.get(kind_of(row), "extractor")
    wanted, recorded = (preset[key], preset[f"{key}_hash"]) if key else (FRAME_NETWORK, None)
    if ours != wanted:
        return [f"feature network {ours}, not {wanted}"]
    if recorded and row.extractor_hash != recorded:
        return [f"weights of {ours} {row.extractor_hash[:12]}, not {recorded[:12]}"]
    return []


FILE = CONFIGS / "not_yet.yaml"


def not_yet() -> list[AbsentSystem]:
    """The systems of configs/not_yet.yaml that are no method yet. Raises ConfigError."""
    entries = read_yaml(FILE, FILE.name)
    if not isinstance(entries, list):
        raise ConfigError(f"{FILE.name}: wanted a list of systems, got {type(entries).__name__}")
    found = [
        read(AbsentSystem, {"left_out": ""} | entry, f"{FILE.name}, entry {i}") for i, entry in enumerate(entries, 1)
    ]
    return [one for one in found if one.name not in names_in("methods")]
