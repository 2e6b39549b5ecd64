"""The budget: how it is cut into stages, and the clock that holds every stage to its part."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import lightning
import torch

from lavita.training import distributed


def split_clips(total: int, shares: list[float], names: list[str], batch: int) -> list[int]:
    """Clips of each stage: shares of total rounded to whole batches, the last stage taking what is left.

    Raises ValueError unless total is a multiple of batch and every stage gets at least one batch.
    """
    if total <= 0 or total % batch:
        lower = max(total // batch, 1) * batch
        raise ValueError(
            f"budget: {total} clips is not a multiple of the batch of {batch} clips; "
            f"the nearest that are: {lower} and {lower + batch}"
        )
    if abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"stage shares {dict(zip(names, shares, strict=True))} sum to {sum(shares)}, wanted 1")
    parts = [round(total * share / batch) * batch for share in shares[:-1]]
    parts.append(total - sum(parts))
    for name, part in zip(names, parts, strict=True):
        if part < batch:
            raise ValueError(f"budget: stage {name} gets {part} of {total} clips, less than a batch of {batch}")
    return parts


def split_flops(total: float, shares: list[float], names: list[str], per_step: list[int]) -> list[int]:
    """Steps of each stage: shares of total FLOPs rounded to whole steps; the last stage's last step is the one that
    reaches the total.

    per_step: FLOPs of one step of each stage. Raises ValueError where a stage gets no step.
    """
    steps = [round(total * share / cost) for share, cost in zip(shares, per_step, strict=True)]
    before = sum(count * cost for count, cost in zip(steps[:-1], per_step[:-1], strict=True))
    steps[-1] = math.ceil((total - before) / per_step[-1])
    for name, count, cost in zip(names, steps, per_step, strict=True):
        if count < 1:
            raise ValueError(f"budget: stage {name} gets no step of {cost:.3g} FLOPs out of {total:.3g}")
    return steps


@dataclass(frozen=True)
class Limit:
    """What ends a stage: a number of clips, or (clips None) seconds of training."""

    clips: int | Fraction | None
    seconds: float | None = None


class OverBudget(RuntimeError):
    """More was spent than was asked for."""


def loss_of(outputs: Any) -> float:
    """The loss of a step, as a number; NaN where it has none. On an accelerator it waits for the step."""
    value = outputs.get("loss") if isinstance(outputs, dict) else outputs
    return float(value.detach()) if isinstance(value, torch.Tensor) else float("nan")


class Clock(lightning.Callback):
    """Counts the clips a stage has seen, images and context frames included, and its seconds, and ends it at its limit:
    exactly at its clips, or with the step in which its seconds are over.

    report(stage, clips seen, clips in all, loss) is called at most every `every_seconds` and at the end; clips in all
    are what they will be at this rate, where seconds are the limit. loss: of a step's outputs, as a number.
    """

    def __init__(
        self,
        limit: Limit,
        report: Callable[[str, int, int, float], None],
        every_seconds: float,
        loss: Callable[[Any], float] = loss_of,
    ) -> None:
        self.limit, self.loss = limit, loss
        self.report = report
        self.every_seconds = every_seconds
        self.last_report = self.started = time.monotonic()
        self.seen = Fraction(0)
        self.seconds = 0.0
        self.steps = 0

    def state_dict(self) -> dict[str, Any]:
        return {"seen": str(self.seen), "seconds": self.seconds, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seen, self.seconds, self.steps = Fraction(state["seen"]), float(state["seconds"]), int(state["steps"])

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.started = time.monotonic() - self.seconds
        module.num_clips_seen = number(self.seen)

    def pause(self, seconds: float) -> None:
        """Take seconds that were just spent on something else out of the stage's."""
        self.started += seconds

    @property
    def done(self) -> bool:
        """Whether the limit was reached at the last step."""
        return self.reached(Fraction(1))

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        self.seen += module.clip_cost * len(batch["clip_index"]) * trainer.world_size
        module.num_clips_seen = number(self.seen)
        if (batch_index + 1) % trainer.accumulate_grad_batches:
            return  # the weights have not moved yet
        self.steps += 1
        self.seconds = time.monotonic() - self.started
        if self.limit.clips is None:
            self.seconds = distributed.of_first(self.seconds)  # all must end in the same step
        done = self.done
        if done and self.limit.clips is None:
            trainer.should_stop = True
        if done or time.monotonic() - self.last_report > self.every_seconds:
            self.last_report = time.monotonic()
            self.report(module.stage_name, module.num_clips_seen, self.clips_in_all(), self.loss(outputs))

    def reached(self, share: Fraction) -> bool:
        """Whether this share of the limit is spent, at the last step."""
        if self.limit.clips is not None:
            return self.seen >= round(self.limit.clips * share)
        return self.seconds >= self.limit.seconds * float(share)

    def clips_in_all(self) -> int | float:
        """Clips at the end: known, or at the rate so far."""
        if self.limit.clips is not None:
            return number(Fraction(self.limit.clips))
        return round(max(float(self.seen), float(self.seen) * self.limit.seconds / max(self.seconds, 1e-9)))

    def on_train_end(self, trainer: Any, module: Any) -> None:
        if self.limit.clips is not None and self.seen != self.limit.clips:
            kind = OverBudget if self.seen > self.limit.clips else RuntimeError
            raise kind(f"stage {module.stage_name} saw {number(self.seen)} clips, its budget is {self.limit.clips}")


def number(clips: Fraction) -> int | float:
    """A count of clips as it is written: whole where it is."""
    return float(clips) if clips.denominator > 1 else int(clips)
