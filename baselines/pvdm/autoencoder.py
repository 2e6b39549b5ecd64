"""PVDM's first stage: a video transformer that projects a clip on three planes (xy, yt, xt) and back.

A latent is (B, C, N): plane xy (side x side), then yt and xt (frames x side each), flattened row by row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from lavita.codecs.base import Codec, in_chunks
from lavita.diffusion.rng import SampleRNG
from lavita.nn.embeddings import rotate
from lavita.nn.precision import LayerNorm, full, in_float32
from lavita.shapes import check


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of the autoencoder; the defaults are the official ones for 16 frames of 256 x 256 pixels."""

    embed_dim: int = 4
    channels: int = 384
    resolution: int = 256
    timesteps: int = 16
    splits: int = 1
    patch_size: int = 8
    depth: int = 8
    num_heads: int = 8
    head_width: int = 64
    projection_depth: int = 4
    projection_hidden: int = 512

    def __post_init__(self) -> None:
        if self.resolution % self.patch_size:
            raise ValueError(
                f"pvdm autoencoder: got resolution {self.resolution}, wanted a multiple of the patch size "
                f"{self.patch_size}; change one of the two"
            )
        if self.timesteps % self.splits:
            raise ValueError(
                f"pvdm autoencoder: got {self.timesteps} frames in {self.splits} splits, wanted equal splits"
            )
        if self.head_width % 4 or self.channels % 8:
            raise ValueError(
                f"pvdm autoencoder: got head_width {self.head_width} and channels {self.channels}, wanted "
                "multiples of 4 and 8 (axial positions and projection heads need them)"
            )

    @property
    def frames(self) -> int:
        """Frames of one projected piece."""
        return self.timesteps // self.splits

    @property
    def side(self) -> int:
        """Height and width of the xy plane."""
        return self.resolution // self.patch_size

    @property
    def latent_length(self) -> int:
        """Positions of the three planes together."""
        return self.side * (self.side + 2 * self.frames)


def frame_angles(num_frames: int, inv_freqs: Tensor) -> Tensor:
    """Angles (F, c) of the temporal positions.

    The frequencies are laid out in two halves while `rotate` turns neighbouring channels, so the two channels
    of a pair turn by different angles: that is what the released weights were trained with.
    """
    angles = torch.outer(torch.arange(num_frames, dtype=torch.float32), inv_freqs)
    return torch.cat([angles, angles], dim=-1)


def image_angles(side: int, scales: Tensor) -> Tensor:
    """Angles (side * side, c) of the spatial positions: rows in the first half of c, then columns."""
    line = torch.linspace(-1.0, 1.0, side)[:, None] * scales * math.pi  # (side, c / 4)
    rows, columns = line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)
    angles = torch.cat([rows, columns], dim=-1).flatten(0, 1)  # (side * side, c / 2)
    return angles.repeat_interleave(2, dim=-1)


class Frequencies(nn.Module):
    """A fixed table under its official key (for example `frame_rot_emb.inv_freqs`); it has no forward."""

    def __init__(self, name: str, table: Tensor) -> None:
        super().__init__()
        self.register_buffer(name, table)


class PreNorm(nn.Module):
    """LayerNorm before a layer; any further argument is passed on."""

    def __init__(self, width: int, layer: nn.Module) -> None:
        super().__init__()
        self.fn = layer
        self.norm = LayerNorm(width)

    def forward(self, x: Tensor, *args) -> Tensor:
        return self.fn(self.norm(x), *args)


class Attention(nn.Module):
    """Self-attention over the second-last axis, (B, N, D) -> (B, N, D), or (B, 1, D) with first_only."""

    def __init__(self, width: int, num_heads: int, head_width: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = nn.Linear(width, 3 * num_heads * head_width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(num_heads * head_width, width), nn.Dropout(0.0))

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None = None, first_only: bool = False) -> Tensor:
        qkv = rearrange(self.to_qkv(x), "b n (three h c) -> three b h n c", three=3, h=self.num_heads)
        qk, v = (qkv[:2], qkv[2]) if rotary is None else (rotate(qkv[:2], rotary), qkv[2])
        q, k = qk.unbind()  # (B, heads, N, c) each
        if first_only:
            q = q[:, :, :1]  # (B, heads, 1, c)
        x = functional.scaled_dot_product_attention(q, k, v)  # (B, heads, N, c)
        return self.to_out(rearrange(x, "b h n c -> b n (h c)"))  # (B, N, D)


class GatedGELU(nn.Module):
    """Half of the channels gates the other, (..., 2 D) -> (..., D). Source: Shazeer 2020, equation 6."""

    def forward(self, x: Tensor) -> Tensor:
        x, gate = x.chunk(2, dim=-1)
        return x * functional.gelu(gate)


