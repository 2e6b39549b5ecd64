"""Exponential moving average of the trained weights, beside them, put in their place at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor

from lavita.config.schema import TrainConfig
from lavita.files import atomic_write_text, naming_file
from lavita.training import distributed
from lavita.training.budget import Clock
from lavita.training.distributed import cut_like, whole


class Diverged(RuntimeError):
    """A loss became NaN or infinite."""


def is_ahead(value: Tensor) -> bool:
    """Whether the host runs ahead of the device that computes a value, so that reading it at once would stop both."""
    return value.is_cuda


class OnTheWay:
    """Numbers (n,) on their way to the host. `read` waits for the device to have computed them, and for nothing that it
    was given after."""

    def __init__(self, values: Tensor) -> None:
        self.host, self.there = values.detach(), None
        if values.is_cuda:
            self.host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self.host.copy_(values.detach(), non_blocking=True)
            self.there = torch.cuda.Event()
            self.there.record()

    def read(self) -> list[float]:
        if self.there is not None:
            self.there.synchronize()
        return self.host.tolist()


class FiniteGuard(lightning.Callback):
    """Raises Diverged with stage, step and clips seen when the loss of a step is NaN or infinite, on every process when
    it is on one. On an accelerator it does so after the step that follows, so that nobody waits for a step's loss, and
    before a checkpoint is written.

    The first of the callbacks: the loss that those after it find is the mean over the processes. newest: the last loss
    that was read.
    """

    def __init__(self) -> None:
        self.newest = math.nan
        self.waiting: tuple[OnTheWay, str] | None = None

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if not isinstance(loss, torch.Tensor):
            return
        if isinstance(outputs, dict):
            loss = outputs["loss"] = distributed.mean(loss)
        before, where = self.waiting, f"at step {trainer.global_step} of stage {module.stage_name}"
        self.waiting = OnTheWay(loss.reshape(1)), f"{where} ({module.num_clips_seen} clips seen)"
        self.check(before)
        if not is_ahead(loss):
            self.finish()

    def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        """Weights of a step are kept once its loss was looked at: a stage would else resume from what is no number."""
        self.finish()

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self.finish()

    def finish(self) -> None:
        """Look at the last step's loss."""
        before, self.waiting = self.waiting, None
        self.check(before)

    def check(self, waiting: tuple[OnTheWay, str] | None) -> None:
        """Read a loss. Raises Diverged."""
        if waiting is None:
            return
        values, where = waiting
        (self.newest,) = values.read()
        if not math.isfinite(self.newest):
            raise Diverged(f"loss is {self.newest} {where}")


