"""Video LDM's decoder: the image autoencoder's decoder, frozen, with temporal layers between its layers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import Decoder
from diffusers.models.resnet import AlphaBlender, TemporalResnetBlock
from torch import Tensor, nn

from lavita.codecs.base import Codec, in_chunks
from lavita.codecs.kl import KLCodec, frames_of_patches, patch_side
from lavita.diffusion.rng import SampleRNG
from lavita.nn.precision import in_float32
from lavita.nn.unet import GROUPS, zeroed
from lavita.shapes import check

MIX_START = 0.0  # of every mixing factor, before the sigmoid: half and half
TEMPORAL_EPS = 1e-5  # of the temporal layers' group norms


class TemporalLayer(nn.Module):
    """A residual block over time behind one of the image decoder's, mixed with its input; (B, D, F, h, w) -> the same.

    a x + (1 - a) block(x), where 1 - a is the sigmoid of a learned number: the other way round than in the U-Net.
    """

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        if width % GROUPS:
            raise ValueError(
                f"codec.width: the decoder has a block of {width} channels, wanted multiples of {GROUPS} for its "
                "temporal layers; or model.decoder_share=0, which leaves them out"
            )
        self.temporal_res_block = TemporalResnetBlock(width, width, temb_channels=None, eps=TEMPORAL_EPS)
        for name in ("norm1", "norm2"):
            setattr(self.temporal_res_block, name, nn.GroupNorm(groups, width, eps=TEMPORAL_EPS))
        self.time_mixer = AlphaBlender(MIX_START, "learned", switch_spatial_to_temporal_mix=True)
        # Made anew: diffusers' own always lies on the CPU, also where a network is counted without memory.
        self.time_mixer.mix_factor = nn.Parameter(torch.full((1,), MIX_START))

    def forward(self, x: Tensor) -> Tensor:
        return self.time_mixer(x_spatial=x, x_temporal=self.temporal_res_block(x, None))


class TemporalDecoder(nn.Module):
    """Pixels of latents (B, F, C, h, w): (B, F, out, H, W), by the layers of an image decoder and temporal ones.

    The image decoder, diffusers' `Decoder`, is used as it is and is no part of the state. patch: the side of the
    patches of pixels that it gives, 1 for plain frames; groups: of the temporal layers' norms.
    Source: Blattmann et al. 2023 (Align your Latents), section 3.1; Stability-AI/generative-models at 0ad7de9,
    sgm/modules/autoencoding/temporal_ae.py.
    """

    def __init__(self, decoder: Decoder, patch: int, groups: int) -> None:
        super().__init__()
        self._decoder = (decoder,)  # in a tuple, and so out of the registered modules
        self.patch = patch
        self.layers = nn.ModuleList(TemporalLayer(block.out_channels, groups) for block in residual_blocks(decoder))
        channels = decoder.conv_out.out_channels // patch**2
        self.time_conv_out = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))

    @property
    def image_decoder(self) -> Decoder:
        """The decoder of single frames."""
        return self._decoder[0]

    def start_from_the_image_decoder(self) -> TemporalDecoder:
        """Let every temporal layer be the identity, so that the whole is the image decoder. Returns itself."""
        for layer in self.layers:
            zeroed(layer.temporal_res_block.conv2)
        zeroed(self.time_conv_out)
        with torch.no_grad():
            self.time_conv_out.weight[:, :, 1, 0, 0] = torch.eye(len(self.time_conv_out.weight))
        return self

    @in_float32
    def forward(self, z: Tensor) -> Tensor:
        decoder, frames, layers = self.image_decoder, z.shape[1], iter(self.layers)

        def over_time(module: nn.Module, h: Tensor) -> Tensor:
            """A module of clips (B, D, F, h, w) on frames (B F, D, h, w)."""
            clips = h.unflatten(0, (-1, frames)).transpose(1, 2)
            return module(clips).transpose(1, 2).flatten(0, 1)

        def residual(block: nn.Module, h: Tensor) -> Tensor:
            return over_time(next(layers), block(h, None))

        h = decoder.conv_in(z.flatten(0, 1))  # (B F, D, h, w)
        h = residual(decoder.mid_block.resnets[0], h)
        for attention, block in zip(decoder.mid_block.attentions, decoder.mid_block.resnets[1:], strict=True):
            h = residual(block, h if attention is None else attention(h))
        for level in decoder.up_blocks:
            for block in level.resnets:
                h = residual(block, h)
            for upsampler in level.upsamplers or ():
                h = upsampler(h)
        pixels = decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(h)))  # (B F, out p p, H / p, W / p)
        video = frames_of_patches(pixels, self.patch, len(z))  # (B, F, out, H, W)
        return self.time_conv_out(video.transpose(1, 2)).transpose(1, 2)

    def mixing(self) -> Tensor:
        """Weight of the image layer at every mixing, in (0, 1): 1 where a temporal layer is not used."""
        return 1 - torch.cat([layer.time_mixer.mix_factor for layer in self.layers]).sigmoid()


def residual_blocks(decoder: Decoder) -> Iterator[nn.Module]:
    """The residual blocks of an image decoder, first to last."""
    yield from decoder.mid_block.resnets
    for level in decoder.up_blocks:
        yield from level.resnets


def temporal_decoder(autoencoder: AutoencoderKL) -> TemporalDecoder:
    """The temporal layers for an autoencoder's decoder, at the start where they change nothing."""
    config = autoencoder.config
    decoder = TemporalDecoder(autoencoder.decoder, patch_side(autoencoder), config.norm_num_groups)
    return decoder.start_from_the_image_decoder()


class VideoCodec(Codec):
    """The suite's autoencoder with the temporal decoder: encodes frame by frame, decodes whole clips.

    A view: it holds the two that it is given and has no weights of its own.
    """

    def __init__(self, codec: KLCodec, decoder: TemporalDecoder) -> None:
        super().__init__()
        self.codec, self.decoder = codec, decoder
        self.name = f"{codec.name}, temporal decoder"
        self.latent_channels, self.downsample, self.trained_clips = (
            codec.latent_channels, codec.downsample, codec.trained_clips,
        )  # fmt: skip

    def encode(self, video: Tensor, rng: SampleRNG) -> Tensor:
        return self.codec.encode(video, rng)

    def decode(self, latent: Tensor) -> Tensor:
        return self.pixels(latent).clamp(-1, 1)

    def pixels(self, latent: Tensor) -> Tensor:
        """Clip of each latent (B, F, C, h, w), (B, F, 3, H, W), not held in any range: what training needs."""
        sizes = check(latent, "B F C H W", "latent", C=self.latent_channels)
        size = sizes["F"] * sizes["H"] * sizes["W"] * self.downsample**2
        return in_chunks(self._pixels, latent, size, self.decoder)

    def _pixels(self, latent: Tensor) -> Tensor:
        z, before = latent * self.codec.std + self.codec.mean, self.codec.autoencoder.post_quant_conv
        if before is not None:
            z = before(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        return self.decoder(z)  # (B, F, 3, H, W)

    def latent_bound(self) -> float:
        return self.codec.latent_bound()
