"""Multi-head self-attention with DiT's parameter names; the product goes through scaled_dot_product_attention."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from lavita.models.embed import rotate


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
