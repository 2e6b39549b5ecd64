"""Cases of Long Video GAN: four networks, two kinds of augmentations, two steps of training."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from scipy.special import erfinv
from torch import Tensor, nn

from lavita.methods.adversarial import Adam, discriminator_loss, generator_loss, make_finite, r1_penalty
from lavita.methods.lazy_updates import move_average
from lavita.nn.augmentation import BGC, SYM6, AugmentConfig, Transforms, augment
from lavita.nn.resampling import normalised_taps
from lavita.parity.cases import Z_CALL, Adapter, Case, CaseError, no_network, strip_groups, z

from .augmentation import INPUT, STRENGTH, Changes, at_speed, coloured, cut_out, shifted
from .averaging import average_decay
from .losses import DISCRIMINATOR_ADAM, GENERATOR_ADAM, MAGNITUDE_STAYS, windows
from .low_resolution import TIME_SCALE, GeneratorConfig, LowResolutionGenerator, TemporalNoise
from .low_resolution_discriminator import DiscriminatorConfig, LowResolutionDiscriminator
from .super_resolution import SuperResolutionGenerator, UpsamplerConfig, layer_samplings
from .super_resolution_discriminator import PairConfig, SuperResolutionDiscriminator

WEIGHTS = (
    "z = z(state-dict key, shape). Weights follow equalised learning rate, so they are drawn at unit scale and "
    "the gain is applied in the forward pass: parameters with 2 or more dimensions -> z, but those of a mapping "
    "network (key contains 'mapping.') -> 100 z (the layers multiply by 0.01). 1-d parameters: mapping biases -> "
    "10 z; affine biases (key contains 'affine') -> 1 + 0.1 z; every other -> 0.1 z. Drawn buffers: keys ending "
    "in 'magnitude_ema' (0-d) -> exp(0.5 z); 'w_avg' -> 0.1 z. Keys in fixed (filters) keep the value that the "
    "method defines."
)
CALL = f"(?:{strip_groups(Z_CALL.pattern)})"
CLIP = re.compile(rf"tanh\({CALL} \+ {CALL} \+ {CALL} \+ 0\.5 \* {CALL}\)")
DRAWN = ("magnitude_ema", "w_avg")  # buffers that are


def official_weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """The value that the cases give to a parameter, or to a buffer that is drawn."""
    values = torch.from_numpy(z(name, shape))
    if name.endswith("magnitude_ema"):
        return (0.5 * values).exp()
    if name.endswith("w_avg"):
        return 0.1 * values
    if len(shape) >= 2:
        return 100 * values if "mapping." in name else values
    if "mapping." in name:
        return 10 * values
    return 1 + 0.1 * values if "affine" in name else 0.1 * values


@torch.no_grad()
def fill(case: Case, network: nn.Module) -> nn.Module:
    """Give a network the case's weights. Raises CaseError where these follow another rule."""
    if case.get("weights") != WEIGHTS:
        raise CaseError(f"{case.path}: weights have an unknown form: {case.get('weights')[:80]!r}")
    drawn = {name: buffer for name, buffer in network.named_buffers() if name.endswith(DRAWN)}
    for name, value in [*network.named_parameters(), *drawn.items()]:
        value.copy_(official_weight(name, tuple(value.shape)))
    return network


def plain(case: Case, key: str) -> Tensor:
    """An input that is one z call."""
    return torch.from_numpy(case.array(key))


def clip(case: Case, key: str) -> Tensor:
    """An input that is a clip, written channels first, as (B, F, 3, H, W)."""
    text = str(case.get("inputs", key))
    if CLIP.fullmatch(text) is None:
        raise CaseError(f"{case.path}: input {key!r} has an unknown form: {text[:80]!r}")
    calls = [torch.from_numpy(z(name, tuple(map(int, size.split(","))))) for name, size in Z_CALL.findall(text)]
    return torch.tanh(calls[0] + calls[1] + calls[2] + 0.5 * calls[3]).transpose(1, 2)


