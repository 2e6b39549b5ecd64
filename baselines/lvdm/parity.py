"""Cases of LVDM: both networks, the losses of the autoencoder, the samplers, and diffusion with given frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lavita.diffusion.schedule import Schedule
from lavita.methods import discriminators
from lavita.methods.latent_scale import scaled, unscaled
from lavita.parity.adapters import tensor
from lavita.parity.cases import Adapter, Case, CaseError, no_network

from . import losses
from .autoencoder import AutoencoderConfig, SameConv, VideoAutoencoder
from .diffusion import ancestral_step, ddim_step, lvdm_schedule, sample_latents, sampling_times
from .given_frames import conditioned, mask_of, masked_loss, noised, with_mask
from .losses import FrameDiscriminator
from .unet import UNetConfig, VideoUNet

# What the released networks leave as it is; a case with another value is of another network.
FIXED_UNET = {
    "use_temporal_transformer": False,
    "legacy": False,
    "kernel_size_t": 1,
    "padding_t": 0,
    "use_relative_position": True,
    "use_scale_shift_norm": True,
}
FIXED_AUTOENCODER = {"double_z": True, "norm_type": "group", "padding_type": "replicate"}


def require_fixed(case: Case, config: dict[str, Any], fixed: dict[str, Any]) -> None:
    """Raise CaseError where the case's configuration is of a network that was not released."""
    for key, value in fixed.items():
        if config.get(key, value) != value:
            raise CaseError(f"{case.path}: config.{key} is {config[key]!r}, covered is {value!r}")


def build_unet(case: Case) -> VideoUNet:
    """The U-Net at the case's sizes."""
    c = case.get("config")
    require_fixed(case, c, FIXED_UNET)
    sizes = {"depth": c["num_res_blocks"], "width": c["model_channels"], "num_labels": c.get("num_classes")}
    shared = {key: c[key] for key in ("in_channels", "out_channels", "num_heads", "temporal_length")}
    return VideoUNet(
        UNetConfig(multiples=tuple(c["channel_mult"]), attention=tuple(c["attention_resolutions"]), **sizes, **shared)
    )


def run_unet(case: Case, network: VideoUNet) -> dict[str, Tensor]:
    """Output and its mean square with gradients."""
    y = network(tensor(case, "x"), tensor(case, "t"))
    mean_square = y.square().mean()
    mean_square.backward()
    return {"y": y, "mean_square": mean_square}


def both_names(module: nn.Module) -> nn.Module:
    """The module with the released code's second name of every convolution's weight: x.weight beside x.conv.weight."""
    for layer in module.modules():
        if isinstance(layer, SameConv):
            layer.register_parameter("weight", layer.conv.weight)
    return module


def autoencoder_of(case: Case, config: dict[str, Any]) -> VideoAutoencoder:
    """The autoencoder at a case's sizes."""
    require_fixed(case, config, FIXED_AUTOENCODER)
    if config.get("embed_dim", config["z_channels"]) != config["z_channels"]:
        raise CaseError(f"{case.path}: config.embed_dim differs from z_channels, which no released network has")
    return VideoAutoencoder(
        AutoencoderConfig(config["n_hiddens"], tuple(config["downsample"]), config["z_channels"], norm_groups=32)
    )


def build_autoencoder(case: Case) -> nn.Module:
    """Encoder and decoder, of which alone the case is."""
    autoencoder = autoencoder_of(case, case.get("config"))
    return both_names(nn.ModuleDict({"encoder": autoencoder.encoder, "decoder": autoencoder.decoder}))


def squashed(case: Case, key: str) -> Tensor:
    """An input tanh(z(...)) that is a clip, (B, 3, F, H, W)."""
    return torch.tanh(torch.from_numpy(case.expression(key, r"tanh\(Z\)")[0]))


def run_autoencoder(case: Case, network: nn.ModuleDict) -> dict[str, Tensor]:
    """Moments, and the decoder on their first half."""
    with torch.no_grad():
        moments = network["encoder"](squashed(case, "x"))
        return {"moments": moments, "reconstruction_of_mean": network["decoder"](moments.chunk(2, dim=1)[0])}


