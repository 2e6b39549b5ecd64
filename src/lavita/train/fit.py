"""One stage through one Lightning Trainer: the same lines for every method and for the suite's own codec."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import lightning
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from lavita.config import CheckpointConfig, ComputeConfig
from lavita.kept import Kept
from lavita.train import ranks
from lavita.train.budget import Clock, Limit, number
from lavita.train.checkpoint import Chance, Checkpoints, StageCheckpoints
from lavita.train.ema import Ema, decay_per_step
from lavita.train.guard import FiniteGuard
from lavita.train.heldout import HeldoutLoss
from lavita.train.loader import from_batch
from lavita.train.logs import AppendedFiles
from lavita.train.module import TrainedStage
from lavita.train.recompute import recomputed_blocks
from lavita.train.scalars import Scalars
from lavita.train.step_log import StepLog
from lavita.train.strategy import placed, placement

STEPS, TENSORBOARD = "steps.csv", "tensorboard"

Report = Callable[[str, int, int, float], None]


@dataclass(frozen=True)
class Fitted:
    """What a stage spent, and its held-out losses as (clips seen, loss)."""

    clips: int | float
    steps: int
    seconds: float
    heldout_losses: list[tuple[int, float]]


def fit_stage(
    module: TrainedStage,
    loader: torch.utils.data.DataLoader,
    limit: Limit,
    folder: Path,
    heldout: dict[str, torch.Tensor],
    report: Report,
    compute: ComputeConfig,
    kept: Kept | None = None,
    checkpoint: CheckpointConfig | None = None,
) -> Fitted:
    """Train a stage to its limit; its weights end as their average (EMA) where it uses one.

    folder takes tensorboard/ and steps.csv. loader gives batches of train.batch_clips / (compute.accumulate_batches x
    processes) clips, as many as the limit wants. kept: where the stage keeps how far it is, as often as checkpoint
    says, and goes on from, to the same numbers bit for bit; None: nowhere. Where several processes train together, each
    calls this; all end with the same whole weights, and the first alone writes and reports. Raises Diverged on a loss
    that is not finite, Stopped where the process is asked to end.
    """
    # Lightning's tips and hints would drown the few lines that a user reads.
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    folder.mkdir(parents=True, exist_ok=True)
    clock = Clock(limit, report if ranks.is_first() else lambda *_: None, every_seconds=0.5)
    steps = StepLog(folder / STEPS, clock)
    heldout_loss = HeldoutLoss(heldout, clock)
    logs = AppendedFiles(folder, [STEPS, f"{TENSORBOARD}/{module.stage_name}/events.*"])
    callbacks = [FiniteGuard(), clock, *([steps] if ranks.is_first() else []), Scalars(clock), heldout_loss]
    if module.uses_ema:
        clips = None if limit.clips is None else float(limit.clips)
        callbacks.append(Ema(decay_per_step(module.train_config, clips)))
    slots = None if kept is None else StageCheckpoints(kept, module.stage_name)
    start = None if slots is None else slots.newest()
    if slots is not None:
        callbacks += [logs, Chance(), Checkpoints(clock, checkpoint.every_clips)]
    if start is not None:
        before = slots.callback_states(start)
        loader = from_batch(loader, before[Clock.__qualname__]["steps"] * compute.accumulate_batches)
    if ranks.is_first():
        bring_back(steps, logs, module.stage_name, None if start is None else before[AppendedFiles.__qualname__])
    where = placement(compute, module)
    plugins = [*where.pop("plugins"), *([] if slots is None else [slots])]
    trainer = lightning.Trainer(
        accelerator="auto",
        **where,
        plugins=plugins,
        precision=compute.precision,
        accumulate_grad_batches=compute.accumulate_batches,
        max_epochs=1,
        callbacks=callbacks,
        default_root_dir=str(folder),  # where a Slurm job's own checkpoints would be looked for: there are none
        logger=TensorBoardLogger(str(folder / TENSORBOARD), name="", version=module.stage_name),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    logs.flush = lambda: (steps.flush(), trainer.logger.experiment.flush())
    module.train()
    with placed(module, compute) as fitted, recomputed_blocks(fitted, compute.checkpoint_activations):
        trainer.fit(fitted, train_dataloaders=loader, ckpt_path=start, weights_only=True)
    module.eval()
    trainer.logger.finalize("success")
    return Fitted(number(clock.seen), clock.steps, ranks.of_first(clock.seconds), heldout_loss.values)


def bring_back(steps: StepLog, logs: AppendedFiles, stage: str, lengths: Mapping[str, int] | None) -> None:
    """Bring the logs to where they were when the stage was kept (lengths None: it begins)."""
    if lengths is not None:
        logs.cut_to(lengths)
        return
    steps.begin(stage)
    logs.remove(f"{TENSORBOARD}/")
