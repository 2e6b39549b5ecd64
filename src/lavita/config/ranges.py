"""The range of every number of a configuration, in one table: `section.key` -> what it may be."""

from __future__ import annotations

import math
from dataclasses import dataclass

INFINITE = math.inf


@dataclass(frozen=True)
class Range:
    """From low to high; open_low, open_high: that end itself is left out. Never NaN, never infinite."""

    low: float
    high: float = INFINITE
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return math.isfinite(value) and above and below

    def text(self) -> str:
        """The range in words: "at least 1", "above 0", "0 to below 1"."""
        if self.high == INFINITE:
            if self.open_low:
                return f"above {self.low:g}"
            return "0 or more" if self.low == 0 else f"at least {self.low:g}"
        return f"{'above ' if self.open_low else ''}{self.low:g} to {'below ' if self.open_high else ''}{self.high:g}"


NUMBER, POSITIVE, ONE, TWO = Range(0), Range(0, open_low=True), Range(1), Range(2)
SHARE = Range(0, 1, open_high=True)
RANGES = {
    "data.fold": ONE,
    "data.frames": ONE,
    "data.interval": ONE,
    "data.resolution": ONE,
    "data.max_unreadable": SHARE,
    "data.num_workers": NUMBER,
    "data.cache_bytes": NUMBER,
    "budget.clips": ONE,
    "budget.flops": POSITIVE,
    "budget.seconds": POSITIVE,
    "codec.latent_channels": ONE,
    "codec.downsample": ONE,
    "codec.scaling": POSITIVE,
    "codec.clips": NUMBER,
    "codec.width": ONE,
    "codec.norm_groups": ONE,
    "codec.kl_weight": NUMBER,
    "codec.learning_rate": POSITIVE,
    "codec.batch_clips": ONE,
    "pretraining.share": SHARE,
    "train.batch_clips": ONE,
    "train.learning_rate": POSITIVE,
    "train.weight_decay": NUMBER,
    "train.beta1": SHARE,
    "train.beta2": SHARE,
    "train.warmup_clips": NUMBER,
    "train.ema_decay": SHARE,
    # Above a tenth of a stage the average would be of another network than the one that was trained.
    "train.ema_halflife_share": Range(0, 0.1, open_low=True),
    "train.grad_clip_norm": POSITIVE,
    "train.grad_clip_start_clips": NUMBER,
    "train.class_dropout": SHARE,
    "compute.threads": ONE,
    "compute.pass_clips": ONE,
    "compute.devices": ONE,
    "compute.nodes": ONE,
    "checkpoint.every_clips": ONE,
    "checkpoint.every_minutes": POSITIVE,
    "sampling.eta": Range(0, 1),  # 0: no noise is added; 1: as much as DDPM adds
    "sampling.guidance": NUMBER,  # 1: none
    "sampling.guided_channels": ONE,
    "sampling.batch_clips": ONE,
    "sampling.num_clips_chained": ONE,
    "extractor.steps": ONE,
    "protocol.resolution": ONE,
    "protocol.frames": ONE,
    "protocol.real_interval": ONE,
    "protocol.generated_interval": ONE,
    "protocol.windows_per_video": ONE,
    "protocol.clip_seed": NUMBER,
    "protocol.n_real": TWO,
    "protocol.n_generated": TWO,
    "protocol.ddof": Range(0, 1),
    "protocol.is_splits": ONE,
    "protocol.is_shuffle_seed": Range(0, 2**32 - 1),  # what numpy's generator of that protocol takes
}
