"""One stage through one Lightning Trainer: the same lines for every method and for the suite's own autoencoder."""

from __future__ import annotations

import copy
import ctypes
import gc
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch.utils.data import DataLoader

from lavita.config.schema import CheckpointConfig, ComputeConfig
from lavita.diffusion.rng import SampleRNG
from lavita.nn.precision import mixed_precision
from lavita.results.resume_store import ResumeStore
from lavita.training import distributed
from lavita.training.ahead import changed_loader, with_draws
from lavita.training.arithmetic import arithmetic
from lavita.training.budget import Clock, Limit, number
from lavita.training.callbacks import AppendedFiles, Ema, FiniteGuard, HeldoutLoss, Scalars, StepLog, decay_per_step
from lavita.training.checkpoint import Checkpoints, RNGStates, StageCheckpoints
from lavita.training.compilation import compiled_blocks
from lavita.training.distributed import recomputed_blocks, take_weights
from lavita.training.stage import TrainedStage, inputs_of, others_frozen


class FromBatch:
    """The indices of a loader's batches from number `first` on. Its length stays that of all: the trainer, which is
    told how many were seen before, compares with that."""

    def __init__(self, batches: Any, first: int) -> None:
        self.batches, self.first = batches, first

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.batches), self.first, None)

    def __len__(self) -> int:
        return len(self.batches)


def from_batch(loader: DataLoader, first: int) -> DataLoader:
    """The same loader, beginning with batch number `first`."""
    return changed_loader(loader, batch_sampler=FromBatch(loader.batch_sampler, first))


