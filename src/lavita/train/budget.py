"""The budget in clips: how it is cut into stages, and the clock that holds every stage to its part."""

from __future__ import annotations

import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import lightning
import torch


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


class ClipClock(lightning.Callback):
    """Counts the clips a stage has seen, images and past frames included, and fails unless it ends at its budget.

    report(stage, clips seen, clips in all, loss) is called at most every `every_seconds` and at the end.
    """

    def __init__(self, budget_clips: int, report: Callable[[str, int, int, float], None], every_seconds: float) -> None:
        self.budget_clips = budget_clips
        self.report = report
        self.every_seconds = every_seconds
        self.last_report = time.monotonic()
        self.seen = Fraction(0)

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        self.seen += module.clip_cost * len(batch["clip_index"]) * trainer.world_size
        module.num_clips_seen = float(self.seen) if self.seen.denominator > 1 else int(self.seen)
        done = module.num_clips_seen >= self.budget_clips
        if done or time.monotonic() - self.last_report > self.every_seconds:
            self.last_report = time.monotonic()
            loss = outputs["loss"] if isinstance(outputs, dict) else outputs
            value = float(loss) if isinstance(loss, torch.Tensor) else float("nan")
            self.report(module.stage_name, module.num_clips_seen, self.budget_clips, value)

    def on_train_end(self, trainer: Any, module: Any) -> None:
        if module.num_clips_seen != self.budget_clips:
            raise RuntimeError(
                f"stage {module.stage_name} saw {module.num_clips_seen} clips, its budget is {self.budget_clips}"
            )
