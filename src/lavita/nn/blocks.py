"""Transformer blocks on tokens (B, M, N, D): attention runs over N, separately for each of the M groups.

A spatial block gets M = frames and N = positions, a temporal block M = positions and N = frames. The conditioning
c is (B, G, D) with G = 1 (one vector per clip, so shift, scale and gate are computed once per clip) or G = M.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from lavita.config.schema import ConfigError
from lavita.nn.embeddings import rotate
from lavita.nn.precision import LayerNorm, in_float32


class SelfAttention(nn.Module):
    """Self-attention over the second-last axis of (B, N, D) -> (B, N, D), float.

    rotary, where given, is a pair of (N, head width) tables (cosine, sine) applied to queries and keys.
    Source: Peebles & Xie 2023 (DiT), section 3.2; Vaswani et al. 2017, equation 1.
    """

    def __init__(self, width: int, num_heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"attention: width {width} is not a multiple of {num_heads} heads")
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None = None) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "b n (three h c) -> three b h n c", three=3, h=self.num_heads)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)  # (B, heads, N, c)
        x = functional.scaled_dot_product_attention(q, k, v)  # (B, heads, N, c)
        return self.proj(rearrange(x, "b h n c -> b n (h c)"))  # (B, N, D)


class FeedForward(nn.Module):
    """The transformer's MLP with tanh-approximated GELU, (..., D) -> (..., D). Source: DiT, section 3.2."""

    def __init__(self, width: int, ratio: float = 4.0, approximate: str = "tanh") -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, int(width * ratio))
        self.act = nn.GELU(approximate=approximate)
        self.fc2 = nn.Linear(int(width * ratio), width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))  # (..., D)


