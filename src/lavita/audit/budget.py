"""Was the same budget spent, to the step? Added up again from the log of steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from lavita.audit.settings import audited, groups
from lavita.config.schema import BUDGET_UNITS
from lavita.results.audit_line import FAIL, PASS, AuditLine, same
from lavita.results.records import BudgetRecord, Record, StageRecord
from lavita.results.run_folder import Attempt, RunFolder
from lavita.results.training_log import CODEC, STEPS, read_steps

SPENT, ASKED, FINITE = "budget spent as logged", "same budget", "finite losses"


@dataclass
class Logged:
    """What the log says of a stage: steps, clips and seconds at the last, and the first loss that is not finite."""

    steps: int = 0
    clips: float = 0.0
    seconds: float = 0.0
    problem: str = ""


def logged(path: Path) -> dict[str, Logged]:
    """The stages of a log of steps. Raises ValueError naming a line that is not one."""
    found: dict[str, Logged] = {}
    for line in read_steps(path):
        stage = found.setdefault(line.stage, Logged())
        if line.step != stage.steps + 1 or line.clips_seen <= stage.clips or line.seconds < stage.seconds:
            stage.problem = stage.problem or f"line {line.line}: step {line.step} after step {stage.steps}"
        if line.loss is not None and not math.isfinite(line.loss):
            stage.problem = stage.problem or f"line {line.line}: loss {line.loss}"
        stage.steps, stage.clips, stage.seconds = line.step, line.clips_seen, line.seconds
    return found


def budget_lines(run: RunFolder) -> Iterator[AuditLine]:
    """Every run's stages against its log; its sum against what was asked; and what was asked of all rows."""
    for one in run.attempts:
        if one.record.identity and one.record.status == "ok":
            wrong = list(problems(run, one))
            spent = budget_of(one.record).spent
            said = f"{spent.clips:g} clips, {spent.flops:.4g} FLOPs, {spent.seconds:.1f} s"
            yield AuditLine(SPENT, one.record.cell, FAIL if wrong else PASS, "; ".join(wrong) or said)
            yield finite(one.record)
    for records in groups(run, audited(run)):
        yield from same(ASKED, {name: asked(record) for name, record in records.items()})


def budget_of(record: Record) -> BudgetRecord:
    """The budget of a run that completed. Raises ValueError where its record has none."""
    if record.budget is None or not record.stages:
        raise ValueError(f"record of {record.cell}: status ok, but without budget and stages")
    return record.budget


def asked(record: Record) -> str:
    """The budget that a row was given; in clips it is also what it spent."""
    budget = budget_of(record)
    clips = f", {record.row.clips_seen} clips spent" if budget.unit == "clips" else ""
    return f"{budget.asked:g} {budget.unit}{clips}"


def finite(record: Record) -> AuditLine:
    """Held-out losses are numbers."""
    bad = [(clips, loss) for clips, loss in record.heldout_losses if not math.isfinite(loss)]
    text = f"held-out loss {bad[0][1]} at {bad[0][0]} clips" if bad else "every held-out loss"
    return AuditLine(FINITE, record.cell, FAIL if bad else PASS, text)


def problems(run: RunFolder, one: Attempt) -> Iterator[str]:
    """What is wrong with the spending of a run."""
    record, folder = one.record, run.folder_of(one)
    stages, budget = record.stages, budget_of(record)
    try:
        logs = logged(folder / STEPS)
        if any(stage.name == CODEC for stage in stages):
            logs |= logged(run.shared_folder(record.shared) / CODEC / STEPS)
    except (OSError, ValueError) as error:
        yield f"no log of steps: {error}"
        return
    trained = [stage for stage in stages if stage.steps is not None]
    for stage in trained:
        yield from stage_problems(stage, logs.pop(stage.name, Logged()))
    for name, log in logs.items():
        yield f"{log.steps} steps of stage {name} are logged, but the record has no such stage"
    for unit in BUDGET_UNITS:
        total, said = sum(getattr(stage, unit) for stage in stages), budget.spent.of(unit)
        if not math.isclose(total, said, rel_tol=1e-9):
            yield f"stages sum to {total:g} {unit}, but the record says {said:g}"
    row = {"clips_seen": budget.spent.clips, "train_flops": budget.spent.flops}
    for column, value in row.items():
        if getattr(record.row, column) != int(value):
            yield f"{column} of the row is {getattr(record.row, column)}, but {int(value)} were spent"
    yield from against_asked(budget, trained[-1])


def stage_problems(stage: StageRecord, log: Logged) -> Iterator[str]:
    """A stage of the record against its log, and its FLOPs against those of a clip."""
    name = f"stage {stage.name}"
    if log.problem:
        yield f"{name}, {log.problem}"
    if log.steps != stage.steps or not math.isclose(log.clips, stage.clips, rel_tol=1e-9):
        yield (
            f"{name}: {stage.steps} steps and {stage.clips:g} clips are recorded, but {log.steps} steps and "
            f"{log.clips:g} clips logged"
        )
    if stage.steps is None or stage.batch_clips is None or stage.clip_cost is None or stage.flops_per_clip is None:
        yield f"{name}: its batch and the cost of a clip are not recorded"
        return
    wanted = float(stage.steps * stage.batch_clips * Fraction(stage.clip_cost))
    if not math.isclose(wanted, stage.clips, rel_tol=1e-9):
        yield f"{name}: {stage.clips:g} clips, but {stage.steps} steps of its batch are {wanted:g}"
    if stage.passes is not None and stage.batch_clips % stage.passes.clips:
        yield f"{name}: a batch of {stage.batch_clips} clips is no whole number of passes of {stage.passes.clips}"
    flops = stage.steps * stage.batch_clips * stage.flops_per_clip + (stage.preparation_flops or 0)
    if flops != stage.flops:
        yield f"{name}: {stage.flops:g} FLOPs, but its clips cost {flops:g}"


def against_asked(budget: BudgetRecord, last: StageRecord) -> Iterator[str]:
    """Exactly met in clips; in flops and seconds reached by the last step and not before it."""
    unit, want = budget.unit, budget.asked
    got = budget.spent.of(unit)
    step = 0.0 if unit == "clips" else getattr(last, unit) / last.steps
    # How long the last step took is not logged separately; a stage of seconds may end with a slow one.
    most = want + (math.inf if unit == "seconds" else step)
    if not want <= got <= most:
        yield f"spent {got:g} {unit}, but asked were {want:g}"
