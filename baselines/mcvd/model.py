"""MCVD's U-Net: frames stacked as channels in, the noise of one block of frames out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavita.shapes import check

from .diffusion import mcvd_schedule
from .layers import (
    NEARLY_ZERO,
    Attention,
    Float32Conv2d,
    Float32Linear,
    LastNorm,
    Resample,
    ResBlock,
    TimeEmbedding,
    convolution,
    initialised,
)


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of the network; the defaults are those of the published UCF101 generation model.

    frames, past, future: frames of the block that is generated, and given before and after it. attention: heights at
    which there is any. spatin: hidden channels of every SPATIN norm, None where the given frames are stacked on the
    block instead. num_classes is ours: none are published.
    """

    image_size: int = 64
    channels: int = 3
    frames: int = 4
    past: int = 4
    future: int = 0
    width: int = 288
    multiples: tuple[int, ...] = (1, 2, 3, 4)
    attention: tuple[int, ...] = (8, 16, 32)
    num_res_blocks: int = 2
    head_width: int = 288
    spatin: int | None = None
    dropout: float = 0.1
    num_classes: int | None = None

    def __post_init__(self) -> None:
        halvings = 2 ** (len(self.multiples) - 1)
        if self.image_size % halvings:
            raise ValueError(
                f"mcvd unet: got {self.image_size} pixels, wanted a multiple of {halvings} for {len(self.multiples)} "
                f"levels; use fewer levels than multiples {tuple(self.multiples)}"
            )
        if self.width % 2 or self.width < 4 or self.width % self.head_width:
            raise ValueError(
                f"mcvd unet: got width {self.width} and head width {self.head_width}, wanted an even width, at least "
                "4, and heads that divide it"
            )
        if self.frames < 1 or self.past < 1 or self.future < 0:
            raise ValueError(
                f"mcvd unet: got blocks of {self.frames} frames after {self.past} and before {self.future}, wanted at "
                "least 1, 1 and 0"
            )

    @property
    def block_channels(self) -> int:
        """Channels of a block."""
        return self.channels * self.frames

    @property
    def given_channels(self) -> int:
        """Channels of all frames that are given, past and future."""
        return self.channels * (self.past + self.future)


