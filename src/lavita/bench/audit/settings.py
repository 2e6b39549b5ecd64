"""Were the rows trained and scored under the same setting, and does each record say one thing of itself?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lavita.bench.audit.compare import ALL, equal, same
from lavita.bench.audit_line import FAIL, NOT_APPLICABLE, PASS, AuditLine
from lavita.bench.plan import cell_from_dict, config_hash
from lavita.bench.run_folder import Attempt, RunFolder
from lavita.bench.table import SAME_IN_A_TABLE
from lavita.config import ConfigError
from lavita.plain_yaml import read_yaml
from lavita.score.protocol import Protocol

Records = Mapping[str, dict[str, Any]]
DATA_KEYS = ("frames", "interval", "resolution", "flip", "frame_choice", "short_videos", "fold")


def good(run: RunFolder) -> dict[str, dict[str, Any]]:
    """Records of the cells that count and ended well, by cell."""
    return {record["cell"]: record for record in run.records if record["status"] == "ok"}


def audited(run: RunFolder) -> dict[str, dict[str, Any]]:
    """Those of them that this suite made itself."""
    return {cell: record for cell, record in good(run).items() if record["identity"]}


def groups(run: RunFolder, records: Records) -> list[Records]:
    """Rows that must share a setting: all of a suite of methods; of a suite of choices those that share the protocol,
    since there a row may vary it, and then stands in a block of its own.
    """
    if not run.plan["compares_rows"]:
        return [records] if records else []
    cut: dict[str, dict[str, dict[str, Any]]] = {}
    for cell, record in records.items():
        cut.setdefault(record["row"]["protocol_hash"], {})[cell] = record
    return list(cut.values())


def setting_lines(run: RunFolder) -> Iterator[AuditLine]:
    """What all rows must share."""
    checks: list[tuple[str, str, Callable[[dict[str, Any]], Any]]] = [
        ("same data", "data", lambda r: r["row"]["data_fingerprint"]),
        ("same frames, stride, resolution, crop, flips", "data", data_of),
        ("same protocol", "protocol", lambda r: r["row"]["protocol_hash"]),
        ("same numbers of clips", "protocol", lambda r: f"{r['row']['n_real']} and {r['row']['n_generated']}"),
        ("same precision", "compute", lambda r: r["config"]["compute"]["precision"]),
        ("same codec of the suite", "codec", lambda r: r["config"]["codec"]),
    ]
    for records in groups(run, audited(run)):
        for check, section, value in checks:
            if section in run.plan["varied"] and len(records) > 1:
                yield AuditLine(check, ALL, NOT_APPLICABLE, f"the suite's rows vary {section} by name")
            else:
                yield from same(check, {cell: value(record) for cell, record in records.items()})
    yield from table_lines(run)


def table_lines(run: RunFolder) -> Iterator[AuditLine]:
    """Within each table, as its rows' columns cut it: what the configurations themselves say of rows side by side."""
    tables: dict[tuple[str, ...], dict[str, Any]] = {}
    for cell, record in audited(run).items():
        columns = tuple(str(record["row"][column]) for column in SAME_IN_A_TABLE)
        tables.setdefault(columns, {})[cell] = cell_from_dict(record["config"])
    for cells in tables.values():
        yield from same("same division", {name: cell.division for name, cell in cells.items()})
        given = {name: f"{cell.given}, guidance {cell.sampling.guidance}" for name, cell in cells.items()}
        yield from same("same conditioning and guidance", given)


def data_of(record: Mapping[str, Any]) -> str:
    data, protocol = record["config"]["data"], record["config"]["protocol"]
    return ", ".join([*(f"{key} {data.get(key)}" for key in DATA_KEYS), f"crop {protocol['crop']}"])


def record_lines(run: RunFolder) -> Iterator[AuditLine]:
    """Each record against its own configuration and against the shared parts that it names."""
    for one in run.cells:
        if one.record["identity"]:
            yield from config_lines(run, one)
            yield from shared_lines(run, one)


def config_lines(run: RunFolder, one: Attempt) -> Iterator[AuditLine]:
    """Configuration file, record, hash and row say the same."""
    check, record = "configuration as recorded", one.record
    try:
        written = cell_from_dict(read_yaml(run.path / "cells" / one.name / "config.yaml", "config.yaml"))
        recorded = cell_from_dict(record["config"])
    except (ConfigError, OSError, TypeError, ValueError) as error:
        yield AuditLine(check, record["cell"], FAIL, f"can't be read: {error}")
        return
    if written != recorded:
        yield AuditLine(check, record["cell"], FAIL, differing(vars(written), vars(recorded)))
        return
    yield equal(check, record["cell"], config_hash(recorded), record["row"]["config_hash"], "the row's hash")
    row = record["row"]
    configured = {
        "cell": recorded.cell, "method": recorded.method, "seed": recorded.seed, "suite": recorded.suite,
        "tier": recorded.tier, "conditioning": recorded.given, "division": recorded.division,
        "guidance": recorded.sampling.guidance, "sampler": recorded.sampling.sampler,
        "n_real": recorded.protocol.n_real, "n_generated": recorded.protocol.n_generated,
    }  # fmt: skip
    wrong = [
        f"{key} {value}, but its row {row[key]}" for key, value in configured.items() if str(value) != str(row[key])
    ]
    yield AuditLine("row as configured", record["cell"], FAIL if wrong else PASS, "; ".join(wrong) or "every column")


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The first section in which two configurations differ, and how."""
    for key, value in one.items():
        if value != other[key]:
            parts, others = (vars(v) if hasattr(v, "__dict__") else {key: v} for v in (value, other[key]))
            name = next(name for name in parts if parts[name] != others.get(name))
            return f"config.yaml has {key}.{name} {parts[name]}, but the record {others.get(name)}"
    return "config.yaml and the record differ"


def shared_lines(run: RunFolder, one: Attempt) -> Iterator[AuditLine]:
    """A row's data, protocol and extractor are those of the shared parts that it was made with."""
    check, record = "made with the shared parts", one.record
    shared = run.shared.get(record["shared"])
    if shared is None:
        yield AuditLine(check, record["cell"], FAIL, f"names shared/{record['shared']}, which is not there")
        return
    row = record["row"]
    if shared["status"] != "ok":
        yield AuditLine(check, record["cell"], FAIL, f"shared/{record['shared']} has status {shared['status']}")
    used = Protocol.from_dict(shared["protocol_used"])
    pairs = {
        "data_fingerprint": shared["fingerprint"], "extractor_hash": shared["extractor_hash"],
        "protocol_hash": used.hash(), "dataset": shared["dataset"],
    }  # fmt: skip
    wrong = [f"{key} {row[key]}, but there {value}" for key, value in pairs.items() if row[key] != value]
    planned = Protocol.from_dict(record["config"]["protocol"])
    if used.with_weights(None, None) != planned.with_weights(None, None):
        wrong.append(f"protocol {planned.name}, but there {used.name}")
    yield AuditLine(check, record["cell"], FAIL if wrong else PASS, "; ".join(wrong) or f"shared/{record['shared']}")