class HeldoutLoss(lightning.Callback):
    """Evaluates `module.heldout_loss` on a fixed batch before the first step and `times` times evenly to the end, in
    the precision that training has.

    clock comes before it among the callbacks. values holds (clips seen, loss), measured with the weights being
    trained, not with their average. The batch stays on the CPU: the stage takes a few clips of it at a time.
    """

    def __init__(self, batch: dict[str, Tensor], clock: Clock, times: int = 4) -> None:
        self.batch, self.clock = batch, clock
        self.marks = [Fraction(i + 1, times) for i in range(times)]
        self.values: list[tuple[int, float]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"values": [list(value) for value in self.values], "marks": [str(mark) for mark in self.marks]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.values = [(clips, loss) for clips, loss in state["values"]]
        self.marks = [Fraction(mark) for mark in state["marks"]]

    def on_train_start(self, trainer: Any, module: Any) -> None:
        if not self.values:
            self.measure(trainer, module)

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        if (batch_index + 1) % trainer.accumulate_grad_batches:
            return  # the weights have not moved yet
        if self.marks and self.clock.reached(self.marks[0]):
            self.marks = [mark for mark in self.marks if not self.clock.reached(mark)]
            self.measure(trainer, module)

    def measure(self, trainer: Any, module: Any) -> None:
        value = module.heldout_loss(self.batch)
        self.values.append((module.num_clips_seen, value))
        for logger in trainer.loggers:
            logger.log_metrics({f"{module.stage_name}/heldout_loss": value}, step=module.num_clips_seen)


LOSS_EVERY = 10  # steps: so many losses are enough for a curve


class Scalars(lightning.Callback):
    """Logs every part of the loss, its mean over the processes, every LOSS_EVERY steps under <stage>/<part>. Comes
    after the clock.

    At the end of a step, not after it as Lightning's own log does: what is logged is then in the log when the step is
    kept, and neither lost nor written twice by a stage that is resumed. On an accelerator it is written a step later,
    or when the log is flushed.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.flush: Callable[[], None] = lambda: None

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        if (batch_index + 1) % trainer.accumulate_grad_batches:
            return
        self.flush()
        if self.clock.steps % LOSS_EVERY:
            return
        means = distributed.mean(torch.stack([value.detach() for value in outputs.values()]))
        names = [f"{module.stage_name}/{key}" for key in outputs]
        self.flush = partial(self.write, trainer.loggers, names, OnTheWay(means), module.num_clips_seen)
        if not is_ahead(means):
            self.flush()

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self.flush()

    def write(self, loggers: Sequence[Any], names: Sequence[str], means: OnTheWay, clips: float) -> None:
        """Write a step's values, once."""
        self.flush = lambda: None
        for logger in loggers:
            logger.log_metrics(dict(zip(names, means.read(), strict=True)), step=clips)


COLUMNS = "stage,step,clips_seen,seconds,loss"
FLUSH_SECONDS = 5.0


class StepLog(lightning.Callback):
    """Appends to a file, for each optimiser step: stage, step (from 1), clips seen by this stage, its seconds so far,
    and every LOSS_EVERY steps the loss (else empty). Comes after the clock, which counts the clips.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path, self.clock, self.flushed = path, clock, 0.0
        self.lines: list[tuple[str, OnTheWay | None]] = []  # each without its loss, and that

    def begin(self, stage: str) -> None:
        """Drop what an earlier try at the stage, and at those after it, has written; earlier stages' lines stay."""
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.exists() else []
        kept = list(takewhile(lambda line: not line.startswith(f"{stage},") and line.endswith("\n"), lines))
        atomic_write_text(self.path, "".join(kept or [f"{COLUMNS}\n"]))

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        if (batch_index + 1) % trainer.accumulate_grad_batches:
            return  # the weights have not moved yet
        step = self.clock.steps
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        wanted = step % LOSS_EVERY == 0 and isinstance(loss, torch.Tensor)
        line = f"{module.stage_name},{step},{module.num_clips_seen},{self.clock.seconds:.3f},"
        self.lines.append((line, OnTheWay(loss.reshape(1)) if wanted else None))
        if self.clock.seconds - self.flushed > FLUSH_SECONDS:
            self.flush()

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self.flush()

    def flush(self) -> None:
        """Write what has gathered."""
        self.flushed = self.clock.seconds
        with naming_file(self.path), self.path.open("a", encoding="utf-8", newline="") as file:
            file.writelines(f"{line}{'' if loss is None else repr(loss.read()[0])}\n" for line, loss in self.lines)
        self.lines = []


class AppendedFiles(lightning.Callback):
    """Remembers how long the stage's logs (steps.csv, TensorBoard's event files) are, and cuts them back to that:
    steps taken after the last checkpoint are taken again, and would stand there twice.

    folder: what is searched; patterns: of the stage's files below it; flush: writes what is still in memory, to be set
    once the writers are there.
    """

    def __init__(self, folder: Path, patterns: list[str]) -> None:
        self.folder, self.patterns = folder, patterns
        self.flush: Callable[[], Any] = lambda: None

    def files(self) -> list[Path]:
        return sorted(path for pattern in self.patterns for path in self.folder.glob(pattern))

    def state_dict(self) -> dict[str, int]:
        self.flush()
        return {path.relative_to(self.folder).as_posix(): path.stat().st_size for path in self.files()}

    def remove(self, start: str) -> None:
        """Remove the files whose path below the folder begins with start: an earlier try's."""
        for path in self.files():
            if path.relative_to(self.folder).as_posix().startswith(start):
                path.unlink()

    def cut_to(self, lengths: Mapping[str, Any]) -> None:
        """Bring the files to these lengths in bytes; one that is not named was begun later, and goes.

        Raises ValueError where one is shorter: it was changed from outside.
        """
        for path in self.files():
            length, found = lengths.get(path.relative_to(self.folder).as_posix()), path.stat().st_size
            if length is None:
                path.unlink()
            elif found < length:
                raise ValueError(f"{path}: {found} bytes, but {length} were written; this stage can't be resumed")
            else:
                with path.open("r+b") as file:
                    file.truncate(length)


def of_all(value: Tensor) -> Tensor:
    """A tensor itself; one that is cut, whole in the first process's memory, and empty elsewhere."""
    gathered = whole(value)
    if gathered is value:
        return value
    return gathered.cpu() if distributed.is_first() else torch.empty(0)


def decay_per_step(train: TrainConfig, stage_clips: float | None) -> Callable[[int], float]:
    """The decay of step n (from 1): as published, or from a half-life that is a share of the stage's clips; where these
    are not known beforehand (None), of the clips up to this step.
    """
    if train.ema_decay is not None:
        return lambda step: train.ema_decay
    share = train.ema_halflife_share
    if stage_clips is None:
        return lambda step: 0.5 ** (1 / (share * step))
    decay = 0.5 ** (1 / (share * stage_clips / train.batch_clips))
    return lambda step: decay


class Ema(lightning.Callback):
    """shadow <- d * shadow + (1 - d) * weights after each step, with d warmed up as min(decay, (1 + n) / (10 + n)).

    The warm-up keeps the initial weights from dominating a short run. At the end of training the averaged weights
    replace the last ones: "last EMA at budget end" is the only checkpoint rule of the suite.
    """

    def __init__(self, decay: Callable[[int], float]) -> None:
        if not 0 <= decay(1) < 1:
            raise ValueError(f"EMA decay: got {decay(1)}, allowed 0 to below 1")
        self.decay = decay
        self.num_updates = 0
        self.shadow: list[torch.Tensor] = []
        self.restored: list[torch.Tensor] = []

    def state_dict(self) -> dict[str, Any]:
        """The whole average, to be called by all processes; its tensors change with the next step, so what keeps them
        copies them. Of shards each is put together in its turn, and only the first process keeps it."""
        return {"shadow": [of_all(value) for value in self.shadow], "num_updates": self.num_updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.restored, self.num_updates = list(state["shadow"]), int(state["num_updates"])

    def on_fit_start(self, trainer: Any, module: Any) -> None:
        self.shadow = [parameter.detach().clone() for parameter in module.trained_parameters()]

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Late, since only now weights lie as they will in training: on their device, cut where they are cut."""
        if self.restored:
            parameters = [parameter.detach() for parameter in module.trained_parameters()]
            self.shadow = [cut_like(value, like).clone() for value, like in zip(self.restored, parameters, strict=True)]
            self.restored = []

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        if trainer.global_step == self.num_updates:
            return  # this batch was only accumulated: the weights have not moved
        self.num_updates = trainer.global_step
        decay = min(self.decay(self.num_updates), (1 + self.num_updates) / (10 + self.num_updates))
        weights = [parameter.detach() for parameter in module.trained_parameters()]
        torch._foreach_lerp_(self.shadow, weights, 1 - decay)

    @torch.no_grad()
    def on_train_end(self, trainer: Any, module: Any) -> None:
        for parameter, average in zip(module.trained_parameters(), self.shadow, strict=True):
            parameter.copy_(average)
