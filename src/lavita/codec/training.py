"""The suite's own small AutoencoderKL as a trained stage: reconstruction, edges and a weak pull to the normal prior."""

from __future__ import annotations

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from einops import rearrange
from torch import Tensor
from torch.utils.data import DataLoader

from lavita.codec.kl import KLCodec, frames_of_patches, patch_side, patches_of_frames
from lavita.codec.start import start_from_principal_components
from lavita.config import CodecConfig, TrainConfig
from lavita.diffusion.draws import ClipDraws
from lavita.train.module import TrainedStage


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
    outside weights or a second network, and the suite's codec is to be small, closed and the same for all.
    """

    stage_name = "codec"

    def __init__(self, config: CodecConfig, train: TrainConfig, seed: int) -> None:
        super().__init__(train, seed)
        self.autoencoder = small_autoencoder(config)
        self.kl_weight = config.kl_weight

    def start(self, video: Tensor) -> None:
        """Start from the principal components of the patches of some training clips (B, F, 3, H, W)."""
        start_from_principal_components(self.autoencoder, patches_of_frames(video, patch_side(self.autoencoder)))

    def loss(self, batch: dict[str, Tensor], draws: ClipDraws) -> dict[str, Tensor]:
        video, patch = batch["video"], patch_side(self.autoencoder)
        posterior = self.autoencoder.encode(patches_of_frames(video, patch)).latent_dist
        noise = draws.normal((video.shape[1], *posterior.mean.shape[1:]))  # (B, F, C, h, w)
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
        frames = patches_of_frames(batch["video"].to(autoencoder.device), patch_side(autoencoder))
        values.append(autoencoder.encode(frames).latent_dist.mean.float().cpu())
    z = rearrange(torch.cat(values), "n c h w -> c (n h w)")
    mean = z.mean(dim=1)
    std = (z - mean[:, None]).std().expand(len(z))
    shares = ((z - mean[:, None]) / std[:, None]).abs().flatten()
    # The range of all but one in a thousand values: the extremes of a few patches are no bound for a whole clip.
    bound = float(shares.kthvalue(max(1, round(0.999 * len(shares)))).values)
    return KLCodec(autoencoder, mean, std.clone(), bound, name, trained_clips)
