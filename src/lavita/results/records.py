"""record.json: what is known of one attempt at a run (in cells/) or at shared artifacts, as frozen dataclasses
with one reader and one writer. A record is written whole or not at all, and changes by `dataclasses.replace`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from lavita.config.protocol import Protocol
from lavita.results.devices import Speed
from lavita.results.rows import Row, score_columns
from lavita.results.scores import Score
from lavita.results.typed_json import from_json, read_values, to_json, write_values, wrong

if TYPE_CHECKING:
    from lavita.config.compose import Experiment

STATUSES = ("queued", "running", "ok", "failed", "diverged", "over_budget", "interrupted")
UNFINISHED = ("queued", "running", "interrupted")  # what the same command resumes
RECORD = "record.json"
KIND = "kind"  # the key that says whose record a file is


@dataclass(frozen=True)
class Session:
    """One process at work on an attempt. job: Slurm's id, "" outside of it; started_at: ISO 8601, UTC; arithmetic: how
    exact its float32 is; stage, done, seconds, peak_bytes: the last that is known of it; ended: "" while it works,
    "ok", "killed", or its status.
    """

    host: str
    process: int
    job: str
    hardware: str
    versions: str
    started_at: str
    arithmetic: str = ""
    stage: str = ""
    done: float = 0
    seconds: float = 0.0
    peak_bytes: int = 0
    ended: str = ""


@dataclass(frozen=True)
class Passes:
    """How a batch of a stage goes through one process: clips of a pass; recomputed: whether blocks run again in the
    backward pass.
    """

    clips: int
    recomputed: bool


@dataclass(frozen=True)
class StageRecord:
    """What a stage cost: clips of the budget, FLOPs (2 per multiply-add), seconds. charged: whether another process
    trained it and this run is charged for it.

    Of training: steps of batch_clips clips, each of which counts as clip_cost (a fraction) clips of the budget;
    flops_per_clip; preparation_flops: what was measured on clips before the first step took, beside those of the clips;
    encoding_flops: those of them that a frozen autoencoder took, all steps; speed, held-out losses and
    compilation included; compiled_blocks: how many torch.compile has compiled; passes. Of the suite's autoencoder: psnr
    in dB on held-out clips. Of a latent cache: its size in bytes.
    """

    name: str
    clips: float
    seconds: float
    flops: float
    charged: bool = False
    steps: int | None = None
    batch_clips: int | None = None
    clip_cost: str | None = None
    flops_per_clip: int | None = None
    preparation_flops: int | None = None
    encoding_flops: int | None = None
    speed: Speed | None = None
    compiled_blocks: int | None = None
    passes: Passes | None = None
    psnr: float | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class BudgetSpent:
    """A budget in each of its units: clips, FLOPs, seconds."""

    clips: float
    flops: float
    seconds: float

    def of(self, unit: str) -> float:
        """The amount in a unit: "clips", "flops" or "seconds"."""
        return float({"clips": self.clips, "flops": self.flops, "seconds": self.seconds}[unit])


@dataclass(frozen=True)
class BudgetRecord:
    """unit: clips, flops or seconds; asked: in that unit; spent: over all stages, in every unit."""

    unit: str
    asked: float
    spent: BudgetSpent


@dataclass(frozen=True)
class StartingWeights:
    """Where a network's weights began, if not at random: tensors taken from source, those left at their own start with
    the reason, and those of the source that have no place in it.
    """

    taken: tuple[str, ...]
    left: dict[str, str]
    unused: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class MethodCard:
    """What a reader must know of a method. title, provenance: of its YAML; about: sections of its README by heading, as
    Markdown; authors: the published value of every setting, by "section.key"; why: for each that differs, by the same
    name, where the value here comes from; reader_note: of its YAML, None for a choice that is not the method as such.
    """

    title: str
    provenance: str
    about: dict[str, str]
    authors: dict[str, Any]
    why: dict[str, str]
    reader_note: str | None = None


@dataclass(frozen=True, kw_only=True)
class AttemptRecord:
    """What every record says. cell: the name; status: one of STATUSES; reason: why it is not ok, or a remark; identity:
    a hash of all that decides its numbers, "" of external samples; files: sha256 by path below the folder, None while
    it may still change.
    """

    kind: ClassVar[str]
    cell: str
    status: str
    reason: str = ""
    identity: str = ""
    files: dict[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Record(AttemptRecord):
    """One attempt at a run: method x seed, in a folder below cells/.

    label: <method>[-<choice>]; row: the columns of rows.csv that all its scores share; config: the whole configuration
    as plain values (`experiment` reads it); shared: the folder below shared/ that it was made with; comparison: a hash
    of what rows of one table share; made_from: hashes of all that decides the numbers, by what each is of; why: that
    the attempt was begun; external_weights: name, hash and origin by key; deviations: from the authors' settings, as
    "section.key: published -> here"; card: None for a method without a YAML; flag: why the row may differ in size from
    the one that it is matched to; declared: what the method says of its sources, external weights included.

    passes: of each stage, by its name, chosen when the first session began and kept for those that resume.
    heldout_losses: (clips seen, loss) of the last stage; scores: of the untrained network, of the trained one,
    and of the first stage.
    """

    kind: ClassVar[str] = "run"
    label: str
    row: Row
    config: dict[str, Any] = field(default_factory=dict)
    shared: str = ""
    comparison: str = ""
    code_hash: str = ""
    made_from: dict[str, str] = field(default_factory=dict)
    why: str = ""
    external_weights: dict[str, str] = field(default_factory=dict)
    deviations: tuple[str, ...] = ()
    card: MethodCard | None = None
    flag: str = ""
    declared: dict[str, str] = field(default_factory=dict)
    remark: str = ""
    starting_weights: StartingWeights | None = None
    budget: BudgetRecord | None = None
    stages: tuple[StageRecord, ...] = ()
    passes: dict[str, Passes] = field(default_factory=dict)
    heldout_losses: tuple[tuple[float, float], ...] = ()
    sessions: tuple[Session, ...] = ()
    scores: tuple[Score, ...] = ()

    def experiment(self) -> Experiment:
        """The configuration. Raises ConfigError, TypeError for one that this version does not know."""
        from lavita.config.plan import experiment_from_dict  # reading a record needs no YAML

        return experiment_from_dict(self.config)

    def scores_of(self, stage: str) -> list[Score]:
        """The scores of a stage."""
        return [score for score in self.scores if score.stage == stage]


@dataclass(frozen=True, kw_only=True)
class SharedRecord(AttemptRecord):
    """One attempt at the artifacts that runs share, in a folder below shared/.

    dataset: name of the data, with its number of videos; fingerprint: sha256 over its videos; splits: number of videos
    by split; left_out: videos that are not used, with the reason; protocol: as configured, before the networks' hashes
    are known.
    """

    kind: ClassVar[str] = "shared artifacts"
    dataset: str
    fingerprint: str
    splits: dict[str, int]
    left_out: tuple[str, ...]
    protocol: Protocol


KINDS = (Record, SharedRecord)
SomeRecord = TypeVar("SomeRecord", bound=AttemptRecord)


def write_record(folder: Path, record: AttemptRecord) -> None:
    """record.json, whole. Raises ValueError for a status that fairness.md does not know, OSError."""
    check_status(record, folder / RECORD)
    write_values(folder / RECORD, to_json(record) | {KIND: record.kind})


def read_record(folder: Path, kind: type[SomeRecord] = Record) -> SomeRecord | None:  # type: ignore[assignment]
    """The record of a folder, None where there is none.

    kind: Record, SharedRecord, or AttemptRecord for either. Raises ValueError, one line naming file and key, for a file
    that is not such a record.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    values = read_values(path, "a record", "; remove the run's folder to run it again")
    found = values.pop(KIND, None)
    known = {one.kind: one for one in KINDS if issubclass(one, kind)}
    if not isinstance(found, str) or found not in known:
        raise wrong(str(path), KIND, found, " or ".join(map(repr, known)))
    record = cast(SomeRecord, from_json(known[found], values, str(path)))
    check_status(record, path)
    return record


def check_status(record: AttemptRecord, path: Path) -> None:
    """Raise ValueError for a status that there is not."""
    if record.status not in STATUSES:
        raise ValueError(f"{path}: status: got {record.status!r}, allowed {', '.join(STATUSES)}")


def rows_of(record: Record) -> list[Row]:
    """Tidy rows of a record, one per score; a run that is not ok has exactly one, without metric and value."""
    row = replace(record.row, status=record.status, reason=record.reason)
    if record.status != "ok":
        return [replace(row, stage="", metric="", value=None)]
    return [replace(row, **score_columns(score)) for score in record.scores]
