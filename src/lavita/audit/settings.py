"""Were the rows trained and scored under the same setting, and does each record say one thing of itself?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lavita.config.plain_yaml import read_yaml
from lavita.config.plan import deviations, experiment_from_dict
from lavita.config.registry import names_in
from lavita.config.schema import ConfigError
from lavita.data.catalogue import SPLITS
from lavita.files import sha256_of
from lavita.metrics.table import parse_key
from lavita.report.tables import setting_of
from lavita.results.audit_line import ALL, FAIL, NOT_APPLICABLE, PASS, AuditLine, equal, same, short
from lavita.results.identity import config_hash
from lavita.results.records import Record
from lavita.results.run_folder import Attempt, RunFolder

Records = Mapping[str, Record]
DATA_KEYS = ("frames", "interval", "resolution", "flip", "frame_choice", "short_videos", "fold")


def good(run: RunFolder) -> dict[str, Record]:
    """Records of the runs that count and completed, by name."""
    return {record.cell: record for record in run.records if record.status == "ok"}


def audited(run: RunFolder) -> dict[str, Record]:
    """Those of them that this suite made itself."""
    return {name: record for name, record in good(run).items() if record.identity}


def groups(run: RunFolder, records: Records) -> list[Records]:
    """Rows that must share a setting: all of a suite of methods; of a suite of choices those that share the protocol,
    since there a row may vary it, and then stands in a block of its own.
    """
    if not run.plan.compares_rows:
        return [records] if records else []
    cut: dict[str, dict[str, Record]] = {}
    for name, record in records.items():
        cut.setdefault(record.row.protocol_hash, {})[name] = record
    return list(cut.values())


def of_one_resolution(run: RunFolder, records: Records) -> list[Records]:
    """The same rows, cut further: those of a resolution of their own by their protocols."""
    cut: dict[str, dict[str, Record]] = {}
    for name, record in records.items():
        own = record.row.protocol_hash if record.label in run.plan.own_resolution else ""
        cut.setdefault(own, {})[name] = record
    return list(cut.values())


def setting_lines(run: RunFolder) -> Iterator[AuditLine]:
    """What all rows must share."""
    checks: list[tuple[str, str, Callable[[Record], Any]]] = [
        ("same data", "data", lambda r: r.row.data_fingerprint),
        ("same numbers of clips", "protocol", lambda r: f"{r.row.n_real} and {r.row.n_generated}"),
        ("same precision", "compute", lambda r: r.config["compute"]["precision"]),
        ("same codec of the suite", "codec", lambda r: r.config["codec"]),
    ]
    of_resolution: list[tuple[str, str, Callable[[Record], Any]]] = [
        ("same frames, stride, resolution, crop, flips", "data", data_of),
        ("same protocol", "protocol", lambda r: r.row.protocol_hash),
    ]
    for records in groups(run, audited(run)):
        for check, section, value in checks:
            yield from compared(run, records, check, section, value)
        for part in of_one_resolution(run, records):
            for check, section, value in of_resolution:
                yield from compared(run, part, check, section, value)
    yield from table_lines(run)


def compared(
    run: RunFolder, records: Records, check: str, section: str, value: Callable[[Record], Any]
) -> Iterator[AuditLine]:
    """Whether records agree in a value of a section, where the suite's rows do not vary that by name."""
    if section in run.plan.varied and len(records) > 1:
        yield AuditLine(check, ALL, NOT_APPLICABLE, f"the suite's rows vary {section} by name")
    else:
        yield from same(check, {name: value(record) for name, record in records.items()})


def table_lines(run: RunFolder) -> Iterator[AuditLine]:
    """What all rows of one table must share by their configurations: division, conditioning and guidance."""
    tables: dict[tuple[str, ...], dict[str, Any]] = {}
    for name, record in audited(run).items():
        tables.setdefault(setting_of(record.row), {})[name] = record.experiment()
    for experiments in tables.values():
        yield from same("same division", {name: one.division for name, one in experiments.items()})
        given = {name: f"{one.conditions}, guidance {one.sampling.guidance}" for name, one in experiments.items()}
        yield from same("same conditioning and guidance", given)


def data_of(record: Record) -> str:
    data, protocol = record.config["data"], record.config["protocol"]
    return ", ".join([*(f"{key} {data.get(key)}" for key in DATA_KEYS), f"crop {protocol['crop']}"])


def record_lines(run: RunFolder) -> Iterator[AuditLine]:
    """Each record against its own configuration and against the shared artifacts that it names."""
    for one in run.attempts:
        if one.record.identity:
            yield from config_lines(run, one)
            yield from shared_lines(run, one)


