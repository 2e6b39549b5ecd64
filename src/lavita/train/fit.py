"""One stage through one Lightning Trainer: the same lines for every method and for the suite's own codec."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lightning
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import LightningEnvironment

from lavita.config import CheckpointConfig, ComputeConfig
from lavita.kept import Kept
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

    folder takes tensorboard/ and steps.csv. loader gives batches of train.batch_clips / compute.accumulate_batches
    clips, as many as the limit wants. kept: where the stage keeps how far it is, as often as checkpoint says, and goes
    on from, to the same numbers bit for bit; None: nowhere. Raises Diverged on a loss that is not finite, Stopped where
    the process is asked to end.
    """
    # Lightning's tips and hints would drown the few lines that a user reads.
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    folder.mkdir(parents=True, exist_ok=True)
    clock = Clock(limit, report, every_seconds=5.0)
    steps = StepLog(folder / STEPS, clock)
    heldout_loss = HeldoutLoss(heldout, clock)
    logs = AppendedFiles(folder, [STEPS, f"{TENSORBOARD}/{module.stage_name}/events.*"])
    callbacks = [FiniteGuard(), clock, steps, Scalars(clock), heldout_loss]
    if module.uses_ema:
        clips = None if limit.clips is None else float(limit.clips)
        callbacks.append(Ema(decay_per_step(module.train_config, clips)))
    slots = None if kept is None else StageCheckpoints(kept, module.stage_name)
    start = None if slots is None else slots.newest()
    if slots is not None:
        callbacks += [logs, Chance(), Checkpoints(clock, checkpoint.every_clips)]
    if start is None:
        steps.begin(module.stage_name)
        logs.remove(f"{TENSORBOARD}/")
    else:
        before = slots.callback_states(start)
        logs.cut_to(before[AppendedFiles.__qualname__])
        loader = from_batch(loader, before[Clock.__qualname__]["steps"] * compute.accumulate_batches)
    trainer = lightning.Trainer(
        accelerator="auto",
        devices=1,
        precision=compute.precision,
        accumulate_grad_batches=compute.accumulate_batches,
        max_epochs=1,
        callbacks=callbacks,
        logger=TensorBoardLogger(str(folder / TENSORBOARD), name="", version=module.stage_name),
        plugins=[LightningEnvironment(), *([] if slots is None else [slots])],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    logs.flush = lambda: (steps.flush(), trainer.logger.experiment.flush())
    module.train()
    with recomputed_blocks(module, compute.checkpoint_activations):
        trainer.fit(module, train_dataloaders=loader, ckpt_path=start, weights_only=True)
    module.eval()
    trainer.logger.finalize("success")
    return Fitted(number(clock.seen), clock.steps, clock.seconds, heldout_loss.values)
