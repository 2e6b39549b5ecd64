"""Where the suite's codec starts: the principal components of patches, written into an AutoencoderKL's weights.

From a random start a small AutoencoderKL needs thousands of steps to pass on what a linear map of its latent size
passes on at once (25 dB against 34 dB after 160 steps on 64-pixel people). So it starts as that linear map, and
training improves on it. The trick that makes a network of norms and SiLUs linear: silu(x) - silu(-x) = x, so every
component travels as a pair of channels of opposite sign; and one pair of large constants in every norm group keeps the
group's deviation, and so the norm's gain, the same for all frames.
"""

from __future__ import annotations

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from einops import rearrange
from torch import Tensor, nn

CONSTANT = 8.0  # in deviations of the latent: the larger, the more linear the start and the stiffer the training
LOG_VARIANCE = -6.0  # of the posterior at the start


@torch.no_grad()
def start_from_principal_components(autoencoder: AutoencoderKL, patches: Tensor) -> None:
    """Write the start into an AutoencoderKL of one level; patches are float32 (N, 3 p p, h, w) in [-1, 1].

    Latent channel k then is principal component k of the patches, all divided by one number, and the decoder is the
    transpose. Raises ValueError where the width has no room for the latent channels.
    Source: principal component analysis, Pearson 1901; the pairs of SiLUs are our own device.
    """
    num_latent = autoencoder.config.latent_channels
    slots = pair_slots(autoencoder)
    if len(slots) < num_latent:
        raise ValueError(f"codec.width: room for {len(slots)} latent channels, wanted {num_latent}; make it larger")
    rows = rearrange(patches, "n c h w -> (n h w) c")
    mean = rows.mean(dim=0)
    _, singular, axes = torch.linalg.svd(rows - mean, full_matrices=False)
    # One scale for all components: large structure keeps its large share of the latent's variance, as in pixels.
    scale = (singular[:num_latent] ** 2 / len(rows)).mean().sqrt().clamp(min=1e-3)
    analysis = axes[:num_latent] / scale  # (K, C)
    synthesis = axes[:num_latent].T * scale  # (C, K)

    for block in residual_blocks(autoencoder):
        nn.init.zeros_(block.conv2.weight)
        nn.init.zeros_(block.conv2.bias)
    spread(autoencoder.encoder.conv_in, analysis, -analysis @ mean, slots)
    spread(autoencoder.decoder.conv_in, torch.eye(num_latent), torch.zeros(num_latent), slots)
    for half in (autoencoder.encoder, autoencoder.decoder):
        undo_norm(half.conv_norm_out)
    collect(autoencoder.encoder.conv_out, torch.eye(num_latent), torch.zeros(num_latent), slots)
    autoencoder.encoder.conv_out.bias[num_latent:] = LOG_VARIANCE
    collect(autoencoder.decoder.conv_out, synthesis, mean, slots)
    for layer in (autoencoder.quant_conv, autoencoder.post_quant_conv):
        nn.init.dirac_(layer.weight)
        nn.init.zeros_(layer.bias)


def residual_blocks(autoencoder: AutoencoderKL) -> list[nn.Module]:
    """Every residual block; with a zero second convolution each is the identity."""
    return [module for module in autoencoder.modules() if hasattr(module, "conv2") and hasattr(module, "norm2")]


def pair_slots(autoencoder: AutoencoderKL) -> list[int]:
    """First channel of every pair that may carry a component; the last pair of each norm group is the constant."""
    width, groups = autoencoder.config.block_out_channels[0], autoencoder.config.norm_num_groups
    size = width // groups
    return [channel for channel in range(0, width - 1, 2) if channel % size < size - 2]


def spread(convolution: nn.Conv2d, matrix: Tensor, offset: Tensor, slots: list[int]) -> None:
    """Make a 3 x 3 convolution write K components as signed pairs, and the constants; matrix (K, C), offset (K,)."""
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    taken = set(slots) | {slot + 1 for slot in slots}
    free = [channel for channel in range(len(convolution.bias)) if channel not in taken]
    convolution.bias[free] = torch.tensor([CONSTANT, -CONSTANT]).repeat(len(free) // 2)
    for index, slot in enumerate(slots[: len(matrix)]):
        for channel, sign in ((slot, 1.0), (slot + 1, -1.0)):
            convolution.weight[channel, :, 1, 1] = sign * matrix[index]
            convolution.bias[channel] = sign * offset[index]


def undo_norm(norm: nn.GroupNorm) -> None:
    """Set a group norm's gain to the deviation that its constants give, so that it passes values on as they are."""
    channels_a_group = norm.num_channels // norm.num_groups
    nn.init.constant_(norm.weight, CONSTANT * (2 / channels_a_group) ** 0.5)
    nn.init.zeros_(norm.bias)


def collect(convolution: nn.Conv2d, matrix: Tensor, offset: Tensor, slots: list[int]) -> None:
    """Make a 3 x 3 convolution after a SiLU read the signed pairs; matrix (C, K) of outputs by components."""
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    rows = len(matrix)
    for index, slot in enumerate(slots[: matrix.shape[1]]):
        convolution.weight[:rows, slot, 1, 1] = matrix[:, index]
        convolution.weight[:rows, slot + 1, 1, 1] = -matrix[:, index]
    convolution.bias[:rows] = offset