def config_lines(run: RunFolder, one: Attempt) -> Iterator[AuditLine]:
    """Configuration file, record, hash and row say the same."""
    check, record = "configuration as recorded", one.record
    try:
        written = experiment_from_dict(read_yaml(run.folder_of(one) / "config.yaml", "config.yaml"))
        recorded = record.experiment()
    except (ConfigError, OSError, TypeError, ValueError) as error:
        yield AuditLine(check, record.cell, FAIL, f"can't be read: {error}")
        return
    if written != recorded:
        yield AuditLine(check, record.cell, FAIL, differing(vars(written), vars(recorded)))
        return
    yield equal(check, record.cell, config_hash(recorded), record.row.config_hash, "the row's hash")
    row = record.row
    configured = {
        "cell": recorded.cell, "method": recorded.method, "seed": recorded.seed, "suite": recorded.suite,
        "tier": recorded.tier, "conditioning": recorded.conditions, "division": recorded.division,
        "guidance": recorded.sampling.guidance, "sampler": recorded.sampling.sampler,
        "n_real": recorded.protocol.n_real, "n_generated": recorded.protocol.n_generated,
    }  # fmt: skip
    wrong = [
        f"{key} {value}, but its row {getattr(row, key)}"
        for key, value in configured.items()
        if str(value) != str(getattr(row, key))
    ]
    yield AuditLine("row as configured", record.cell, FAIL if wrong else PASS, "; ".join(wrong) or "every column")


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The first section in which two configurations differ, and how."""
    for key, value in one.items():
        if value != other[key]:
            parts, others = (vars(v) if hasattr(v, "__dict__") else {key: v} for v in (value, other[key]))
            name = next(name for name in parts if parts[name] != others.get(name))
            return f"config.yaml has {key}.{name} {parts[name]}, but the record {others.get(name)}"
    return "config.yaml and the record differ"


def shared_lines(run: RunFolder, one: Attempt) -> Iterator[AuditLine]:
    """A row's data, protocol and extractor are those of the shared artifacts that it was made with."""
    check, record, row = "made with the shared artifacts", one.record, one.record.row
    shared = run.shared.get(record.shared)
    if shared is None:
        yield AuditLine(check, record.cell, FAIL, f"names shared/{record.shared}, which is not there")
        return
    if shared.record.status != "ok":
        yield AuditLine(check, record.cell, FAIL, f"shared/{record.shared} has status {shared.record.status}")
    used = shared.artifacts.protocol_used
    pairs = {
        "data_fingerprint": (row.data_fingerprint, shared.record.fingerprint),
        "extractor_hash": (row.extractor_hash, shared.artifacts.extractor_hash),
        "protocol_hash": (row.protocol_hash, used.hash()), "dataset": (row.dataset, shared.record.dataset),
    }  # fmt: skip
    wrong = [f"{key} {ours}, but there {theirs}" for key, (ours, theirs) in pairs.items() if ours != theirs]
    planned = record.experiment().protocol
    if used.with_weights(None, None) != planned.with_weights(None, None):
        wrong.append(f"protocol {planned.name}, but there {used.name}")
    yield AuditLine(check, record.cell, FAIL if wrong else PASS, "; ".join(wrong) or f"shared/{record.shared}")


CHECKPOINT = "checkpoint.safetensors"
COMMIT = "code is a commit"
PARAMETER_TOLERANCE = 0.05


def declared_lines(run: RunFolder) -> Iterator[AuditLine]:
    """The lines of every row, and of the plan."""
    for one in run.attempts:
        if one.record.identity and one.record.status == "ok":
            yield external_line(one)
            yield deviations_line(one.record)
            yield checkpoint_line(run, one)
            yield untrained_line(one.record)
    yield from commit_lines(run, strict=False)
    yield from size_lines(run)
    yield from plan_lines(run)


def external_line(one: Attempt) -> AuditLine:
    """External weights are named by their hashes, and no closed row has any."""
    check, record = "external weights declared", one.record
    experiment, names = record.experiment(), record.external_weights
    used = experiment.external_weights | (
        {"codec.path": str(experiment.codec.path)} if experiment.codec.kind == "kl" else {}
    )
    undeclared = sorted(set(used) - set(names))
    if undeclared:
        key = undeclared[0]
        return AuditLine(check, experiment.cell, FAIL, f"{key} is {short(used[key], 60)}, but the record declares none")
    gone = sorted(set(names) - set(used))
    if gone:
        return AuditLine(check, experiment.cell, FAIL, f"{gone[0]} is declared, but the configuration has none")
    size = record.row.external_bytes
    if size is None:
        return AuditLine(check, experiment.cell, FAIL, "the row does not say how many bytes are external")
    if size > 0 and experiment.division == "closed":
        return AuditLine(check, experiment.cell, FAIL, f"{size} bytes of external weights in a closed row")
    started = record.starting_weights
    if started and not (experiment.pretraining.method or experiment.pretraining.checkpoint):
        return AuditLine(
            check, experiment.cell, FAIL, f"started from {started.source}, but its configuration has no such"
        )
    return AuditLine(check, experiment.cell, PASS, "; ".join(names.values()) or "none used")