class FeedForward(nn.Module):
    """Two linear layers around an activation; the indices 0 and 3 are the official keys."""

    def __init__(self, width: int, first_width: int, hidden: int, activation: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, first_width), activation, nn.Dropout(0.0), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class VideoTransformer(nn.Module):
    """Blocks of temporal attention, spatial attention and MLP, (B, F, P, D) -> (B, F, P, D).

    Source: Bertasius et al. 2021 (TimeSformer), divided attention; rotary and axial rotary positions.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        width, c = config.channels, config.head_width
        inv_freqs = 1.0 / (10000 ** (torch.arange(0, c, 2).float() / c))
        scales = torch.logspace(0.0, math.log2(5.0), c // 4, base=2)
        self.frame_rot_emb = Frequencies("inv_freqs", inv_freqs)
        self.image_rot_emb = Frequencies("scales", scales)
        for name, angles in (
            ("time", frame_angles(config.frames, inv_freqs)),
            ("space", image_angles(config.side, scales)),
        ):
            self.register_buffer(f"{name}_cosine", angles.cos(), persistent=False)
            self.register_buffer(f"{name}_sine", angles.sin(), persistent=False)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PreNorm(width, Attention(width, config.num_heads, c)),
                    PreNorm(width, Attention(width, config.num_heads, c)),
                    PreNorm(width, FeedForward(width, 8 * width, 4 * width, GatedGELU())),
                ]
            )
            for _ in range(config.depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        b = x.shape[0]
        time, space = (self.time_cosine, self.time_sine), (self.space_cosine, self.space_sine)
        for time_attention, space_attention, feed_forward in self.layers:
            along_time = rearrange(x, "b f p d -> (b p) f d")
            x = x + rearrange(time_attention(along_time, time), "(b p) f d -> b f p d", b=b)  # (B, F, P, D)
            x = x + space_attention(x.flatten(0, 1), space).unflatten(0, (b, -1))  # (B, F, P, D)
            x = x + feed_forward(x)  # (B, F, P, D)
        return x


class VideoEncoder(VideoTransformer):
    """Patches of each frame, then the transformer: (B, F, 3, H, W) -> (B, F, P, D)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__(config)
        self.patch_size = config.patch_size
        self.to_patch_embedding = nn.Linear(3 * config.patch_size**2, config.channels)

    def forward(self, video: Tensor) -> Tensor:
        p = self.patch_size
        patches = rearrange(video, "b f c (h p1) (w p2) -> b f (h w) (p1 p2 c)", p1=p, p2=p)
        return super().forward(full(self.to_patch_embedding(patches)))  # (B, F, P, D); the residual stream is float32


class Projection(nn.Module):
    """A small transformer that reduces an axis to its first token, (B, N, D) -> (B, D).

    The last block is evaluated for that token alone: the others are never read.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        width, hidden = config.channels, config.projection_hidden
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PreNorm(width, Attention(width, 4, width // 8)),
                    PreNorm(width, FeedForward(width, hidden, hidden, nn.GELU())),
                ]
            )
            for _ in range(config.projection_depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        for depth, (attention, feed_forward) in enumerate(self.layers, start=1):
            last = depth == len(self.layers)
            x = (x[:, :1] if last else x) + attention(x, None, last)  # (B, N or 1, D)
            x = x + feed_forward(x)  # (B, N or 1, D)
        return x[:, 0]  # (B, D)


@in_float32
def pointwise(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """A 1x1 convolution on the last axis, (..., D) -> (..., D'), in float32: no copy to the image layout and back."""
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
        """Latent (B, C, N) in (-1, 1) of a clip (B, F, 3, H, W) in [-1, 1]; a few clips at a time without gradient."""
        cfg = self.config
        check(video, "B F 3 H W", "pvdm video", F=cfg.frames, H=cfg.resolution, W=cfg.resolution)
        return in_chunks(self._encode, video, cfg.frames * cfg.resolution**2, self)

    def _encode(self, video: Tensor) -> Tensor:
        cfg = self.config
        h = self.encoder(video).unflatten(2, (cfg.side, cfg.side))  # (B, F, h, w, D)
        xy = self.project("xy", rearrange(h, "b t h w d -> b h w t d"))  # (B, C, h w)
        yt = self.project("yt", rearrange(h, "b t h w d -> b t w h d"))  # (B, C, F w)
        xt = self.project("xt", h)  # (B, C, F h)
        return torch.cat([xy, yt, xt], dim=-1)  # (B, C, N)

    def decode(self, latent: Tensor) -> Tensor:
        """Clip (B, F, 3, H, W) in (-1, 1) of a latent (B, C, N); a few clips at a time without gradient."""
        cfg = self.config
        check(latent, "B C N", "pvdm latent", C=cfg.embed_dim, N=cfg.latent_length)
        return in_chunks(self._decode, latent, cfg.frames * cfg.resolution**2, self)

    def _decode(self, latent: Tensor) -> Tensor:
        cfg = self.config
        area, line = cfg.side * cfg.side, cfg.frames * cfg.side
        xy, yt, xt = latent.split([area, line, line], dim=-1)
        xy = self.spread("xy", xy)[:, None]  # (B, 1, h, w, D)
        yt = self.spread("yt", yt)[:, :, None]  # (B, F, 1, w, D)
        xt = self.spread("xt", xt)[:, :, :, None]  # (B, F, h, 1, D)
        tokens = self.decoder((xy + yt + xt).flatten(2, 3))  # (B, F, P, D)
        return 2 * torch.sigmoid(self.paint(tokens)) - 1  # (B, F, 3, H, W)

    @in_float32
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


class TriplaneCodec(Codec):
    """Clip float32 (B, F, 3, H, W) in [-1, 1] <-> latent of three planes float32 (B, C, N) in (-1, 1).

    A view: it holds the autoencoder that it is given, trained or not, and has no weights of its own. Encoding is
    deterministic, so the draws are not used.
    """

    name = "pvdm-triplane"

    def __init__(self, autoencoder: TriplaneAutoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.latent_channels = autoencoder.config.embed_dim
        self.downsample = autoencoder.config.patch_size

    def encode(self, video: Tensor, rng: SampleRNG) -> Tensor:
        return self.autoencoder.encode(video)  # (B, C, N)

    def decode(self, latent: Tensor) -> Tensor:
        return self.autoencoder.decode(latent).clamp(-1, 1)  # (B, F, 3, H, W)

    def latent_bound(self) -> float:
        return 1.0