class StackedUNet(nn.Module):
    """The layers in the official order, under the official names (`all_modules.<number>`).

    Source: Voleti et al. 2022 (MCVD), section 3; github.com/voletiv/mcvd-pytorch at 451da2e,
    models/better/ncsnpp_more.py.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_width = 4 * config.width
        # No output reads this table, but every released file holds it.
        self.register_buffer("sigmas", mcvd_schedule().betas.flip(0).to(device=torch.empty(0).device).float())
        self.time_features = TimeEmbedding(config.width)
        if config.num_classes is not None:
            self.label_emb = nn.Embedding(config.num_classes + 1, self.embed_width)
        self.all_modules = nn.ModuleList(
            [
                initialised(Float32Linear(config.width, self.embed_width)),
                initialised(Float32Linear(self.embed_width, self.embed_width)),
            ]
        )
        stacked = config.block_channels + (config.given_channels if config.spatin is None else 0)
        self.all_modules.append(convolution(stacked, config.width))
        skips = self.add_down()
        width = skips[-1]
        self.all_modules.extend([self.block(width, width), self.attention(width)])
        self.all_modules.append(self.block(width, width))
        self.add_up(skips)
        self.all_modules.append(LastNorm(config.width * config.multiples[0], config.given_channels, config.spatin))
        last = Float32Conv2d(config.width * config.multiples[0], config.block_channels, 3, padding=1)
        self.all_modules.append(initialised(last, NEARLY_ZERO))

    def block(self, width: int, out_width: int, resample: Resample | None = None) -> ResBlock:
        c = self.config
        number = len(self.all_modules)
        return ResBlock(
            width, out_width, self.embed_width, c.given_channels, c.spatin, c.dropout, number, resample
        )  # fmt: skip

    def attention(self, width: int) -> Attention:
        return Attention(width, self.config.head_width)

    def sizes(self) -> list[int]:
        """Height of each level."""
        return [self.config.image_size // 2**level for level in range(len(self.config.multiples))]

    def add_down(self) -> list[int]:
        """Add the way down; returns the widths that the way up reads."""
        c = self.config
        width, skips = c.width, [c.width]
        for level, size in enumerate(self.sizes()):
            for _ in range(c.num_res_blocks):
                self.all_modules.append(self.block(width, c.width * c.multiples[level]))
                width = c.width * c.multiples[level]
                if size in c.attention:
                    self.all_modules.append(self.attention(width))
                skips.append(width)
            if level + 1 < len(c.multiples):
                self.all_modules.append(self.block(width, width, Resample(up=False)))
                skips.append(width)
        return skips

    def add_up(self, skips: list[int]) -> None:
        """Add the way up from the middle, whose width is that of the last skip."""
        c, skips = self.config, list(skips)
        width = skips[-1]
        for level, size in reversed(list(enumerate(self.sizes()))):
            for _ in range(c.num_res_blocks + 1):
                self.all_modules.append(self.block(width + skips.pop(), c.width * c.multiples[level]))
                width = c.width * c.multiples[level]
            if size in c.attention:
                self.all_modules.append(self.attention(width))
            if level:
                self.all_modules.append(self.block(width, width, Resample(up=True)))

    def forward(
        self, x: Tensor, given: Tensor, label: Tensor, classes: Tensor | None, seeds: Tensor | None
    ) -> Tensor:  # fmt: skip
        c = self.config
        layers = iter(self.all_modules)
        emb = next(layers)(self.time_features(label).to(x.dtype))  # (B, E)
        emb = next(layers)(functional.silu(emb))  # (B, E)
        if classes is not None:
            emb = emb + self.label_emb(classes)  # (B, E)
        h = next(layers)(x if c.spatin is not None else torch.cat([x, given], dim=1)).to(x.dtype)  # (B, D, H, W)
        skips = [h]
        for level, size in enumerate(self.sizes()):
            for _ in range(c.num_res_blocks):
                h = next(layers)(h, emb, given, seeds)  # (B, D, h, w)
                if size in c.attention:
                    h = next(layers)(h)
                skips.append(h)
            if level + 1 < len(c.multiples):
                h = next(layers)(h, emb, given, seeds)  # (B, D, h / 2, w / 2)
                skips.append(h)
        first, attention, second = next(layers), next(layers), next(layers)
        h = second(attention(first(h, emb, given, seeds)), emb, given, seeds)  # (B, D, h, w)
        for level, size in reversed(list(enumerate(self.sizes()))):
            for _ in range(c.num_res_blocks + 1):
                h = next(layers)(torch.cat([h, skips.pop()], dim=1), emb, given, seeds)  # (B, D, h, w)
            if size in c.attention:
                h = next(layers)(h)
            if level:
                h = next(layers)(h, emb, given, seeds)  # (B, D, 2 h, 2 w)
        h = functional.silu(next(layers)(h, given))  # (B, D, H, W)
        return next(layers)(h)  # (B, C, H, W)


class MCVDNet(nn.Module):
    """Noise of a block, float32 (B, C f, H, W), of the noisy block x and the given frames, with the official keys.

    x (B, 3 f, H, W): f frames along the channels, the channels of a frame together; given (B, 3 (past + future), H, W):
    past, then future, 0 (mid-grey) where masked; label (B,), 0 noisiest to 999; classes (B,) where num_classes is
    given, num_classes standing for "no label"; seeds (B,) of dropout, None for none.
    """

    def __init__(self, config: UNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or UNetConfig()
        schedule, device = mcvd_schedule(), torch.empty(0).device
        # The official file holds the schedule, noisiest first. What is computed with is `mcvd_schedule`.
        for name, table in (
            ("betas", schedule.betas),
            ("alphas", schedule.alphas_cumprod),
            ("alphas_prev", schedule.alphas_cumprod_prev),
        ):
            self.register_buffer(name, table.flip(0).to(device=device).float())
        self.unet = StackedUNet(config)

    def forward(
        self, x: Tensor, given: Tensor, label: Tensor, classes: Tensor | None = None, seeds: Tensor | None = None
    ) -> Tensor:  # fmt: skip
        c = self.config
        check(x, "B C H W", "mcvd block", C=c.block_channels, H=c.image_size, W=c.image_size)
        check(given, "B C H W", "mcvd given frames", B=len(x), C=c.given_channels, H=c.image_size, W=c.image_size)
        if (classes is None) != (c.num_classes is None):
            raise ValueError(
                f"mcvd unet: got {'no ' if classes is None else ''}classes with num_classes={c.num_classes}; "
                "classes are needed exactly when num_classes is given"
            )
        return self.unet(x, given, label, classes, seeds)