def as_recorded(video: Tensor) -> Tensor:
    """Clips (B, F, 3, H, W) with channels first, as the cases have them."""
    return video.transpose(1, 2)


@contextmanager
def outputs_of(modules: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Inside, the dictionary takes what each module returns, under its name, the last call's."""
    found: dict[str, Tensor] = {}

    def keep(name: str):
        return lambda module, arguments, output: found.__setitem__(
            name, (output[0] if isinstance(output, tuple) else output).detach()
        )

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    yield found
    for handle in handles:
        handle.remove()


def scored(video: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of clips with channels first along a probe, and the generator's loss."""
    score = (video * probe).flatten(1).sum(1) / math.sqrt(video[0].numel())
    return score, generator_loss(score).mean()


def norms(loss: Tensor, network: nn.Module) -> dict[str, float]:
    """Norm of the gradient of a loss for each parameter, 0 where it does not reach one."""
    parameters = dict(network.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, retain_graph=True)
    return {
        name: 0.0 if one is None else float(one.double().norm())
        for name, one in zip(parameters, gradients, strict=True)
    }


def buffers(network: nn.Module, ending: str) -> dict[str, Tensor]:
    """Copies of the buffers whose names end so."""
    return {name: value.clone() for name, value in network.named_buffers() if name.endswith(ending)}


def generator_config(case: Case, height: int, width: int, config: dict[str, Any]) -> GeneratorConfig:
    """The low-resolution generator's sizes out of a case's."""
    bank = config["embedding_kwargs"]
    wanted = {"cutoff": 2.0, "width": 12.0, "sampling_rate_base": 2.0, "normalize_per_filter": 1.0}
    if {key: bank[key] for key in wanted} != wanted:
        raise CaseError(f"{case.path}: config.embedding_kwargs is {bank}, covered are {wanted}")
    return GeneratorConfig(
        height=height,
        width=width,
        embedding_dim=config["temporal_emb_dim"],
        latent_dim=config["latent_w_dim"],
        filters=bank["blur_widths"],
        min_rate=bank["min_sampling_rate"],
        max_rate=bank["max_sampling_rate"],
        padding=config["temporal_padding"],
        channel_divisor=config["channel_divisor"],
    )


def build_generator(case: Case) -> LowResolutionGenerator:
    c = case.get("config")
    return LowResolutionGenerator(generator_config(case, c["out_height"], c["out_width"], c))


def run_generator(case: Case, network: LowResolutionGenerator) -> dict[str, Any]:
    """Every part of one pass, the loss, and a pass in which the magnitudes move."""
    fill(case, network)
    noise, probe, length = plain(case, "noise"), plain(case, "probe"), case.get("inputs", "seq_length")
    layers = {f"{kind}.{k}": layer for kind in ("temporal_layers", "spatial_layers")
              for k, layer in enumerate(getattr(network, kind))}  # fmt: skip
    early = {"temporal_emb": network.temporal_emb, "latent_w": network.latent_mapping,
             "temporal_input": network.w_to_temp_input}  # fmt: skip
    with outputs_of(layers | early) as figures:
        video = as_recorded(network(noise, length))
    for name in ("latent_w", "temporal_input"):
        figures[name] = figures[name].transpose(1, 2)
    score, loss = scored(video, probe)
    gradients = norms(loss, network)
    with torch.no_grad():
        updating = as_recorded(network(noise, length, case.get("inputs", "magnitude_ema_beta")))
    bank = TemporalNoise(128, 250.0, 10000.0)
    return {
        **figures,
        "video": video,
        "score": score,
        "loss": loss,
        "video_while_updating": updating,
        "magnitude_ema_after": buffers(network, "magnitude_ema"),
        "official_bank.blur_filters": bank.blur_filters,
        "official_bank.output_scale": bank.output_scale,
        "temporal_downsample_latent.filter": network.temporal_downsample_latent.filter,
        "grad_norms_of_loss": gradients,
    }


def discriminator_config(side: int, frames: int, c: dict[str, Any]) -> DiscriminatorConfig:
    """The low-resolution discriminator's sizes out of a case's."""
    return DiscriminatorConfig(frames, side, c["epilogue_kwargs"]["channels"], c["channel_divisor"], c["conv_clamp"])


def build_discriminator(case: Case) -> LowResolutionDiscriminator:
    c = case.get("config")
    return LowResolutionDiscriminator(discriminator_config(c["max_edge"], c["seq_length"], c))


def run_discriminator(case: Case, network: LowResolutionDiscriminator) -> dict[str, Any]:
    """Every part of the pass of real clips, all losses, R1."""
    fill(case, network)
    fake, real = (clip(case, key).requires_grad_() for key in ("fake", "real"))
    layers = {f"real/blocks.{k}": block for k, block in enumerate(network.blocks)}
    layers |= {f"real/epilogue.{name}": layer for name, layer in network.epilogue.named_children()}
    with outputs_of(layers) as figures:
        real_logits = network(real)
    return dict(figures) | losses(case, network, network(fake), real_logits, fake, real)


def losses(
    case: Case, network: nn.Module, fake_logits: Tensor, real_logits: Tensor, fake: Tensor, real: Tensor
) -> dict[str, Any]:
    """All losses of a discriminator and their gradients. fake and real: the clips that the gradients are of."""
    d_loss, g_loss = discriminator_loss(real_logits, fake_logits).mean(), generator_loss(fake_logits).mean()
    penalty = r1_penalty(real_logits, real)
    r1 = penalty.mean() * case.get("config", "r1_gamma") / 2
    return {
        "fake_logits": fake_logits,
        "real_logits": real_logits,
        "d_loss": d_loss,
        "g_loss": g_loss,
        "grad_of_g_loss_wrt_fake": as_recorded(torch.autograd.grad(g_loss, fake, retain_graph=True)[0]),
        "r1_penalty": penalty,
        "r1_loss": r1,
        "grad_norms_of_d_loss": norms(d_loss, network),
        "grad_norms_of_r1_loss": norms(r1, network),
    }


def build_upsampler(case: Case) -> SuperResolutionGenerator:
    c = case.get("config")
    if c["fourfeats"]:
        raise CaseError(f"{case.path}: config.fourfeats is true, covered is false")
    return SuperResolutionGenerator(UpsamplerConfig(
        height=c["hr_height"], width=c["hr_width"], low_height=c["lr_height"], low_width=c["lr_width"],
        context=c["temporal_context"], z_dim=c["latent_z_dim"], w_dim=c["latent_w_dim"],
        channel_base=c["channel_base"], channel_max=c["channel_max"], margin=c["margin_size"],
    ))  # fmt: skip


def run_upsampler(case: Case, network: SuperResolutionGenerator) -> dict[str, Any]:
    """Conditions, latent, every layer, the loss, and a pass that moves the running statistics."""
    fill(case, network)
    latent, probe, low = plain(case, "latent_z"), plain(case, "probe"), clip(case, "lr_video")
    stylegan = network.SG3
    layers = dict(zip(stylegan.synthesis.names, stylegan.synthesis.layers(), strict=True))
    check_layers(case, network)
    filters = {name: value for name, value in network.named_buffers() if name.endswith("filter")}
    with outputs_of(layers | {"w": stylegan.mapping}) as figures:
        video = as_recorded(network(low, latent))
    conditions = {f"cond.{k}": value for k, value in enumerate(stylegan.conditions(low))}
    score, loss = scored(video, probe)
    gradients = norms(loss, network)
    with torch.no_grad():
        updating = as_recorded(network(low, latent, True))
    return {
        **figures,
        **conditions,
        "ws_first_layer": figures["w"].repeat_interleave(video.shape[2], dim=0),
        "video": video,
        "score": score,
        "loss": loss,
        "video_while_updating": updating,
        "magnitude_ema_after": buffers(network, "magnitude_ema"),
        "w_avg_after": stylegan.mapping.w_avg,
        "fixed_values": filters,
        "grad_norms_of_loss": gradients,
    }


def check_layers(case: Case, network: SuperResolutionGenerator) -> None:
    """Raise ValueError unless every layer lies on the grids that the case lists, with its padding."""
    plan = layer_samplings(network.config)
    for number, (layer, after) in enumerate(zip(network.SG3.synthesis.layers(), plan, strict=True)):
        before, recorded = plan[max(number - 1, 0)], case.get("layers", network.SG3.synthesis.names[number])
        ours = {
            "in_size": list(before.size), "out_size": list(after.size), "in_sampling_rate": before.rate,
            "out_sampling_rate": after.rate, "in_cutoff": before.cutoff, "out_cutoff": after.cutoff,
            "in_half_width": before.half_width, "out_half_width": after.half_width,
            "in_channels": layer.weight.shape[1], "out_channels": layer.weight.shape[0], "up_factor": layer.up,
            "down_factor": layer.down, "padding": [*layer.pads[0], *layer.pads[1]],
        }  # fmt: skip
        for key, value in ours.items():
            close = math.isclose(value, recorded[key]) if isinstance(value, float) else value == recorded[key]
            if not close:
                raise ValueError(f"layer {number}: {key} is {value}, recorded {recorded[key]}")


def build_pair_discriminator(case: Case) -> SuperResolutionDiscriminator:
    c = case.get("config")
    sides = [max(c[f"{kind}_height"], c[f"{kind}_width"]) for kind in ("hr", "lr")]
    return SuperResolutionDiscriminator(
        PairConfig(c["seq_length"], *sides, c["channels_base"], c["channels_max"], c["conv_clamp"])
    )


def run_pair_discriminator(case: Case, network: SuperResolutionDiscriminator) -> dict[str, Any]:
    """Every block for the masked real pair, logits with and without the mask, all losses, R1."""
    fill(case, network)
    fake, real = (clip(case, key).requires_grad_() for key in ("fake_hr", "real_hr"))
    mask = torch.tensor(case.get("inputs", "mask")).view(-1, 1, 1, 1, 1)
    low = {key: network.enlarged(clip(case, f"{key}_lr")) for key in ("fake", "real")}
    with outputs_of({f"real/b{side}": getattr(network, f"b{side}") for side in (*network.sides, 4)}) as figures:
        real_logits = network(low["real"] * mask, real)
    with torch.no_grad():
        seen = network(clip(case, "real_lr"), real)
    return {
        **figures,
        "real/upsample": as_recorded(low["real"]),
        "real_logits_with_low_resolution_seen": seen,
        **losses(case, network, network(low["fake"] * mask, fake), real_logits, fake, real),
    }


def run_augment(case: Case, network: None) -> dict[str, Tensor]:
    """Each group of changes alone, the first three in turn, another speed."""
    video, inputs = clip(case, "video"), case.get("inputs")
    first = torch.tensor(inputs["crop_start"]) - torch.tensor(inputs["pad_start"])
    names = ("brightness_u", "saturation_u", "contrast_u", "shift_rows", "shift_columns", "cut_rows", "cut_columns",
             "log2_scale")  # fmt: skip
    changes = Changes(*(torch.tensor(inputs[name]) for name in names), first.float())
    alone = {
        "diffaug_color": coloured, "diffaug_translation": shifted, "diffaug_cutout": cut_out,
        "temporal_scale": at_speed,
    }  # fmt: skip
    figures = {name: function(video, changes) for name, function in alone.items()}
    figures["diffaug_all"] = cut_out(shifted(coloured(video, changes), changes), changes)
    return {name: as_recorded(value) for name, value in figures.items()}


GEOMETRY = AugmentConfig(
    **{key: getattr(BGC, key) for key in ("xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac")}
)
COLOUR = AugmentConfig(
    **{key: getattr(BGC, key) for key in ("brightness", "contrast", "lumaflip", "hue", "saturation")}
)


def at_percentile(config: AugmentConfig, q: float, clips: int) -> Transforms:
    """Transforms in which every draw is its q-th part, as the cases have them: all that the configuration has happen, a
    normal draw is erfinv(2 q - 1), its absolute value erfinv(q), and nothing is turned after the stretch.
    """
    c, n, u = config, float(erfinv(2 * q - 1)), 2 * q - 1

    def number(happens: float, value: float) -> Tensor:
        return torch.full((clips,), value if happens else 0.0)

    def pair(happens: float, value: float) -> Tensor:
        return number(happens, value)[:, None].expand(-1, 2)

    return Transforms(
        flip=number(c.xflip, math.floor(2 * q)),
        turns=number(c.rotate90, math.floor(4 * q)),
        shift=pair(c.xint, u * c.xint_max),
        scale=torch.exp2(number(c.scale, n * c.scale_std)),
        rotate_before=number(c.rotate, u * math.pi * c.rotate_max),
        stretch=torch.exp2(number(c.aniso, n * c.aniso_std)),
        rotate_after=number(0.0, 0.0),
        fraction=pair(c.xfrac, n * c.xfrac_std),
        brightness=number(c.brightness, n * c.brightness_std),
        contrast=torch.exp2(number(c.contrast, n * c.contrast_std)),
        lumaflip=number(c.lumaflip, math.floor(2 * q)),
        hue=number(c.hue, u * math.pi * c.hue_max),
        saturation=torch.exp2(number(c.saturation, n * c.saturation_std)),
        noise=number(c.noise, float(erfinv(q)) * c.noise_std),
        cutout=pair(1.0, 0.5),
        cut=number(0.0, 0.0),
    )


def run_pipe(case: Case, network: None) -> dict[str, Tensor]:
    """Geometry, colour, both, and what is done to generators' inputs, at every percentile."""
    video, noise = clip(case, "video"), plain(case, "noise").unflatten(1, (3, -1)).transpose(1, 2)  # (B, F, 3, H, W)
    if case.get("config", "in_augment_strength") != STRENGTH:
        raise CaseError(f"{case.path}: config.in_augment_strength is not {STRENGTH}")
    kinds = {"geometry": GEOMETRY, "colour": COLOUR, "all": BGC, "input_augment": INPUT}
    figures = {"Hz_geom": normalised_taps(SYM6)}
    for q in case.get("config", "percentiles"):
        for kind, config in kinds.items():
            changed = augment(video, config, at_percentile(config, q, len(video)), noise)
            figures[f"{kind}@{q}"] = as_recorded(changed)
    return figures


@dataclass(frozen=True)
class Player:
    """A network, its names in the order that changes are compared in, and its optimiser."""

    network: nn.Module
    order: list[str]
    optimiser: torch.optim.Optimizer

    def flat(self) -> Tensor:
        """All parameters behind each other, float64."""
        return flat(self.network, self.order)

    def update(self, interval: float = 1.0) -> None:
        """One step of the optimiser with its gradients times the interval, which are then forgotten."""
        for value in self.network.parameters():
            if value.grad is not None:
                value.grad *= interval
        make_finite(self.network.parameters())
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)


def flat(network: nn.Module, order: list[str]) -> Tensor:
    """Parameters in an order behind each other, float64."""
    parameters = dict(network.named_parameters())
    return torch.cat([parameters[name].detach().double().flatten() for name in order])


def player(case: Case, key: str, network: nn.Module, adam: Adam) -> Player:
    """A network of a training case with the case's weights and an Adam. Raises ValueError where shapes differ."""
    recorded = case.get("networks", key)
    ours = {name: list(value.shape) for name, value in network.state_dict().items()}
    if ours != recorded["state_dict"]:
        raise ValueError(f"{key}: state dict differs from the recorded one")
    fill(case, network)
    optimiser = torch.optim.Adam(network.parameters(), adam.learning_rate, (adam.beta1, adam.beta2))
    return Player(network, recorded["parameter_order"], optimiser)


def run_training(case: Case, network: None) -> dict[str, Any]:
    """Steps of the low-resolution stage without augmentations: generator, discriminator, R1, average."""
    c, inputs = case.get("config"), case.get("inputs")
    frames, chunks = c["seq_length"], c["grad_accum"]
    generator = LowResolutionGenerator(generator_config(case, c["height"], c["width"], c["G"]))
    side = 2 ** math.ceil(math.log2(max(c["height"], c["width"])))
    g = player(case, "G", generator, GENERATOR_ADAM)
    d = player(
        case, "D", LowResolutionDiscriminator(discriminator_config(side, frames, c["D"])),
        DISCRIMINATOR_ADAM.lazy(c["r1_interval"]),
    )  # fmt: skip
    average = copy.deepcopy(generator)
    begin = g.flat(), d.flat()
    figures: dict[str, list[Tensor]] = {
        "generator_logits": [], "fake_logits": [], "real_logits": [], "r1_penalty": []
    }  # fmt: skip
    for step in range(c["steps"]):
        noise, starts = plain(case, f"noise_g_{step}"), torch.tensor(inputs[f"t0_g_{step}"])
        for part, start in zip(noise.chunk(chunks), starts.chunk(chunks), strict=True):
            logits = d.network(windows(generator(part, frames + TIME_SCALE), start, frames))
            (generator_loss(logits).mean() / chunks).backward()
            figures["generator_logits"].append(logits)
        d.optimiser.zero_grad(set_to_none=True)
        g.update()

        starts, real = torch.tensor(inputs[f"t0_d_{step}"]), clip(case, f"real_{step}")
        with torch.no_grad():
            made = generator(plain(case, f"noise_d_{step}"), frames + TIME_SCALE, MAGNITUDE_STAYS)
        made = windows(made, starts, frames)
        for fake_part, real_part in zip(made.chunk(chunks), real.chunk(chunks), strict=True):
            fake_logits, real_logits = d.network(fake_part), d.network(real_part)
            (discriminator_loss(real_logits, fake_logits).mean() / chunks).backward()
            figures["fake_logits"].append(fake_logits)
            figures["real_logits"].append(real_logits)
        d.update()

        if step % c["r1_interval"] == 0:
            for part in clip(case, f"real_r1_{step}").chunk(chunks):
                part.requires_grad_()
                penalty = r1_penalty(d.network(part), part)
                (penalty.mean() * c["r1_gamma"] / 2 / chunks).backward()
                figures["r1_penalty"].append(penalty)
            d.update(c["r1_interval"])
        move_average(average, generator, average_decay(step))
    return {
        **{name: torch.cat(values) for name, values in figures.items()},
        "G_change": g.flat() - begin[0],
        "D_change": d.flat() - begin[1],
        "G_ema_change": flat(average, g.order) - begin[0],
        "G_magnitude_ema": buffers(generator, "magnitude_ema"),
        "G_ema_magnitude_ema": buffers(average, "magnitude_ema"),
    }


SYSTEMS = {
    "lvg_lowres_generator": Adapter(build_generator, run_generator),
    "lvg_lowres_discriminator": Adapter(build_discriminator, run_discriminator),
    "lvg_sres_generator": Adapter(build_upsampler, run_upsampler),
    "lvg_sres_discriminator": Adapter(build_pair_discriminator, run_pair_discriminator),
    "lvg_lowres_augment": Adapter(no_network, run_augment),
    "lvg_sres_augment": Adapter(no_network, run_pipe),
    "lvg_lowres_train": Adapter(no_network, run_training),
}
