"""What a run leaves when it is completed: its weights with all that rebuilds them, and its record."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from lavita.config.compose import Experiment
from lavita.config.schema import BUDGET_UNITS, BudgetConfig
from lavita.experiment.sessions import seconds_of, stated_once, tidy
from lavita.experiment.setup import Setup
from lavita.experiment.train import Spent
from lavita.files import sha256_of
from lavita.methods.base import VideoMethod
from lavita.methods.checkpoint_files import size_of
from lavita.methods.checkpoints import save
from lavita.results.records import BudgetRecord, BudgetSpent, read_record, write_record
from lavita.results.scores import Score
from lavita.training.budget import OverBudget

FIXED_TABLES = {"pos_embed", "temp_embed", "time_embed"}


def save_method(setup: Setup, folder: Path) -> str:
    """The method's weights (averaged) with all that rebuilds it; returns the file's sha256."""
    experiment, shared = setup.experiment, setup.shared
    external = experiment.codec.kind == "kl"
    state = setup.method.state_dict()
    state = {key: value for key, value in state.items() if not (external and key.startswith("codec."))}
    # Sampling needs no file that only training read.
    model = experiment.model | dict.fromkeys(experiment.weight_files)
    config = {
        "cell": asdict(experiment) | {"data": asdict(experiment.data) | {"root": None}, "model": model},
        "num_classes": shared.num_classes,
        "class_names": shared.class_names,
        "classes": shared.classes,
    }
    path = folder / "checkpoint.safetensors"
    save(path, state, config)
    return sha256_of(path)


def complete(folder: Path, setup: Setup, spent: Spent, scores: Sequence[Score], weights_hash: str) -> None:
    """Put into the record what was spent and what came out; it is finished by `finish`.

    Raises RuntimeError where the budget was not met.
    """
    record = read_record(folder)
    method, budget = setup.method, setup.experiment.budget
    trained, total = parameter_counts(method)
    row = replace(
        record.row,
        clips_seen=int(spent.total("clips")),
        train_flops=int(spent.total("flops")),
        params_trained=trained,
        params_total=total,
        nfe=method.evaluations(setup.experiment.sampling),
        external_bytes=external_bytes(setup.experiment, method),
        weights_hash=weights_hash,
    )
    declared = dict(method.declared) | record.external_weights
    condition = "" if setup.conditions is None else setup.conditions.remark
    remarks = [record.flag, condition, *(f"{name}: {text}" for name, text in declared.items())]
    totals = BudgetSpent(**{unit: spent.total(unit) for unit in BUDGET_UNITS})
    record = replace(
        record,
        row=row,
        declared=declared,
        remark="; ".join(part for part in remarks if part),
        scores=tuple(scores),
        stages=tuple(spent.stages),
        heldout_losses=tuple(spent.heldout_losses),
        budget=BudgetRecord(budget.currency, budget.asked, totals),
    )
    write_record(folder, record)
    check_spent(setup.experiment.cell, budget, spent)


def parameter_counts(method: VideoMethod) -> tuple[int, int]:
    """(trained in some stage, all) parameters of a method."""
    trained = {id(p): p for stage in method.stages() for p in stage.module.trained_parameters()}
    # Fixed tables are parameters without gradient; a frozen autoencoder has weights too, and they count.
    fixed = {id(p) for name, p in method.named_parameters() if name.rpartition(".")[2] in FIXED_TABLES}
    # A discriminator is trained but no part of what samples: it counts too.
    everything = trained | {id(p): p for p in method.parameters() if id(p) not in fixed}
    return count(trained.values()), count(everything.values())


def count(parameters: Iterable[torch.Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def external_bytes(experiment: Experiment, method: VideoMethod) -> int:
    """Size of the external weights: the published autoencoder, and every file that a configuration names."""
    published = experiment.codec.kind == "kl" and not method.owns_first_stage
    codec = count(method.codec.parameters()) * 4 if published else 0
    return codec + sum(size_of(path) for path in set(experiment.external_weights.values()))


def check_spent(name: str, budget: BudgetConfig, spent: Spent) -> None:
    """Raise RuntimeError (OverBudget for more) unless the budget was met: exactly in clips, else by the last step."""
    currency, asked, last = budget.currency, budget.asked, spent.stages[-1]
    most = {"clips": 0.0, "flops": last.flops / last.steps, "seconds": math.inf}[currency]
    got = spent.total(currency)
    if not asked <= got <= asked + most:
        kind = RuntimeError if got < asked else OverBudget
        raise kind(f"{name} spent {got:g} {currency}, its budget is {asked:g}")


def finish(folder: Path, processes: int) -> None:
    """Mark the record ok, with what all sessions took together; processes: that trained at the same time."""
    record = read_record(folder)
    sessions = record.sessions
    seconds = seconds_of(sessions)
    row = replace(
        record.row,
        wall_seconds=seconds,
        accelerator_seconds=seconds * processes if torch.cuda.is_available() else 0.0,
        peak_bytes=max(one.peak_bytes for one in sessions),
        hardware=stated_once(sessions, "hardware"),
        versions=stated_once(sessions, "versions"),
    )
    write_record(folder, replace(record, status="ok", reason=record.remark, remark="", row=row))
    tidy(folder)
