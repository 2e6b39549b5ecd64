"""Cases of StyleGAN-V and MoStGAN-V: generators, discriminators, the augmentation pipe."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from lavita.methods.adversarial import discriminator_loss, generator_loss, r1_penalty
from lavita.nn.augmentation import PIPES, SYM6, AugmentConfig, Transforms, augment
from lavita.nn.resampling import normalised_taps
from lavita.parity.adapters import tensor
from lavita.parity.cases import Adapter, Case, CaseError, no_network

from .discriminator import Discriminator, DiscriminatorConfig
from .generator import Generator, GeneratorConfig
from .motion import MotionConfig
from .styles import StylesConfig

PRESENT = {
    "img_channels": 3, "use_noise": False, "input": "temporal", "mbstd_num_channels": 1, "concat_res": 16,
    "num_frames_div_factor": 2, "dummy_c": False, "style_z": True, "word_mod": True,
}  # fmt: skip


def check_settings(case: Case) -> dict:
    """The case's configuration. Raises CaseError where a setting has a value that the networks do not have."""
    config = case.get("config")
    for key, value in PRESENT.items():
        if config.get(key, value) != value:
            raise CaseError(f"{case.path}: config.{key}: got {config[key]!r}, this project has {value!r} only")
    return config


def build_generator(case: Case) -> Generator:
    """The generator at the case's sizes, with motion styles where it has them."""
    c = check_settings(case)
    motion = MotionConfig(
        noise_dim=c["motion"]["z_dim"],
        width=c["motion"]["v_dim"],
        distance=c["motion"]["motion_z_distance"],
        kernel=c["motion"]["kernel_size"],
        frequencies=c["time_enc"]["dim"],
        min_period=c["time_enc"]["min_period_len"],
        max_period=c["time_enc"]["max_period_len"],
        max_frames=c["max_num_frames"],
    )
    styles = None
    if "motion_num" in c:
        styles = StylesConfig(c["motion_num"], c["motion_dim"], tuple(c["mod_layers"]), c["rank"])
    return Generator(
        GeneratorConfig(
            resolution=c["img_resolution"],
            c_dim=c["c_dim"],
            z_dim=c["z_dim"],
            w_dim=c["w_dim"],
            channel_base=c["channel_base"],
            channel_max=c["channel_max"],
            clamp=c["conv_clamp"],
            mapping_layers=c["mapping_layers"],
            motion=motion,
            styles=styles,
        )
    )