def build_training(case: Case) -> nn.Module:
    """Autoencoder and discriminator under the names of the released training module."""
    network = both_names(autoencoder_of(case, case.get("config", "autoencoder")))
    network.loss = nn.Module()
    network.loss.register_buffer("logvar", torch.zeros(()))  # of the released loss, in no optimiser
    network.loss.discriminator = FrameDiscriminator(depth=case.get("config", "loss", "disc_num_layers"))
    return network


def pooled_difference(x: Tensor, y: Tensor) -> Tensor:
    """The stand-in for LPIPS that the case writes down, (B, 3, H, W) -> (B,)."""
    return functional.avg_pool2d(x - y, 4).square().mean(dim=(1, 2, 3))


PERCEPTUAL = "p(x, y) = mean over channels and positions of avg_pool2d(x - y, 4)^2, one number a frame"


def run_training(case: Case, network: Any) -> dict[str, Any]:
    """Both losses of a step, what they are made of, and the gradients that each side's optimiser sees."""
    config = case.get("config", "loss")
    if not str(case.get("definitions", "perceptual")).endswith(PERCEPTUAL):
        raise CaseError(f"{case.path}: definitions.perceptual has an unknown form")
    if config["disc_weight"] != discriminators.ADVERSARIAL_WEIGHT:
        raise CaseError(f"{case.path}: config.loss.disc_weight is not {discriminators.ADVERSARIAL_WEIGHT}")
    video, discriminator = squashed(case, "video").transpose(1, 2), network.loss.discriminator  # (B, F, 3, H, W)
    rebuilt, mean, log_variance = network(video, tensor(case, "posterior_noise"))
    parts = losses.frame_loss(video, rebuilt, pooled_difference)
    reconstruction, by_value = parts["reconstruction"].mean(), losses.kl_by_value(mean, log_variance)
    kl = by_value.flatten(1).sum(dim=1).mean()
    discriminator.requires_grad_(False)
    generator_map = losses.logits_of(discriminator, rebuilt)
    discriminator.requires_grad_(True)
    adversarial = -generator_map.flatten(1).mean(dim=1).mean()
    weight = discriminators.adaptive_weight(reconstruction, adversarial, network.decoder.conv_out.conv.weight)
    before = reconstruction + config["kl_weight"] * kl
    started = float(case.get("config", "global_step") >= config["disc_start"])
    total = before + weight * started * adversarial
    total.backward()
    with torch.no_grad():
        again = network(video, tensor(case, "posterior_noise_2"))[0]
    maps = [losses.logits_of(discriminator, frames) for frames in (video, again)]
    discriminator_loss = discriminators.hinge_loss(*maps).mean() * started
    discriminator_loss.backward()
    return {
        "autoencoder_loss": total,
        "rec_loss": reconstruction / video[0, 0].numel(),
        "nll_loss": reconstruction,
        "kl_loss": kl,
        "g_loss": adversarial,
        "d_weight": weight,
        "disc_factor": started,
        "discriminator_loss": discriminator_loss,
        "generator_map": generator_map.flatten(0, 1),
        "real_map": maps[0].flatten(0, 1),
        "fake_map": maps[1].flatten(0, 1),
        "discriminator_running_mean": discriminator.main[3].running_mean,
        "autoencoder_loss_before_start": before,
        "discriminator_loss_before_start": 0.0,
        "reconstruction": rebuilt.transpose(1, 2),
        "kl_by_column": by_value.sum(dim=(1, 2, 3)),
    }


def schedule_of(config: dict[str, Any]) -> Schedule:
    """The schedule of a case."""
    return lvdm_schedule(config["linear_start"], config["linear_end"], config["timesteps"])


NETWORK = "eps = tanh(0.7 x + sin(t / 1000)), t the timestep that the sampler hands over"


