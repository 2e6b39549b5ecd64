"""PVDM's first stage: a video transformer that projects a clip on three planes (xy, yt, xt) and back.

A latent is (B, C, N): plane xy (side x side), then yt and xt (frames x side each), flattened row by row.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from lavita.shape import check

from .transformer import AutoencoderConfig, Projection, VideoEncoder, VideoTransformer


def pointwise(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """A 1x1 convolution on the last axis, (..., D) -> (..., D'): no copy to the image layout and back."""
    return functional.linear(x, layer.weight.flatten(1), layer.bias)


class TriplaneAutoencoder(nn.Module):
    """Clip <-> latent of three planes, with the official state-dict keys.

    encode: float32 (B, F, 3, H, W) in [-1, 1] -> (B, C, N) in (-1, 1); decode is the way back. F and H = W
    are those of the configuration; C = embed_dim, N = `AutoencoderConfig.latent_length`.
    Source: Yu et al. 2023 (PVDM), section 3.1; github.com/sihyun-yu/PVDM at 793172f, models/autoencoder.
    """

    def __init__(self, config: AutoencoderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or AutoencoderConfig()
        width, p = config.channels, config.patch_size
        for plane, length in (("xy", config.frames), ("xt", config.side), ("yt", config.side)):
            setattr(self, f"{plane}_token", nn.Parameter(torch.randn(1, 1, width)))
            setattr(self, f"{plane}_pos_embedding", nn.Parameter(torch.randn(1, length + 1, width)))
            setattr(self, f"{plane}_quant_attn", Projection(config))
            setattr(self, f"pre_{plane}", nn.Conv2d(width, config.embed_dim, 1))
            setattr(self, f"post_{plane}", nn.Conv2d(config.embed_dim, width, 1))
        self.register_buffer("coords", torch.linspace(-1, 1, config.frames)[:, None])
        self.encoder = VideoEncoder(config)
        self.decoder = VideoTransformer(config)
        self.to_pixel = nn.Sequential(nn.Identity(), nn.ConvTranspose2d(width, 3, p, stride=p))

    def project(self, plane: str, lines: Tensor) -> Tensor:
        """Reduce the last-but-one axis of (B, X, Y, N, D) -> (B, C, X Y) in (-1, 1)."""
        b, x, y, n, d = lines.shape
        token = getattr(self, f"{plane}_token").expand(b * x * y, 1, d)
        lines = torch.cat([lines.reshape(b * x * y, n, d), token], dim=1)  # (B X Y, N + 1, D)
        lines = lines + getattr(self, f"{plane}_pos_embedding")
        tokens = getattr(self, f"{plane}_quant_attn")(lines)  # (B X Y, D)
        latent = torch.tanh(pointwise(getattr(self, f"pre_{plane}"), tokens))  # (B X Y, C)
        return rearrange(latent, "(b n) c -> b c n", b=b)  # (B, C, X Y)

    def spread(self, plane: str, latent: Tensor) -> Tensor:
        """Bring a plane (B, C, X Y) back to the transformer's width, (B, X, Y, D)."""
        columns = latent.unflatten(-1, (-1, self.config.side))  # (B, C, X, Y)
        return pointwise(getattr(self, f"post_{plane}"), rearrange(columns, "b c x y -> b x y c"))

    def encode(self, video: Tensor) -> Tensor:
        """Latent (B, C, N) in (-1, 1) of a clip (B, F, 3, H, W) in [-1, 1]."""
        cfg = self.config
        check(video, "B F 3 H W", "pvdm video", F=cfg.frames, H=cfg.resolution, W=cfg.resolution)
        h = self.encoder(video).unflatten(2, (cfg.side, cfg.side))  # (B, F, h, w, D)
        xy = self.project("xy", rearrange(h, "b t h w d -> b h w t d"))  # (B, C, h w)
        yt = self.project("yt", rearrange(h, "b t h w d -> b t w h d"))  # (B, C, F w)
        xt = self.project("xt", h)  # (B, C, F h)
        return torch.cat([xy, yt, xt], dim=-1)  # (B, C, N)

    def decode(self, latent: Tensor) -> Tensor:
        """Clip (B, F, 3, H, W) in (-1, 1) of a latent (B, C, N)."""
        cfg = self.config
        check(latent, "B C N", "pvdm latent", C=cfg.embed_dim, N=cfg.latent_length)
        area, line = cfg.side * cfg.side, cfg.frames * cfg.side
        xy, yt, xt = latent.split([area, line, line], dim=-1)
        xy = self.spread("xy", xy)[:, None]  # (B, 1, h, w, D)
        yt = self.spread("yt", yt)[:, :, None]  # (B, F, 1, w, D)
        xt = self.spread("xt", xt)[:, :, :, None]  # (B, F, h, 1, D)
        tokens = self.decoder((xy + yt + xt).flatten(2, 3))  # (B, F, P, D)
        return 2 * torch.sigmoid(self.paint(tokens)) - 1  # (B, F, 3, H, W)

    def paint(self, tokens: Tensor) -> Tensor:
        """Every token's patch of pixels, (B, F, P, D) -> (B, F, 3, H, W): a strided transposed conv."""
        layer, p = self.to_pixel[1], self.config.patch_size
        patches = tokens @ layer.weight.flatten(1)  # (B, F, P, 3 p p)
        pattern = "b f (h w) (c p1 p2) -> b f c (h p1) (w p2)"
        video = rearrange(patches, pattern, h=self.config.side, p1=p, p2=p)
        return video + layer.bias[:, None, None]  # (B, F, 3, H, W)

    def forward(self, video: Tensor) -> Tensor:
        """Reconstruction of (B, timesteps, 3, H, W), each of the splits on its own, same shape in (-1, 1)."""
        pieces = rearrange(video, "b (n t) c h w -> (b n) t c h w", n=self.config.splits)
        rebuilt = self.decode(self.encode(pieces))  # (B n, t, 3, H, W)
        return rearrange(rebuilt, "(b n) t c h w -> b (n t) c h w", n=self.config.splits)