def deviations_line(record: Record) -> AuditLine:
    """Each value that is not the authors' own is listed."""
    check, experiment = "deviations listed", record.experiment()
    if experiment.method not in names_in("methods"):
        return AuditLine(
            check, experiment.cell, NOT_APPLICABLE, f"method {experiment.method} is not of this repository"
        )
    wanted, listed = deviations(experiment), record.deviations
    missing = [item for item in wanted if item not in listed]
    stray = [item for item in listed if item not in wanted]
    if missing or stray:
        text = f"{missing[0]} is not listed" if missing else f"{stray[0]} is listed, but not so configured"
        return AuditLine(check, experiment.cell, FAIL, text)
    return AuditLine(check, experiment.cell, PASS, f"{len(listed)} of them")


def checkpoint_line(run: RunFolder, one: Attempt) -> AuditLine:
    """The weights that were scored are the last average at the end of the budget: the only ones that are kept."""
    check, folder, record = "last average at budget end", run.folder_of(one), one.record
    found = sorted(path.name for path in folder.glob("*.safetensors"))
    if found != [CHECKPOINT]:
        return AuditLine(check, record.cell, FAIL, f"weights {', '.join(found) or 'none'}, but wanted {CHECKPOINT}")
    mark = sha256_of(folder / CHECKPOINT)
    if mark != record.row.weights_hash:
        text = f"{CHECKPOINT} has sha256 {mark[:16]}, but the row {record.row.weights_hash[:16]}"
        return AuditLine(check, record.cell, FAIL, text)
    return AuditLine(check, record.cell, PASS, f"sha256 {mark[:16]}")


def untrained_line(record: Record) -> AuditLine:
    """Every score of the trained method stands beside that of its own start, where that has one."""
    of = {stage: {score.metric for score in record.scores_of(stage)} for stage in ("train", "untrained")}
    missing = sorted(name for name in of["train"] - of["untrained"] if has_untrained(name))
    text = f"{missing[0]} has no untrained value" if missing else f"{len(of['untrained'])} scores of the start"
    return AuditLine(
        "untrained start in the table", record.cell, FAIL if missing or not of["untrained"] else PASS, text
    )


def has_untrained(metric: str) -> bool:
    """Whether a metric is taken of the untrained network too: that of a split's real clips is not."""
    key = parse_key(metric)
    return key is not None and "generated" in key.row.sides and not set(key.row.sides) & set(SPLITS)


def commit_lines(run: RunFolder, strict: bool) -> Iterator[AuditLine]:
    """One line per row that this suite made; a table to be published is strict in any case."""
    for record in audited(run).values():
        yield commit_line(record, strict or run.plan.publishable)


def commit_line(record: Record, strict: bool) -> AuditLine:
    """The code is a commit; changes beside it fail only where the table is to be published."""
    row = record.row
    dirty = {"true": " with uncommitted changes", "false": "", "unknown": ", unknown whether changed"}[row.dirty]
    verdict = FAIL if strict and (row.dirty != "false" or row.commit == "unknown") else PASS
    text = f"commit {row.commit[:12]}{dirty}"
    return AuditLine(COMMIT, record.cell, verdict, text + (", but wanted a clean one" if verdict == FAIL else ""))


def size_lines(run: RunFolder) -> Iterator[AuditLine]:
    """Rows that were to be as large as another method are so within 5 %, or flagged."""
    check, records = "parameters within tolerance or flagged", audited(run)
    matched = {name: record.config["model"].get("match_params") for name, record in records.items()}
    matched = {name: reference for name, reference in matched.items() if reference}
    for name, reference in matched.items():
        record = records[name]
        base = next((r for r in records.values() if r.config["method"] == reference), None)
        if base is None:
            yield AuditLine(check, name, NOT_APPLICABLE, f"{reference} is no row of this run")
            continue
        ours, theirs = record.row.params_trained, base.row.params_trained
        near = ours is not None and theirs is not None and abs(ours - theirs) <= PARAMETER_TOLERANCE * theirs
        fine = near or bool(record.flag)
        yield AuditLine(check, name, PASS if fine else FAIL, f"{ours} trained, {theirs} of {reference}")
    if not matched:
        yield AuditLine(check, ALL, NOT_APPLICABLE, "no row was matched in size (model.match_params)")


def plan_lines(run: RunFolder) -> Iterator[AuditLine]:
    """Every planned row is in the table, with a reason where it has no score."""
    check = "every planned row is there"
    there = {record.cell: record for record in run.records}
    missing = sorted(set(run.plan.cells) - set(there))
    for name in missing:
        yield AuditLine(check, name, FAIL, "planned, but without a record")
    for name, record in there.items():
        if record.status != "ok" and not record.reason and record.status not in ("queued", "running"):
            yield AuditLine(check, name, FAIL, f"status {record.status}, but no reason")
    if not missing:
        yield AuditLine(check, ALL, PASS, f"{len(run.plan.cells)} planned, {len(there)} in the tables")
