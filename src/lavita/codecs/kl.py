"""diffusers' AutoencoderKL as a codec: frame by frame, latents normalised to about unit variance."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from einops import rearrange
from torch import Tensor

from lavita.codecs.base import Codec, in_chunks
from lavita.config.schema import CodecConfig
from lavita.diffusion.rng import SampleRNG

STATISTICS = "latent_statistics.json"


class KLCodec(Codec):
    """Each frame through an AutoencoderKL; latents are (z - mean) / std.

    mean and std are float32 (C,); bound is the range that real latents keep to after that, on both
    sides of 0. Source: Rombach et al. 2022, section 3.1 and appendix G (scaling of latents).
    """

    def __init__(
        self,
        autoencoder: AutoencoderKL,
        mean: Tensor,
        std: Tensor,
        bound: float,
        name: str = "kl",
        trained_clips: int = 0,
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.register_buffer("mean", mean.float().view(-1, 1, 1), persistent=True)
        self.register_buffer("std", std.float().view(-1, 1, 1), persistent=True)
        self.register_buffer("bound", torch.tensor(float(bound)), persistent=True)
        self.name = name
        self.trained_clips = trained_clips
        self.latent_channels = autoencoder.config.latent_channels
        self.patch = patch_side(autoencoder)
        self.downsample = self.patch * 2 ** (len(autoencoder.config.block_out_channels) - 1)

    def encode(self, video: Tensor, rng: SampleRNG) -> Tensor:
        moments = self.moments(rearrange(video, "b f c h w -> (b f) c h w"))  # (B F, 2 C, h, w)
        return self.draw(rearrange(moments, "(b f) c h w -> b f c h w", b=len(video)), rng)

    def moments(self, frames: Tensor) -> Tensor:
        return in_chunks(self._moments, frames, frames.shape[2] * frames.shape[3], self.autoencoder)

    def _moments(self, frames: Tensor) -> Tensor:
        patches = patches_of_frames(frames[:, None], self.patch)  # (n, 3 p p, H/p, W/p)
        posterior = self.autoencoder.encode(patches).latent_dist
        return torch.cat([posterior.mean, posterior.logvar], dim=1)  # (n, 2 C, h, w)

    def draw(self, moments: Tensor, rng: SampleRNG) -> Tensor:
        mean, log_variance = moments.chunk(2, dim=2)  # (B, F, C, h, w) each
        z = mean + torch.exp(0.5 * log_variance) * rng.normal(mean.shape[1:])  # (B, F, C, h, w)
        return (z - self.mean) / self.std

    def decode(self, latent: Tensor) -> Tensor:
        z = rearrange(latent * self.std + self.mean, "b f c h w -> (b f) c h w")
        pixels = z.shape[2] * z.shape[3] * self.downsample**2
        return in_chunks(self._frames, z, pixels, self.autoencoder).unflatten(0, latent.shape[:2])

    def _frames(self, z: Tensor) -> Tensor:
        patches = self.autoencoder.decode(z).sample  # (n, 3 p p, H/p, W/p)
        return frames_of_patches(patches, self.patch, len(z))[:, 0].clamp(-1, 1)  # (n, 3, H, W)

    def latent_bound(self) -> float:
        return float(self.bound)


def patch_side(autoencoder: AutoencoderKL) -> int:
    """p of an autoencoder on p x p patches of pixels, 1 for one on plain frames."""
    return round((autoencoder.config.in_channels / 3) ** 0.5)


def patches_of_frames(video: Tensor, patch: int) -> Tensor:
    """Space to depth: (B, F, 3, H, W) -> (B F, 3 p p, H/p, W/p)."""
    return rearrange(video, "b f c (h p) (w q) -> (b f) (c p q) h w", p=patch, q=patch)


def frames_of_patches(patches: Tensor, patch: int, num_clips: int) -> Tensor:
    """Depth to space, the inverse of `patches_of_frames`: (B F, 3 p p, H/p, W/p) -> (B, F, 3, H, W)."""
    return rearrange(patches, "(b f) (c p q) h w -> b f c (h p) (w q)", b=num_clips, p=patch, q=patch)


def load_kl(path: str, scaling: float | None) -> KLCodec:
    """A pre-trained AutoencoderKL from a local folder, or of a hub name that was fetched before.

    scaling is the published factor on z (0.18215 for Stable Diffusion's); None takes the one in its configuration.
    Nothing is fetched here, and of its weights only safetensors are read.
    Raises ValueError in one line where it can't be had, saying how to fetch it.
    """
    try:
        autoencoder = AutoencoderKL.from_pretrained(
            path, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"codec.path: no AutoencoderKL at {path!r} ({reason}). Give a local folder that holds config.json and "
            "diffusion_pytorch_model.safetensors; for a hub name, which is never fetched by itself, fetch both first: "
            f"hf download NAME --local-dir FOLDER; or train one: codec.kind=suite"
        ) from None
    factor = scaling if scaling is not None else autoencoder.config.scaling_factor
    channels = autoencoder.config.latent_channels
    return KLCodec(autoencoder, torch.zeros(channels), torch.full((channels,), 1 / factor), math.inf, f"kl:{path}")


def published_autoencoder(config: CodecConfig) -> AutoencoderKL:
    """Stable Diffusion's autoencoder by its shape alone, or that of the local folder codec.path; fresh weights.

    Source: Rombach et al. 2022, appendix G; stabilityai/sd-vae-ft-ema, config.json.
    """
    local = Path(config.path) / "config.json"
    if local.is_file():
        return AutoencoderKL.from_config(json.loads(local.read_text(encoding="utf-8-sig")))
    levels = config.downsample.bit_length()  # one halving between two levels
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(config.width * min(2**level, 4) for level in range(levels)),
        layers_per_block=2,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_groups,
    )


def save_codec(codec: KLCodec, folder: Path) -> None:
    """Write weights, configuration and latent statistics; `load_codec` reads them."""
    codec.autoencoder.save_pretrained(folder)
    statistics = {
        "mean": codec.mean.flatten().tolist(),
        "std": codec.std.flatten().tolist(),
        "bound": codec.latent_bound(),
        "name": codec.name,
        "trained_clips": codec.trained_clips,
    }
    (folder / STATISTICS).write_text(json.dumps(statistics, indent=1) + "\n")


def load_codec(folder: Path) -> KLCodec:
    """An autoencoder that the suite trained. Raises FileNotFoundError where the folder holds none, ValueError where
    `save_codec` did not write it.
    """
    s = json.loads((folder / STATISTICS).read_text())
    try:
        autoencoder = AutoencoderKL.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False
        )
    except OSError as error:
        raise ValueError(f"{folder}: no autoencoder of the suite ({str(error).strip().splitlines()[0]})") from None
    return KLCodec(
        autoencoder, torch.tensor(s["mean"]), torch.tensor(s["std"]), s["bound"], s["name"], s["trained_clips"]
    )