def initialise_linear(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for every linear layer, as DiT starts from."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            torch.nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


Rotary = tuple[Tensor, Tensor] | None


def layer_norm(width: int) -> LayerNorm:
    """Layer norm without parameters; the modulation supplies them. Source: DiT, section 3.2."""
    return LayerNorm(width, elementwise_affine=False, eps=1e-6)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (B, M, N, D) scaled by 1 + scale and shifted; shift and scale are (B, G, D)."""
    return x * (1 + scale[:, :, None]) + shift[:, :, None]  # (B, M, N, D)


class Modulation(nn.Sequential):
    """SiLU and a linear layer, in float32: it runs once a clip and scales every token."""

    forward = in_float32(nn.Sequential.forward)


def modulation(width: int, num_vectors: int) -> Modulation:
    """c (B, G, D) -> num_vectors modulation vectors (B, G, num_vectors * D), zero at the start."""
    return Modulation(nn.SiLU(), nn.Linear(width, num_vectors * width))


def attend(attention: SelfAttention, x: Tensor, rotary: Rotary = None) -> Tensor:
    """Attention over N of (B, M, N, D) for every group -> (B, M, N, D)."""
    batch = len(x)
    y = attention(rearrange(x, "b m n d -> (b m) n d"), rotary)  # (B M, N, D)
    return rearrange(y, "(b m) n d -> b m n d", b=batch)  # (B, M, N, D)


class ModulatedBlock(nn.Module):
    """Attention and MLP under adaptive layer norm with gates (adaLN-Zero; the paper's S-AdaLN).

    Source: DiT, section 3.2, figure 3; LAVITA, section 3.4.
    """

    def __init__(self, width: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = layer_norm(width)
        self.attn = SelfAttention(width, num_heads)
        self.norm2 = layer_norm(width)
        self.mlp = FeedForward(width, mlp_ratio)
        self.adaLN_modulation = modulation(width, 6)

    def forward(self, x: Tensor, c: Tensor, rotary: Rotary = None) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=-1)  # (B, G, D) each
        y = attend(self.attn, modulate(self.norm1(x), shift1, scale1), rotary)  # (B, M, N, D)
        x = x + gate1[:, :, None] * y  # (B, M, N, D)
        return x + gate2[:, :, None] * self.mlp(modulate(self.norm2(x), shift2, scale2))  # (B, M, N, D)


class TokenBlock(nn.Module):
    """Plain pre-norm block; the conditioning joins the sequence as extra tokens ("all tokens").

    forward takes x (B, M, N, D) and tokens (B, 1 + n, K, D), and returns both. The last n of the M groups (images of
    joint training) have tokens of their own, all others share the first set; it comes back as the mean over them, so
    that it stays one set a clip. Source: LAVITA, section 3.4 (conditioning by tokens).
    """

    def __init__(self, width: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width, eps=1e-6)
        self.attn = SelfAttention(width, num_heads)
        self.norm2 = LayerNorm(width, eps=1e-6)
        self.mlp = FeedForward(width, mlp_ratio)

    def forward(self, x: Tensor, tokens: Tensor, rotary: Rotary = None) -> tuple[Tensor, Tensor]:
        num_shared, num_tokens = x.shape[1] - tokens.shape[1] + 1, tokens.shape[2]
        wide = torch.cat([tokens[:, :1].expand(-1, num_shared, -1, -1), tokens[:, 1:]], dim=1)  # (B, M, K, D)
        x = cat_tokens(wide, x)  # (B, M, K + N, D)
        x = x + attend(self.attn, self.norm1(x), rotary)  # (B, M, K + N, D)
        x = x + self.mlp(self.norm2(x))  # (B, M, K + N, D)
        wide, x = x[:, :, :num_tokens], x[:, :, num_tokens:]  # (B, M, K, D), (B, M, N, D)
        shared = wide[:, :num_shared].mean(dim=1, keepdim=True)  # (B, 1, K, D)
        return x, torch.cat([shared, wide[:, num_shared:]], dim=1)  # (B, M, N, D), (B, 1 + n, K, D)


def cat_tokens(tokens: Tensor, x: Tensor) -> Tensor:
    """Put K conditioning tokens before the N tokens of each group, (B, M, K + N, D)."""
    return nn.functional.pad(x, (0, 0, tokens.shape[2], 0)) + nn.functional.pad(tokens, (0, 0, 0, x.shape[2]))


class FactorisedBlock(nn.Module):
    """Variant 3: spatial attention, then temporal attention, then the MLP, in every block.

    Six modulation vectors: shift1, scale1 and gate1 serve both attentions. The first num_video of the M frames
    take part in time; the rest (images of joint training) pass the spatial attention and the MLP only.
    Source: LAVITA, section 3.2, variant 3.
    """

    def __init__(self, width: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = layer_norm(width)
        self.attn = SelfAttention(width, num_heads)
        self.norm_time = layer_norm(width)
        self.attn_time = SelfAttention(width, num_heads)
        self.norm2 = layer_norm(width)
        self.mlp = FeedForward(width, mlp_ratio)
        self.adaLN_modulation = modulation(width, 6)

    def forward(
        self, x: Tensor, c: Tensor, num_video: int, rotary: Rotary = None, time_table: Tensor | None = None
    ) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=-1)  # (B, G, D) each
        x = x + gate1[:, :, None] * attend(self.attn, modulate(self.norm1(x), shift1, scale1))  # (B, F, N, D)
        if time_table is not None:
            x = add_time(x, time_table)  # (B, F, N, D)
        y = modulate(self.norm_time(x), shift1, scale1)  # (B, F, N, D)
        x = x + gate1[:, :, None] * attend_time(self.attn_time, y, num_video, rotary)  # (B, F, N, D)
        return x + gate2[:, :, None] * self.mlp(modulate(self.norm2(x), shift2, scale2))  # (B, F, N, D)


class ParallelBlock(nn.Module):
    """Variant 4: spatial and temporal attention side by side, summed and gated once, then the MLP.

    Each component has half of the heads at twice the head width, so both keep D x D weights.
    Source: LAVITA, section 3.2, variant 4; the reading of "fused" is ours, see docs/variants.md.
    """

    def __init__(self, width: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = layer_norm(width)
        self.attn = SelfAttention(width, num_heads // 2)
        self.attn_time = SelfAttention(width, num_heads // 2)
        self.norm2 = layer_norm(width)
        self.mlp = FeedForward(width, mlp_ratio)
        self.adaLN_modulation = modulation(width, 6)

    def forward(
        self, x: Tensor, c: Tensor, num_video: int, rotary: Rotary = None, time_table: Tensor | None = None
    ) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=-1)  # (B, G, D) each
        if time_table is not None:
            x = add_time(x, time_table)  # (B, F, N, D)
        y = modulate(self.norm1(x), shift1, scale1)  # (B, F, N, D)
        fused = attend(self.attn, y) + attend_time(self.attn_time, y, num_video, rotary)  # (B, F, N, D)
        x = x + gate1[:, :, None] * fused  # (B, F, N, D)
        return x + gate2[:, :, None] * self.mlp(modulate(self.norm2(x), shift2, scale2))  # (B, F, N, D)


def add_time(x: Tensor, table: Tensor) -> Tensor:
    """Add a time table (1, T, D) to the first T frames of x (B, F, N, D); later frames are images and keep none."""
    extra = x.shape[1] - table.shape[1]
    return x + nn.functional.pad(table, (0, 0, 0, extra))[:, :, None]  # (B, F, N, D)


def attend_time(attention: SelfAttention, x: Tensor, num_video: int, rotary: Rotary = None) -> Tensor:
    """Attention over the first num_video frames at each position; zero for the other frames. (B, F, N, D)."""
    y = attend(attention, rearrange(x[:, :num_video], "b f n d -> b n f d"), rotary)  # (B, N, T, D)
    y = rearrange(y, "b n f d -> b f n d")  # (B, T, N, D)
    return nn.functional.pad(y, (0, 0, 0, 0, 0, x.shape[1] - num_video))  # (B, F, N, D)


class FinalLayer(nn.Module):
    """Tokens (B, M, N, D) -> patch values (B, M, N, p * p * C), zero at the start; float32 in mixed precision too.

    Source: DiT, section 3.2.
    """

    def __init__(self, width: int, patch_size: int, channels: int, modulated: bool = True) -> None:
        super().__init__()
        self.norm_final = layer_norm(width)
        self.linear = nn.Linear(width, patch_size * patch_size * channels)
        self.adaLN_modulation = modulation(width, 2) if modulated else None

    @in_float32
    def forward(self, x: Tensor, c: Tensor | None) -> Tensor:
        x = self.norm_final(x)  # (B, M, N, D)
        if self.adaLN_modulation is not None:
            shift, scale = self.adaLN_modulation(c).chunk(2, dim=-1)  # (B, G, D) each
            x = modulate(x, shift, scale)  # (B, M, N, D)
        return self.linear(x)  # (B, M, N, p p C)


def unpatchify(x: Tensor, patch_size: int) -> Tensor:
    """Patch values (B, M, N, p * p * C) of a square grid -> images (B, M, C, H, W)."""
    side = round(x.shape[2] ** 0.5)
    pattern = "b m (h w) (p q c) -> b m c (h p) (w q)"
    return rearrange(x, pattern, h=side, p=patch_size, q=patch_size)


def zero_init(network: nn.Module) -> None:
    """Zero every modulation and the final linear layer, so that each block starts as the identity. Source: DiT."""
    for module in network.modules():
        layers = getattr(module, "adaLN_modulation", None)
        if layers is not None:
            nn.init.zeros_(layers[-1].weight)
            nn.init.zeros_(layers[-1].bias)
        if isinstance(module, FinalLayer):
            nn.init.zeros_(module.linear.weight)
            nn.init.zeros_(module.linear.bias)


def chosen_size(
    named: tuple[int, int, int], depth: int | None, width: int | None, num_heads: int | None
) -> tuple[int, int, int]:
    """(depth, width, heads) of a named size with every given number in place of its own.

    Raises ConfigError, one line that names the key, for a number below 1, a width that the position tables can't fill
    (multiples of 4: sine and cosine of rows and columns) and a width that is no multiple of the heads.
    """
    given = {"depth": depth, "width": width, "num_heads": num_heads}
    for key, value in given.items():
        if value is not None and value < 1:
            raise ConfigError(f"model.{key}: got {value}, wanted at least 1, or null for that of model.size")
    numbers = [own if value is None else value for own, value in zip(named, given.values(), strict=True)]
    if numbers[1] % 4:
        raise ConfigError(f"model.width: got {numbers[1]}, wanted a multiple of 4 (sine-cosine positions)")
    if numbers[1] % numbers[2]:
        key = "num_heads" if width is None else "width"
        raise ConfigError(
            f"model.{key}: width {numbers[1]} is not a multiple of {numbers[2]} heads; "
            "change model.width or model.num_heads"
        )
    return numbers[0], numbers[1], numbers[2]
