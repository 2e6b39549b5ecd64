"""Whether a score of ours may be held against a published number, and if not, why, in words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lavita.bench.reported import Reported
from lavita.bench.suite import load_method, load_yaml
from lavita.registry import names_in

PAPER = "paper"  # the tier of the published settings
COUNTED = re.compile(r" \(\d+ windows of \d+ videos\)$")  # what a run adds to its protocol's name
NETWORK_OF = {"is": "is_extractor", "fid": None}  # other metrics: the protocol's extractor
FRAME_NETWORK = "inception"
METRIC = re.compile(r"(?P<kind>[a-z]+)(?:_.+)?_n\d+_f(?P<frames>\d+)")  # not fvd-train and the like


@dataclass(frozen=True)
class Known:
    """What the configuration says of methods, data sets and protocols, by their names.

    published_as: of a method, as in MethodSpec. titles, sizes: of a data set, its name in results/reported.csv and how
    many videos whole copies have. presets: the plain content of configs/protocols.
    """

    published_as: Mapping[str, Sequence[str]]
    titles: Mapping[str, str]
    sizes: Mapping[str, Sequence[int]]
    presets: Mapping[str, Mapping[str, Any]]


def read_known(methods: Iterable[str]) -> Known:
    """`Known` of these methods (those without a file, clips made elsewhere, have no published name) and of all else."""
    facts = {name: load_yaml("datasets", name) for name in names_in("datasets")}
    files = set(names_in("methods"))
    return Known(
        published_as={name: load_method(name).published_as for name in methods if name in files},
        titles={name: one["title"] for name, one in facts.items()},
        sizes={name: one["published_videos"] for name, one in facts.items()},
        presets={name: load_yaml("protocols", name) for name in names_in("protocols")},
    )


def why_not(row: Mapping[str, Any], published: Reported, known: Known) -> tuple[str, ...]:
    """Every reason why a tidy row of the ledger and a published number can't be compared; () where they can.

    Compared must be: the tier, the data (as many videos as a whole copy has, left-out ones counted), the feature
    network with its recorded hash, the protocol with all its changes, the frames of a clip, what clips are made from.
    What is not known of either side counts as a difference. A rounded number is compared with nothing. Guidance,
    sampler and steps are not looked at: they are the method's, and stand in its row.
    """
    reasons = [] if row["tier"] == PAPER else [f"tier {row['tier'] or 'unknown'}, not {PAPER}"]
    reasons += data_differs(str(row["dataset"]), known)
    reasons += network_differs(row, published, known)
    pairs = {"protocol": (COUNTED.sub("", str(row["protocol"])), published.protocol)}
    pairs["conditioning"] = (str(row["conditioning"]), published.conditioning)
    for name, (ours, theirs) in pairs.items():
        if ours != theirs:
            reasons.append(f"{name} {ours}, " + (f"not {theirs}" if theirs else "the published one is not known"))
    if kind_of(row) != "fid" and frames_of(row) != published.frames:
        reasons.append(f"clips of {frames_of(row)} frames, not {published.frames}")
    if published.bound:
        reasons.append(f"the published number is no exact one ({published.bound})")
    return tuple(reasons)


def kind_of(row: Mapping[str, Any]) -> str:
    """fvd, kvd, is, ...: what a row's metric measures; "" where it is measured against a side of its own."""
    found = METRIC.fullmatch(str(row["metric"]))
    return found["kind"] if found else ""


def frames_of(row: Mapping[str, Any]) -> int:
    """Frames of the clips that a row's metric measures; 0 where `kind_of` is ""."""
    found = METRIC.fullmatch(str(row["metric"]))
    return int(found["frames"]) if found else 0


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


def network_differs(row: Mapping[str, Any], published: Reported, known: Known) -> list[str]:
    """Whether a row's feature network is that of the published protocol."""
    ours = str(row["extractor"])
    if ours == "embedded":
        return ["feature network embedded, the suite's own"]
    preset = known.presets.get(published.protocol.partition("[")[0])
    if preset is None:
        return []
    key = NETWORK_OF.get(kind_of(row), "extractor")
    wanted, recorded = (preset[key], preset[f"{key}_hash"]) if key else (FRAME_NETWORK, None)
    if ours != wanted:
        return [f"feature network {ours}, not {wanted}"]
    if recorded and str(row["extractor_hash"]) != recorded:
        return [f"weights of {ours} {str(row['extractor_hash'])[:12]}, not {recorded[:12]}"]
    return []