def norms_by_name(network: nn.Module, loss: Tensor) -> dict[str, float]:
    """Norm of the gradient of a loss for each parameter, 0 where it does not depend on it."""
    names, parameters = zip(*network.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return {
        name: 0.0 if gradient is None else float(gradient.double().norm())
        for name, gradient in zip(names, gradients, strict=True)
    }


def run_generator(case: Case, network: Generator) -> dict:
    """Frames along every path of the arithmetic, the motion codes, and gradients."""
    inputs = case.get("inputs")
    z, noise, t = tensor(case, "z"), tensor(case, "motion_z"), tensor(case, "t")
    c = tensor(case, "c") if "c" in inputs else None
    styles = network.config.styles is not None
    with torch.no_grad():
        left, right = network.synthesis.motion_encoder.neighbours(t, noise, c)
        figures = {
            "motion_u_left": left,
            "motion_u_right": right,
            "motion_v": network.synthesis.motion_encoder(t, noise, c),
            "y_truncated": network(z, t, noise, c, psi=case.get("truncation_psi"), fused=styles)[0].flatten(0, 1),
        }
        for number in case.get("config").get("mixed_res", []):
            for name, fused in ((f"mixed{number}", True), (f"mixed{number}_train", False)):
                y, figures[f"sim_{name}"], _ = network(z, t, noise, c, fused=fused, mixed=number)
                figures[f"y_{name}"] = y.flatten(0, 1)
    y, figures["sim_eval"], w = network(z, t, noise, c, fused=styles)
    y_train, figures["sim_train"], _ = network(z, t, noise, c, fused=False)
    figures |= {"w": w, "y": y.flatten(0, 1), "y_train": y_train.flatten(0, 1)}
    for name, frames in (("mean_square_y", y), ("mean_square_y_train", y_train)):
        figures[name] = frames.square().mean()
        figures[f"grad_norms_of_{name}"] = norms_by_name(network, figures[name])
    if styles:
        figures["grad_norms_of_sim_train"] = norms_by_name(network, figures["sim_train"])
    network.mapping.update_average(w.mean(0))
    return figures | {"w_avg_after_one_training_call": network.mapping.w_avg}


def build_discriminator(case: Case) -> Discriminator:
    """The discriminator at the case's sizes."""
    c = check_settings(case)
    return Discriminator(
        DiscriminatorConfig(
            resolution=c["img_resolution"],
            c_dim=c["c_dim"],
            frames=c["num_frames_per_video"],
            max_frames=c["max_num_frames"],
            channel_base=c["channel_base"],
            channel_max=c["channel_max"],
            clamp=c["conv_clamp"],
            mapping_layers=c["mapping_layers"],
            group=c["mbstd_group_size"],
            hidden=c.get("motion_dim"),
            differences=c.get("motion_diff", False),
        )
    )


def run_discriminator(case: Case, network: Discriminator) -> dict:
    """Logits of both sets, losses and penalty, and the gradients of the discriminator's two losses."""
    inputs = case.get("inputs")
    real, fake = tensor(case, "real").requires_grad_(), tensor(case, "fake")
    times = {name: tensor(case, f"t_{name}").float() for name in ("real", "fake")}
    labels = {name: tensor(case, f"c_{name}") if f"c_{name}" in inputs else None for name in ("real", "fake")}
    of_real, hidden = network(real, times["real"], labels["real"])
    of_fake, _ = network(fake, times["fake"], labels["fake"])
    penalty = r1_penalty(of_real, real, kept_axes=2).flatten()  # (B T,)
    loss, penalised = discriminator_loss(of_real, of_fake).mean(), case.get("r1_gamma") / 2 * penalty.mean()
    return {
        "logits_real": of_real,
        "logits_fake": of_fake,
        "hidden_real": hidden,
        "time_code_real": network.time_encoder(times["real"]),
        "cmap_real": network.condition(times["real"], labels["real"]),
        "loss_G": generator_loss(of_fake).mean(),
        "loss_D_fake": generator_loss(-of_fake).mean(),
        "loss_D_real": generator_loss(of_real).mean(),
        "r1_penalty": penalty,
        "loss_R1": penalised,
        "grad_norms_of_loss_D": norms_by_name(network, loss),
        "grad_norms_of_loss_R1": norms_by_name(network, penalised),
    }


def transforms_at(q: float, config: AugmentConfig, clips: int) -> Transforms:
    """The transforms that a case fixes by one quantile for every draw, of which those happen that config has."""
    deviation = float(torch.erfinv(torch.tensor(2 * q - 1, dtype=torch.float64)))

    def each(value: float, on: float = 1.0, otherwise: float = 0.0) -> Tensor:
        return torch.full((clips,), value if on else otherwise)

    def pair(value: float, on: float = 1.0) -> Tensor:
        return torch.full((clips, 2), value if on else 0.0)

    c = config
    return Transforms(
        flip=each(math.floor(2 * q), c.xflip),
        turns=each(math.floor(4 * q), c.rotate90),
        shift=pair((2 * q - 1) * c.xint_max, c.xint),
        scale=each(2 ** (deviation * c.scale_std), c.scale, 1.0),
        rotate_before=each((2 * q - 1) * math.pi * c.rotate_max, c.rotate),
        stretch=each(2 ** (deviation * c.aniso_std), c.aniso, 1.0),
        rotate_after=each(0.0),
        fraction=pair(deviation * c.xfrac_std, c.xfrac),
        brightness=each(deviation * c.brightness_std, c.brightness),
        contrast=each(2 ** (deviation * c.contrast_std), c.contrast, 1.0),
        lumaflip=each(math.floor(2 * q), c.lumaflip),
        hue=each((2 * q - 1) * math.pi * c.hue_max, c.hue),
        saturation=each(2 ** (deviation * c.saturation_std), c.saturation, 1.0),
        noise=each(0.0),
        cutout=pair(q),
        cut=each(1.0, c.cutout),
    )


def run_augment(case: Case, network: None) -> dict[str, Tensor]:
    """Every pipe at every quantile, the gradient of the first, and the wavelet."""
    own = {"easy_without_noise": replace(PIPES["easy"], noise=0.0)}
    x = tensor(case, "x")  # (B, 3 F, H, W)
    clips = x.unflatten(1, (-1, 3)).requires_grad_()  # (B, F, 3, H, W)
    figures = {"filter": normalised_taps(SYM6)}
    for name in case.get("config", "pipes"):
        config = own.get(name) or PIPES[name]
        # Of a transform that does not happen the strength is of no matter.
        size = {} if config.cutout else {"cutout_size": AugmentConfig().cutout_size}
        if AugmentConfig(**case.get("config", "settings", name)) != replace(config, **size):
            raise CaseError(f"{case.path}: config.settings.{name} is not the pipe of that name here")
        for q in case.get("config", "quantiles"):
            y = augment(clips, config, transforms_at(q, config, len(x)))
            if len(figures) == 1:
                (gradient,) = torch.autograd.grad(y.square().mean(), clips, retain_graph=True)
                figures["gradient of mean square, first pipe and quantile, for x"] = gradient.flatten(1, 2)
            figures[f"{name} q={q}"] = y.flatten(1, 2)
    return figures


SYSTEMS = {
    "styleganv_generator": Adapter(build_generator, run_generator),
    "mostgan_generator": Adapter(build_generator, run_generator),
    "styleganv_discriminator": Adapter(build_discriminator, run_discriminator),
    "mostgan_discriminator": Adapter(build_discriminator, run_discriminator),
    "styleganv_augment": Adapter(no_network, run_augment),
}
