"""The suite's own small AutoencoderKL as a trained stage: reconstruction, edges and a weak pull to the normal prior."""

from __future__ import annotations

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from einops import rearrange
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lavita.codecs.kl import KLCodec, frames_of_patches, patch_side, patches_of_frames
from lavita.config.schema import CodecConfig, TrainConfig
from lavita.diffusion.rng import SampleRNG
from lavita.training.stage import TrainedStage, inputs_of

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


LEAST_DEVIATION = 1e-6  # of latents, where those of real clips come to about 1


def small_autoencoder(config: CodecConfig) -> AutoencoderKL:
    """An AutoencoderKL of one level on patches of pixels, without attention: all its work is at the latents' size."""
    channels = 3 * config.downsample**2
    return AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(config.width,),
        layers_per_block=1,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_groups,
        mid_block_add_attention=False,
    )


class CodecTraining(TrainedStage):
    """Trains an AutoencoderKL on the frames of clips.

    loss = |x - y| + |edges of x - edges of y| + kl_weight * KL(posterior || N(0, 1)), means over entries.
    Source: Rombach et al. 2022, section 3.1, without the adversarial and the learned perceptual part: both need
    external weights or a second network, and the suite's autoencoder is to be small, closed and the same for all.
    """

    stage_name = "codec"

    def __init__(self, config: CodecConfig, train: TrainConfig, seed: int) -> None:
        super().__init__(train, seed)
        self.autoencoder = small_autoencoder(config)
        self.kl_weight = config.kl_weight

    def start(self, video: Tensor) -> None:
        """Start from the principal components of the patches of some training clips (B, F, 3, H, W)."""
        start_from_principal_components(self.autoencoder, patches_of_frames(video, patch_side(self.autoencoder)))

    def loss(self, batch: dict[str, Tensor], rng: SampleRNG) -> dict[str, Tensor]:
        video, patch = batch["video"], patch_side(self.autoencoder)
        posterior = self.autoencoder.encode(patches_of_frames(video, patch)).latent_dist
        noise = rng.normal((video.shape[1], *posterior.mean.shape[1:]))  # (B, F, C, h, w)
        z = posterior.mean + posterior.std * rearrange(noise, "b f c h w -> (b f) c h w")
        output = frames_of_patches(self.autoencoder.decode(z).sample, patch, len(video))  # (B, F, 3, H, W)
        pixel = (output - video).abs().flatten(1).mean(1)
        edge = sum((d(output) - d(video)).abs().flatten(1).mean(1) for d in (rows_difference, columns_difference))
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).flatten(1).mean(1)
        kl = rearrange(kl, "(b f) -> b f", b=len(video)).mean(1)
        return {"loss": pixel + edge + self.kl_weight * kl, "pixel": pixel, "edge": edge, "kl": kl}


def rows_difference(x: Tensor) -> Tensor:
    """Difference of neighbouring rows, (N, C, H - 1, W)."""
    return x[..., 1:, :] - x[..., :-1, :]


def columns_difference(x: Tensor) -> Tensor:
    """Difference of neighbouring columns, (N, C, H, W - 1)."""
    return x[..., :, 1:] - x[..., :, :-1]


@torch.no_grad()
def measured_codec(autoencoder: AutoencoderKL, loader: DataLoader, name: str, trained_clips: int) -> KLCodec:
    """The trained autoencoder with the statistics of its latents on the clips of the loader: one mean a channel, one
    deviation for all (the published "scaling factor"), and the range that holds 99.9 % of the values."""
    values = []
    for batch in loader:
        video = inputs_of({"video": batch["video"].to(autoencoder.device)})["video"]  # (B, F, 3, H, W)
        frames = patches_of_frames(video, patch_side(autoencoder))
        values.append(autoencoder.encode(frames).latent_dist.mean.float().cpu())
    z = rearrange(torch.cat(values), "n c h w -> c (n h w)")
    mean = z.mean(dim=1)
    # Clips without any content all have one latent; the least deviation keeps it finite.
    std = (z - mean[:, None]).std().clamp(min=LEAST_DEVIATION).expand(len(z))
    shares = ((z - mean[:, None]) / std[:, None]).abs().flatten()
    # The range of all but one in a thousand values: the extremes of a few patches are no bound for a whole clip.
    bound = float(shares.kthvalue(max(1, round(0.999 * len(shares)))).values)
    return KLCodec(autoencoder, mean, std.clone(), bound, name, trained_clips)