def passes_to_prepare(module: TrainedStage, pass_clips: int) -> int:
    """Passes of pass_clips clips, of all processes, that hold the clips which a stage measures on."""
    return -(-module.prepared_clips // pass_clips)


def prepare(module: TrainedStage, loader: DataLoader, clock: Clock) -> None:
    """Let a stage measure what it needs on its first clips; the time that takes is the stage's."""
    if not module.prepared_clips:
        return
    began, name = time.monotonic(), f"{PREPARED} {module.stage_name}"

    def batches() -> Iterator[tuple[dict[str, torch.Tensor], SampleRNG]]:
        for batch in islice(loader, passes_to_prepare(module, loader.batch_size * distributed.world())):
            rng = SampleRNG.for_training(module.seed, name, batch["clip_index"], module.device)
            yield inputs_of(module.transfer_batch_to_device(batch, module.device, 0)), rng

    with torch.no_grad():
        module.eval().prepare(batches())
    clock.seconds += time.monotonic() - began


def placement(compute: ComputeConfig, module: TrainedStage) -> dict[str, Any]:
    """Arguments of a Trainer: devices, num_nodes, strategy, and where the processes come from.

    That is said, and never found out: Lightning would otherwise take a Slurm job's tasks for its own processes, and
    its requeueing and checkpoints of its own come with that. Raises ValueError unless as many processes are here as
    compute says.
    """
    if distributed.world() != compute.processes:
        raise ValueError(
            f"compute.devices: {compute.devices} on {compute.nodes} nodes are {compute.processes} processes, but this "
            f"is one of {distributed.world()} (WORLD_SIZE)"
        )
    rank_zero_only.rank = distributed.rank()  # by default a Slurm task's number
    if compute.processes == 1:
        return {"devices": 1, "num_nodes": 1, "strategy": "auto", "plugins": [LightningEnvironment()]}
    distributed.start_group()
    if compute.strategy == "fsdp":
        strategy = ModelParallelStrategy(compute.processes, 1, save_distributed_checkpoint=False)
    else:
        # Of alternating updates, one leaves a part of the weights without gradient, and its gradient must stay None.
        alternates = module.alternating_updates > 1
        # torch's static graph fails where the first of several passes is not sent.
        static = not alternates and compute.passes(module.train_config.batch_clips) == 1
        strategy = DDPStrategy(find_unused_parameters=alternates, static_graph=static, gradient_as_bucket_view=True)
    # Said, since Lightning would look for as many GPUs as a node has processes; each may see only its own.
    strategy.parallel_devices = node_devices(compute.devices)
    plugins = [TorchElasticEnvironment()]
    return {"devices": "auto", "num_nodes": compute.nodes, "strategy": strategy, "plugins": plugins}


def node_devices(count: int) -> list[torch.device]:
    """The devices of a node's processes, by their numbers on it, as this process calls them."""
    return [distributed.device_of(number) for number in range(count)]


@contextmanager
def placed(module: TrainedStage, compute: ComputeConfig) -> Iterator[TrainedStage]:
    """Inside, the module to fit; after, the given module holds its weights, plain and whole, on every process.

    It is the module itself, or with fsdp a copy that may be cut into shards: what uses a module after training would
    otherwise find its class, its weights and its calls changed.
    """
    fitted = module
    if compute.processes > 1 and compute.strategy == "fsdp":
        fitted = copy.deepcopy(module.cpu())
    with others_frozen(fitted):
        yield fitted
    if fitted is not module:
        take_weights(module, fitted)
        module.num_clips_seen = fitted.num_clips_seen


STEPS, TENSORBOARD = "steps.csv", "tensorboard"
PREPARED = "prepare"  # what the random numbers of a stage's preparation are for

Report = Callable[[str, int, int, float], None]


@dataclass(frozen=True)
class Fitted:
    """What a stage spent, its held-out losses as (clips seen, loss), and how many of its blocks were compiled."""

    clips: int | float
    steps: int
    seconds: float
    heldout_losses: list[tuple[int, float]]
    compiled_blocks: int


def fit_stage(
    module: TrainedStage,
    loader: torch.utils.data.DataLoader,
    limit: Limit,
    folder: Path,
    heldout: dict[str, torch.Tensor],
    report: Report,
    compute: ComputeConfig,
    kept: ResumeStore | None = None,
    checkpoint: CheckpointConfig | None = None,
) -> Fitted:
    """Train a stage to its limit; its weights end as their average (EMA) where it uses one.

    folder takes tensorboard/ and steps.csv. loader gives batches of one pass (compute.pass_clips; with auto a process's
    part of a batch), as many as the limit wants. kept: where checkpoints are written, as often as checkpoint says, and
    resumed from, to the same numbers bit for bit; None: nowhere. Where several processes train together, each
    calls this; all end with the same whole weights, and the first alone writes and reports. Raises Diverged on a loss
    that is not finite, Stopped where the process is asked to end.
    """
    # Lightning's tips and hints would drown the few lines that a user reads.
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    folder.mkdir(parents=True, exist_ok=True)
    passes = compute.passes(module.train_config.batch_clips)
    guard = FiniteGuard()
    clock = Clock(limit, report if distributed.is_first() else lambda *_: None, 0.5, lambda _: guard.newest)
    steps = StepLog(folder / STEPS, clock)
    heldout_loss = HeldoutLoss(heldout, clock)
    logs = AppendedFiles(folder, [STEPS, f"{TENSORBOARD}/{module.stage_name}/events.*"])
    scalars = Scalars(clock)
    callbacks = [guard, clock, *([steps] if distributed.is_first() else []), scalars, heldout_loss]
    if module.uses_ema:
        clips = None if limit.clips is None else float(limit.clips)
        callbacks.append(Ema(decay_per_step(module.train_config, clips)))
    slots = None if kept is None else StageCheckpoints(kept, module.stage_name)
    start = None if slots is None else slots.newest()
    if slots is not None:
        callbacks += [logs, RNGStates(), Checkpoints(clock, slots, checkpoint.every_clips, checkpoint.every_minutes)]
    if start is not None:
        before = slots.callback_states(start, module)
        loader = from_batch(loader, before[Clock.__qualname__]["steps"] * passes)
    if start is None:
        with arithmetic(compute.deterministic):
            prepare(module, loader, clock)
    loader = with_draws(loader, module, heldout)
    if distributed.is_first():
        bring_back(steps, logs, module.stage_name, None if start is None else before[AppendedFiles.__qualname__])
    where = placement(compute, module)
    plugins = [*where.pop("plugins"), *([] if slots is None else [slots])]
    trainer = lightning.Trainer(
        accelerator="auto",
        **where,
        plugins=plugins,
        accumulate_grad_batches=passes,
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
    logs.flush = lambda: (steps.flush(), scalars.flush(), trainer.logger.experiment.flush())
    module.train()
    with ExitStack() as stack:
        stack.enter_context(arithmetic(compute.deterministic))
        fitted = stack.enter_context(placed(module, compute))
        compiled = stack.enter_context(compiled_blocks(fitted, compute.compile))
        stack.enter_context(recomputed_blocks(fitted.recomputed(), compute.checkpoint_activations))
        stack.enter_context(mixed_precision(fitted.networks(), compute.precision))
        stack.enter_context(written(slots))
        trainer.fit(fitted, train_dataloaders=loader, ckpt_path=start, weights_only=True)
    module.eval()
    trainer.logger.finalize("success")
    return Fitted(number(clock.seen), clock.steps, distributed.of_first(clock.seconds), heldout_loss.values, compiled)


def release(module: TrainedStage) -> None:
    """Let go of what only training needed: gradients, the average and the optimiser's moments are four times the
    weights, and sampling follows in the same process. The trainer, which has them, refers to itself. To be called
    once `fit_stage` has returned.
    """
    module.zero_grad(set_to_none=True)
    module.trainer = None
    free_memory()


def free_memory() -> None:
    """Hand back what nothing refers to any more, to the GPU's driver and to the kernel: between two stages, whose
    largest tensors are of other sizes. glibc keeps what it was given (see executors/process.py), in pieces.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def written(slots: StageCheckpoints | None) -> Iterator[None]:
    """After the block no checkpoint is being written; what went wrong with one is raised, unless the block raised."""
    try:
        yield
    except BaseException:
        if slots is not None:
            with suppress(Exception):
                slots.writer.wait()
        raise
    if slots is not None:
        slots.writer.wait()


def bring_back(steps: StepLog, logs: AppendedFiles, stage: str, lengths: Mapping[str, int] | None) -> None:
    """Cut the logs to their lengths at the checkpoint (lengths None: the stage begins)."""
    if lengths is not None:
        logs.cut_to(lengths)
        return
    steps.begin(stage)
    logs.remove(f"{TENSORBOARD}/")
