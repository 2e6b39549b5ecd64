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

from lavita.config import ComputeConfig
from lavita.train import ranks
from lavita.train.budget import Clock, Limit, number
from lavita.train.ema import Ema, decay_per_step
from lavita.train.guard import FiniteGuard
from lavita.train.heldout import HeldoutLoss
from lavita.train.module import TrainedStage
from lavita.train.recompute import recomputed_blocks
from lavita.train.step_log import StepLog
from lavita.train.strategy import placed, placement

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
) -> Fitted:
    """Train a stage to its limit; its weights end as their average (EMA) where it uses one.

    folder takes tensorboard/ and steps.csv. loader gives batches of train.batch_clips / (compute.accumulate_batches x
    processes) clips, as many as the limit wants. Where several processes train together, each calls this; all end with
    the same whole weights, and the first alone writes and reports. Raises Diverged on a loss that is not finite.
    """
    # Lightning's tips and hints would drown the few lines that a user reads.
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    folder.mkdir(parents=True, exist_ok=True)
    clock = Clock(limit, report if ranks.is_first() else lambda *_: None, every_seconds=5.0)
    heldout_loss = HeldoutLoss(heldout, clock)
    callbacks = [FiniteGuard(), clock, heldout_loss]
    if ranks.is_first():
        callbacks.insert(2, StepLog(folder / "steps.csv", clock))
    if module.uses_ema:
        clips = None if limit.clips is None else float(limit.clips)
        callbacks.append(Ema(decay_per_step(module.train_config, clips)))
    trainer = lightning.Trainer(
        accelerator="auto",
        **placement(compute, module),
        precision=compute.precision,
        accumulate_grad_batches=compute.accumulate_batches,
        max_epochs=1,
        callbacks=callbacks,
        default_root_dir=str(folder),  # where a Slurm job's own checkpoints would be looked for: there are none
        logger=TensorBoardLogger(str(folder / "tensorboard"), name="", version=module.stage_name),
        log_every_n_steps=10,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    module.train()
    with placed(module, compute) as fitted, recomputed_blocks(fitted, compute.checkpoint_activations):
        trainer.fit(fitted, train_dataloaders=loader)
    module.eval()
    return Fitted(number(clock.seen), clock.steps, ranks.of_first(clock.seconds), heldout_loss.values)