def run_sampler(case: Case, network: None) -> dict[str, Any]:
    """The state after every DDIM step, single ancestral steps, the scaled latent and its way back."""
    config = case.get("config")
    if case.get("network") != NETWORK:
        raise CaseError(f"{case.path}: the network's formula has an unknown form: {case.get('network')[:80]!r}")

    def predict(x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(0.7 * x + torch.sin(t / 1000).view(-1, *[1] * (x.ndim - 1)))

    schedule, start, noise = schedule_of(config), tensor(case, "x_T"), tensor(case, "noise")
    draws, states = iter([start, *noise]), []
    times = sampling_times(config["ddim_steps"], schedule.num_steps)
    sample_latents(
        predict,
        schedule,
        lambda: next(draws),
        "ddim",
        str(config["ddim_steps"]),
        config["eta"],
        watch=lambda i, x: states.append(x),
    )
    figures: dict[str, Any] = {f"ddim_after_step_{i}": state for i, state in enumerate(states)}
    before = states[-2] if len(states) > 1 else start
    eps = predict(before, torch.full((len(before),), times[-1]))
    figures["ddim_x0_of_last_step"] = ddim_step(schedule, before, times[-1], 0, eps, noise[-1], config["eta"])[1]
    for step, fresh in zip(config["ddpm_t"], tensor(case, "ddpm_noise"), strict=True):
        eps = predict(start, torch.full((len(start),), step))
        figures[f"ddpm_step_t{step}"] = ancestral_step(schedule, start, step, eps, fresh)
    shift, scale = torch.tensor(config["shift_factor"]), torch.tensor(config["scale_factor"])
    latent = scaled(tensor(case, "z"), shift, scale)
    count = schedule.num_steps
    return figures | {
        "timesteps": np.array(times[::-1]),
        "latent": latent,
        "z_back": unscaled(latent, shift, scale),
        "alphas_cumprod": schedule.alphas_cumprod[[0, 1, count // 2, -2, -1]],
    }


def run_long(case: Case, network: VideoUNet) -> dict[str, Any]:
    """The masked loss with its gradients, and one guided DDIM step of prediction and of interpolation."""
    config = case.get("config", "diffusion")
    schedule, z = schedule_of(config), tensor(case, "x_start")
    t, s, noise_t, noise_s = (tensor(case, key) for key in ("t", "s", "noise_t", "noise_s"))
    length, every = z.shape[2], torch.ones(len(z), dtype=torch.bool)
    listed = case.get("inputs", "mask_frames")
    mask = torch.cat([mask_of(every[:1], frames, length) for frames in listed])
    x_noisy = noised(schedule, z, mask, t, s, noise_t, noise_s)
    state, nothing = tensor(case, "x_T"), torch.zeros_like(mask)
    with torch.no_grad():
        figures: dict[str, Any] = {
            "x_noisy": x_noisy,
            "y": network(with_mask(x_noisy, mask), t, s),
            "y_unconditional": network(with_mask(state, nothing), t),
        }
        for task, frames in (("prediction", [0]), ("interpolation", [0, length - 1])):
            noise = torch.zeros_like(z)
            noise[:, :, frames] = tensor(case, "noise_cond")[:, :, : len(frames)]
            put, predict = conditioned(network, schedule, z, mask_of(every, frames, length), noise, config["guidance"])
            times = sampling_times(config["ddim_steps"], schedule.num_steps)[::-1]
            index = config["ddim_index"]
            time, x = times[index], put(state)
            eps = predict(x, torch.full((len(x),), time))
            before = times[index - 1] if index else 0
            x, x0 = ddim_step(schedule, x, time, before, eps, tensor(case, "noise_step"), config["eta"])
            figures |= {f"{task}_x_prev": x, f"{task}_x0": x0}
    loss = masked_loss(network, schedule, z, mask, t, s, noise_t, noise_s).mean()
    loss.backward()
    return figures | {"loss": loss}


SYSTEMS = {
    "lvdm_unet": Adapter(build_unet, run_unet),
    "lvdm_unet_long": Adapter(build_unet, run_long),
    "lvdm_autoencoder3d": Adapter(build_autoencoder, run_autoencoder),
    "lvdm_autoencoder_loss": Adapter(build_training, run_training),
    "lvdm_sampler": Adapter(no_network, run_sampler),
}
