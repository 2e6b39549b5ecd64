"""The artifacts that runs with the same data, autoencoder, extractor and protocol share: what was fitted before serves
again, else a new attempt is made.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lavita.config.compose import Experiment
from lavita.data.catalogue import SPLITS
from lavita.data.find import DataSource, find_data
from lavita.data.scan import Report
from lavita.executors.base import LOG, Task, Work, shown
from lavita.executors.process import Ended
from lavita.files import atomic_write_text
from lavita.results.attempts import attempts, changed_files, new_attempt
from lavita.results.identity import DATA_ELSEWHERE, shared_code_hash
from lavita.results.provenance import versions
from lavita.results.records import UNFINISHED, SharedRecord, read_record, write_record
from lavita.results.shared import SharedArtifacts, read_shared

CHECK = ".check-"  # how folders begin that hold the log of a check, until it is over


@dataclass(frozen=True)
class Group:
    """Runs with the same shared artifacts, which lie in shared/<key>/ of the results folder."""

    key: str
    experiments: list[Experiment]
    source: DataSource


def group_key(experiment: Experiment) -> str:
    """A short hash of all that decides the shared artifacts; where the data lies has no part in it."""
    e = experiment
    data = {key: value for key, value in asdict(e.data).items() if key not in DATA_ELSEWHERE}
    parts = [e.suite, e.tier, e.conditioning, data]
    parts += [asdict(part) for part in (e.budget, e.codec, e.extractor, e.weights, e.protocol)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def grouped(experiments: Sequence[Experiment], cache: Path, report: Report | None = None) -> list[Group]:
    """The groups in the order of their first runs, with the data of each found. Raises ValueError, OSError."""
    by_key: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        by_key.setdefault(group_key(experiment), []).append(experiment)
    groups = []
    for key, members in by_key.items():
        source = find_data(members[0].data, members[0].suite, members[0].tier, cache, report)
        root = str(source.catalogue.root)
        members = [replace(one, data=replace(one.data, root=root)) for one in members]
        groups.append(Group(key, members, source))
    return groups


@dataclass(frozen=True)
class GroupArtifacts:
    """What the runs of a group share, and where it lies. external: sha256 of each external file that they use; flops:
    what training will cost a run, by the name of its row.
    """

    group: Group
    folder: Path
    values: SharedArtifacts
    external: Mapping[str, str]
    flops: Mapping[str, float]


def make_shared_artifacts(work: Work, groups: Sequence[Group]) -> list[GroupArtifacts]:
    """Codec, extractor and real features of every group, from an earlier attempt where that is whole and was made from
    the same. Raises ValueError where they can't be had.
    """
    titles = {group.key: title_of(group, len(groups)) for group in groups}
    found = checked(work, groups, titles)
    found |= fitted_now(work, [group for group in groups if group.key not in found], titles)
    return [found[group.key] for group in groups]


def title_of(group: Group, groups: int) -> str:
    """What the display calls the fitting of a group's artifacts."""
    labels = dict.fromkeys(experiment.label for experiment in group.experiments)
    of = "" if groups == 1 else f" of {', '.join(labels)}"
    return f"shared artifacts: autoencoder, extractor, real clips{of}"


def checked(work: Work, groups: Sequence[Group], titles: Mapping[str, str]) -> dict[str, GroupArtifacts]:
    """The groups whose earlier artifacts serve again, by key."""
    folders = {group.key: earlier(work.folder / "shared", group.key, identity(group)) for group in groups}
    again = [group for group in groups if folders[group.key] is not None]
    scratch = {group.key: work.folder / f"{CHECK}{group.key}" for group in again}  # kept where it fails: it has the log
    tasks = [task_of(work, g, titles[g.key], folders[g.key], scratch[g.key], True, len(again)) for g in again]
    found = {}
    for group, ended in zip(again, work.here.run(tasks), strict=True):
        raise_unless_ok(ended, scratch[group.key])
        shutil.rmtree(scratch[group.key])
        if ended.status == "stale":
            work.display.line(f"{titles[group.key]}: fitted again: {ended.reason}")
        else:
            found[group.key] = shared_of(group, folders[group.key], ended)
    return found


def fitted_now(work: Work, groups: Sequence[Group], titles: Mapping[str, str]) -> dict[str, GroupArtifacts]:
    """The artifacts of groups that had none, by key."""
    folders = {group.key: attempt_for(work.folder / "shared", group) for group in groups}
    tasks = [task_of(work, g, titles[g.key], folders[g.key], folders[g.key], False, len(groups)) for g in groups]
    made = {}
    for group, ended in zip(groups, work.executor.run(tasks), strict=True):
        raise_unless_ok(ended, folders[group.key])
        made[group.key] = shared_of(group, folders[group.key], ended)
    return made


def shared_of(group: Group, folder: Path, ended: Ended) -> GroupArtifacts:
    """The artifacts that lie in a folder."""
    return GroupArtifacts(group, folder, read_shared(folder), dict(ended.result.external), dict(ended.result.flops))


def task_of(work: Work, group: Group, title: str, folder: Path, notes: Path, reuse: bool, groups: int) -> Task:
    """The process that fits the artifacts into folder, or with reuse only checks that they serve; notes: of its log;
    groups: how many of these processes there are, of which one alone has all accelerators for the latent cache."""
    spec = {"experiments": [asdict(one) for one in group.experiments], "cache": str(work.cache), "reuse": reuse}
    atomic_write_text(notes / "spec.json", json.dumps(spec, indent=1) + "\n")
    arguments = (str(notes / "spec.json"), str(folder))
    threads = group.experiments[0].compute.threads
    return Task(title, "", notes, "lavita.experiment.shared", arguments, threads, every_device=groups == 1)


def raise_unless_ok(ended: Ended, notes: Path) -> None:
    """Raise ValueError in one line where a process failed."""
    if ended.code != 0 or ended.result is None or ended.hung:
        raise ValueError(f"{ended.reason} (log: {shown(notes / LOG)})")


def attempt_for(parent: Path, group: Group) -> Path:
    """A folder to fit the artifacts in: the last one where nothing came of it (what was fitted lies in the cache), else
    a new one."""
    tries = attempts(parent, group.key)
    record = read_record(tries[-1], SharedRecord) if tries else None
    if record and record.status in UNFINISHED and record.identity == identity(group):
        shutil.rmtree(tries[-1])
    return new_attempt(parent, group.key, lambda folder: write_record(folder, first_record(group, identity(group))))


def identity(group: Group) -> str:
    """A hash of what the artifacts are made from: configuration, code, data."""
    parts = [group.key, shared_code_hash(), versions(), group.source.catalogue.fingerprint]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def earlier(parent: Path, key: str, mark: str) -> Path | None:
    """The newest whole attempt that was made from the same."""
    for folder in reversed(attempts(parent, key)):
        record = read_record(folder, SharedRecord)
        if record and record.status == "ok" and record.identity == mark and not changed_files(folder, record):
            return folder
    return None


def first_record(group: Group, mark: str) -> SharedRecord:
    """The record of artifacts that are about to be fitted: what data they are made from."""
    catalogue = group.source.catalogue
    return SharedRecord(
        cell=f"shared artifacts {group.key}",
        status="running",
        identity=mark,
        dataset=group.source.label,
        fingerprint=catalogue.fingerprint,
        splits={split: len(catalogue.split(split)) for split in SPLITS},
        left_out=tuple(catalogue.notes),
        protocol=group.experiments[0].protocol,
    )
