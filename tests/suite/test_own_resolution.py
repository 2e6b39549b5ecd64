"""A method that is trained at a resolution of its own: its row is planned, grouped, tabled and audited apart."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from lavita.audit import settings
from lavita.config.compose import compose, load_method, load_suite, own_resolution
from lavita.config.plan import check_identical, make_plan
from lavita.config.schema import ConfigError
from lavita.report.tables import blocks
from lavita.results.audit_line import FAIL, PASS
from lavita.results.rows import Row
from lavita.results.run_folder import RunPlan
from lavita.suite.artifacts import group_key
from lavita.suite.run_experiments import has_own_resolution


def planned(tier: str = "paper", *overrides: str):
    return make_plan("ucf101", tier, ["dit", "vdt", "mcvd"], [0], list(overrides))


def test_it_has_its_resolution_in_data_and_protocol_and_all_else_of_the_others():
    dit, vdt, mcvd = planned()
    assert (dit.data.resolution, mcvd.data.resolution, mcvd.protocol.resolution) == (256, 64, 64)
    assert mcvd.protocol.name == "suite[resolution=64]" and dit.protocol.name == "suite"
    assert replace(mcvd.data, resolution=256) == dit.data and mcvd.budget == dit.budget
    assert [has_own_resolution(one) for one in (dit, vdt, mcvd)] == [False, False, True]
    assert group_key(dit) == group_key(vdt) != group_key(mcvd)  # real clips and feature networks of its own


def test_at_the_other_tiers_it_stands_with_them():
    for tier in ("small", "demo"):
        dit, _, mcvd = planned(tier)
        assert dit.data == mcvd.data and group_key(dit) == group_key(mcvd) and not has_own_resolution(mcvd)


def test_a_resolution_for_all_is_one_for_all():
    dit, _, mcvd = planned("paper", "data.resolution=128", "protocol.resolution=128")
    assert dit.data == mcvd.data and group_key(dit) == group_key(mcvd) and not has_own_resolution(mcvd)


def test_nothing_but_the_resolution_may_differ():
    dit, _, mcvd = planned()
    own = {"mcvd"}
    check_identical([mcvd, dit], {"dit": set(), "mcvd": set()}, own)
    for other in (
        replace(mcvd, data=replace(mcvd.data, interval=1)),
        replace(mcvd, protocol=replace(mcvd.protocol, n_real=8)),
        replace(mcvd, budget=replace(mcvd.budget, clips=8)),
    ):
        with pytest.raises(ConfigError, match="of mcvd differs from that of dit"):
            check_identical([dit, other], {"dit": set(), "mcvd": set()}, own)
    with pytest.raises(ConfigError, match="(data|protocol) of mcvd differs from that of dit"):
        check_identical([dit, mcvd], {"dit": set(), "mcvd": set()})


def test_a_tier_of_a_method_says_sizes_and_resolution_only():
    spec, suite = load_method("mcvd"), load_suite("ucf101")
    assert own_resolution(spec, "paper", False) == 64 and own_resolution(spec, "demo", True) is None
    both = replace(spec, tiers={"demo": {"data": {"resolution": 16}, "synthetic": {"data": {"resolution": 8}}}})
    assert (own_resolution(both, "demo", False), own_resolution(both, "demo", True)) == (16, 8)
    assert compose(suite, "demo", both, True).data.resolution == 8
    for wrong in ({"train": {}}, {"data": {"frames": 4}}, {"synthetic": {"sampling": {}}}):
        with pytest.raises(ConfigError, match="a key of methods/mcvd.tiers.demo"):
            compose(suite, "demo", replace(spec, tiers={"demo": wrong}), True)


def test_its_row_stands_in_a_table_of_its_own():
    rows = [
        Row(suite="ucf101", tier="paper", cell=f"{one.label}-s0", method=one.method, protocol_hash=one.protocol.hash())
        for one in planned()
    ]
    assert [[row.method for row in block] for block in blocks(rows)] == [["dit", "vdt"], ["mcvd"]]


def lines_of(changes: dict[str, dict]) -> dict[str, list[str]]:
    """Verdicts of the two checks by resolution for the planned rows; changes: of the data of a row."""
    records = {}
    for one in planned():
        data = {key: getattr(one.data, key) for key in settings.DATA_KEYS} | changes.get(one.method, {})
        records[one.cell] = SimpleNamespace(
            label=one.label,
            row=SimpleNamespace(protocol_hash=one.protocol.hash()),
            config={"data": data, "protocol": {"crop": one.protocol.crop}},
        )
    plan = RunPlan("ucf101", "paper", "", ("dit", "vdt", "mcvd"), False, {}, (), own_resolution=("mcvd",))
    run = SimpleNamespace(plan=plan)
    found: dict[str, list[str]] = {}
    for part in settings.of_one_resolution(run, records):
        for line in settings.compared(run, part, "frames", "data", settings.data_of):
            found.setdefault(line.verdict, []).append(line.text)
    return found


def test_the_audit_compares_it_with_its_like():
    assert set(lines_of({})) == {PASS}
    assert FAIL in lines_of({"vdt": {"resolution": 128}})
