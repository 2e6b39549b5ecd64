"""Losses of the autoencoder: pixels and perception, and two discriminators in the adversarial phase."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavita.diffusion.loss import mean_of_clip
from lavita.methods.checkpoints import read_tensors
from lavita.nn.precision import in_float32
from lavita.training import distributed


class SharedStatistics:
    """Mixed into a batch norm: while `shared` is set, training takes mean and variance over all processes.

    Plain batch norm otherwise, with its state-dict keys; torch's own SyncBatchNorm runs on GPUs only. Mean first, then
    deviations from it: two sums, neither of which loses digits as a difference of squares does.
    Source: Ioffe & Szegedy 2015, algorithm 1.
    """

    shared = False

    @in_float32
    def forward(self, x: Tensor) -> Tensor:
        if not (self.shared and self.training and distributed.world() > 1):
            return super().forward(x)
        axes = [0, *range(2, x.ndim)]  # x (B, C, ...)
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        count = x.numel() // x.shape[1] * distributed.world()
        mean = distributed.total(values.mean(axes, keepdim=True)) / distributed.world()  # (1, C, 1, ...)
        centred = values - mean  # (B, C, ...)
        variance = distributed.total(centred.square().mean(axes, keepdim=True)) / distributed.world()  # (1, C, 1, ...)
        self.remember(mean.flatten(), variance.flatten() * count / max(count - 1, 1))
        scale = (self.weight.view_as(mean) * (variance + self.eps).rsqrt()).to(x.dtype)
        return centred.to(x.dtype) * scale + self.bias.view_as(mean).to(x.dtype)  # (B, C, ...)

    @torch.no_grad()
    def remember(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, (C,) each, as torch does."""
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


class BatchNorm2d(SharedStatistics, nn.BatchNorm2d):
    """Of frames (B, C, H, W)."""


class BatchNorm3d(SharedStatistics, nn.BatchNorm3d):
    """Of clips (B, C, F, H, W)."""


def share_statistics(module: nn.Module, shared: bool) -> None:
    """Set whether the batch norms of a network are over all processes: only while all of them train it together."""
    for layer in module.modules():
        if isinstance(layer, SharedStatistics):
            layer.shared = shared


LAYERS = {2: (nn.Conv2d, BatchNorm2d), 3: (nn.Conv3d, BatchNorm3d)}


class PatchDiscriminator(nn.Module):
    """Logits of overlapping patches and every intermediate feature, with the official state-dict keys.

    dims 2 reads frames (B, 3, H, W), dims 3 clips (B, 3, F, H, W); both in [-1, 1]. forward returns
    (logits (B, 1, ...), features: list of the layers' outputs without the logits).
    Source: Isola et al. 2017, section 3.2.2; github.com/sihyun-yu/PVDM at 793172f, losses/perceptual.py.
    """

    def __init__(self, dims: int, width: int = 64, depth: int = 3, channels: int = 3) -> None:
        super().__init__()
        convolution, norm = LAYERS[dims]
        widths = [min(width * 2**i, 512) for i in range(depth + 1)]
        stages = [nn.Sequential(convolution(channels, width, 4, stride=2, padding=2), nn.LeakyReLU(0.2))]
        for i in range(1, depth + 1):
            stride = 2 if i < depth else 1
            layer = convolution(widths[i - 1], widths[i], 4, stride=stride, padding=2)
            stages.append(nn.Sequential(layer, norm(widths[i]), nn.LeakyReLU(0.2)))
        stages.append(nn.Sequential(convolution(widths[-1], 1, 4, stride=1, padding=2)))
        self.num_stages = len(stages)
        for i, stage in enumerate(stages):
            self.add_module(f"model{i}", stage)
        self.apply(start_small)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = []
        for i in range(self.num_stages):
            x = self.get_submodule(f"model{i}")(x)  # (B, D_i, ...)
            features.append(x)
        return features[-1], features[:-1]


def start_small(layer: nn.Module) -> None:
    """Convolution weights from N(0, 0.02), norm scales from N(1, 0.02), norm shifts zero."""
    if isinstance(layer, nn.Conv2d | nn.Conv3d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
        nn.init.zeros_(layer.bias)


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of a discriminator's patch logits (B, 1, ...), mean over each clip's patches, (B,).

    Source: Lim & Ye 2017; Miyato et al. 2018, equation 17.
    """
    return 0.5 * (mean_of_clip(functional.relu(1 - real)) + mean_of_clip(functional.relu(1 + fake)))


def feature_distance(fake: list[Tensor], real: list[Tensor]) -> Tensor:
    """Sum over layers of the mean absolute difference of each clip, (B,); the real side carries no gradient.

    Source: Wang et al. 2018 (pix2pixHD), equation 4.
    """
    parts = [mean_of_clip((f - r.detach()).abs()) for f, r in zip(fake, real, strict=True)]
    return torch.stack(parts).sum(dim=0)


# VGG16's convolutions up to relu5_3, by their index in torchvision's `features`; the five stages of LPIPS.
STAGES = (
    ((0, 3, 64), (2, 64, 64)),
    ((5, 64, 128), (7, 128, 128)),
    ((10, 128, 256), (12, 256, 256), (14, 256, 256)),
    ((17, 256, 512), (19, 512, 512), (21, 512, 512)),
    ((24, 512, 512), (26, 512, 512), (28, 512, 512)),
)


class LPIPS(nn.Module):
    """Learned perceptual distance of frames (B, 3, H, W) in [-1, 1] -> (B,), 0 for equal frames; frozen.

    Keys are those of the released loss: net.slice<k>.<index>, lin<k>.model.1.weight.
    Source: Zhang et al. 2018, equation 1; github.com/sihyun-yu/PVDM at 793172f, losses/lpips.py.
    """

    name = "lpips-vgg16"

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None], persistent=False)
        self.net = nn.ModuleDict()
        for k, stage in enumerate(STAGES):
            layers = {str(index): nn.Conv2d(inputs, width, 3, padding=1) for index, inputs, width in stage}
            self.net[f"slice{k + 1}"] = nn.ModuleDict(layers)
            weighting = nn.Conv2d(stage[-1][2], 1, 1, bias=False)
            self.add_module(f"lin{k}", nn.ModuleDict({"model": nn.Sequential(nn.Identity(), weighting)}))
        self.requires_grad_(False)

    @classmethod
    def from_files(cls, vgg: str | Path, linear: str | Path) -> LPIPS:
        """Load VGG16 as torchvision saves it (features.<index>), LPIPS's weightings as lin<k>.model.1.weight.

        One file that holds everything may be given twice. Raises ValueError naming the first missing key.
        """
        model = cls()
        given = {**read_tensors(Path(vgg)), **read_tensors(Path(linear))}
        slices = {str(index): k + 1 for k, stage in enumerate(STAGES) for index, _, _ in stage}
        renamed = {}
        for key, value in given.items():
            head, _, rest = key.partition(".")
            index = rest.partition(".")[0]
            of_vgg = head == "features" and index in slices
            renamed[f"net.slice{slices[index]}.{rest}" if of_vgg else key] = value
        wanted = model.state_dict()
        missing = [key for key in wanted if key not in renamed]
        if missing:
            raise ValueError(
                f"model.lpips_vgg, model.lpips_linear: {vgg} and {linear} hold no {missing[0]} "
                f"({len(missing)} of {len(wanted)} tensors missing); give torchvision's VGG16 and LPIPS's "
                "vgg.pth"
            )
        model.load_state_dict({key: renamed[key] for key in wanted})
        return model

    def features(self, x: Tensor) -> list[Tensor]:
        """The five stages' outputs, each normalised over its channels."""
        x, outputs = (x - self.shift) / self.scale, []
        for k, layers in enumerate(self.net.values()):
            x = functional.max_pool2d(x, 2) if k else x
            for layer in layers.values():
                x = functional.relu(layer(x))  # (B, D_k, H / 2^k, W / 2^k)
            # The tiny constant under the root changes no value and keeps dead features' gradient finite.
            length = (x.square().sum(dim=1, keepdim=True) + 1e-20).sqrt()
            outputs.append(x / (length + 1e-10))
        return outputs

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        total = x.new_zeros(len(x))
        for k, (a, b) in enumerate(zip(self.features(x), self.features(y), strict=True)):
            weighting = self.get_submodule(f"lin{k}")["model"]
            total = total + weighting((a - b) ** 2).mean(dim=(1, 2, 3))  # (B,)
        return total


class GradientPyramid(nn.Module):
    """Stand-in for LPIPS without weights: differences of image gradients, (B, 3, H, W) -> (B,).

    At each of up to four scales (full size, then halved by averaging) the mean absolute difference of
    horizontal and vertical gradients, so that a blurred edge costs more than under the pixel loss alone. It
    has seen no data, so it counts as no external weights; it does not replace LPIPS's judgement of texture.
    Source: ours, after the gradient difference loss of Mathieu et al. 2016, equation 6.
    """

    name = "gradient-pyramid"

    def __init__(self, num_scales: int = 4) -> None:
        super().__init__()
        self.num_scales = num_scales

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        difference = x - y  # gradients and averages are linear, so the pyramid is built once
        total = x.new_zeros(len(x))
        for scale in range(self.num_scales):
            if scale:
                difference = functional.avg_pool2d(difference, 2)  # (B, 3, H / 2^scale, W / 2^scale)
            for axis in (-2, -1):
                total = total + difference.diff(dim=axis).abs().mean(dim=(1, 2, 3))  # (B,)
            if min(difference.shape[-2:]) < 4:
                break
        return total


def perceptual_distance(vgg: str | None, linear: str | None) -> LPIPS | GradientPyramid:
    """LPIPS where both files are given, the stand-in where neither is; its `name` stands with the row."""
    if bool(vgg) != bool(linear):
        raise ValueError(
            f"model.lpips_vgg, model.lpips_linear: got {vgg!r} and {linear!r}; give both files, or neither "
            f"for the stand-in {GradientPyramid.name}"
        )
    return LPIPS.from_files(vgg, linear) if vgg and linear else GradientPyramid()


PIXEL_WEIGHT = 4.0
PERCEPTUAL_WEIGHT = 4.0
ADVERSARIAL_WEIGHT = 1.0
FEATURE_WEIGHT = 4.0
ALTERNATING_UPDATES = 2  # autoencoder, discriminators


def pick_frames(video: Tensor, index: Tensor) -> Tensor:
    """Frame index[b] of each clip, (B, F, 3, H, W) -> (B, 3, H, W)."""
    return video[torch.arange(len(video), device=video.device), index.to(video.device)]


def reconstruction_loss(video: Tensor, rebuilt: Tensor, index: Tensor, perceptual: nn.Module) -> dict[str, Tensor]:
    """Weighted loss of each clip: {"loss", "pixel", "perceptual", "psnr"}, float32 (B,); loss = the next two.

    video, rebuilt (B, F, 3, H, W) in [-1, 1]; the perceptual term reads one frame per clip, index (B,).
    Source: PVDM, section 3.1; weights of github.com/sihyun-yu/PVDM at 793172f, losses/perceptual.py.
    """
    pixel = PIXEL_WEIGHT * mean_of_clip((video - rebuilt).abs())  # (B,)
    distance = perceptual(pick_frames(video, index), pick_frames(rebuilt, index))  # (B,)
    return {
        "loss": pixel + PERCEPTUAL_WEIGHT * distance,
        "pixel": pixel,
        "perceptual": PERCEPTUAL_WEIGHT * distance,
        "psnr": peak_signal_to_noise(video, rebuilt.detach()),
    }


class Adversary(nn.Module):
    """The two discriminators, of single frames and of whole clips, and both sides' losses.

    Source: PVDM, section 3.1; github.com/sihyun-yu/PVDM at 793172f, losses/perceptual.py.
    """

    def __init__(self, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        self.discriminator_2d = PatchDiscriminator(2, width, depth)
        self.discriminator_3d = PatchDiscriminator(3, width, depth)

    def judge(self, video: Tensor, index: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        """(logits, features) of one frame per clip and of the clip itself; video (B, F, 3, H, W)."""
        return [
            self.discriminator_2d(pick_frames(video, index)),
            self.discriminator_3d(video.transpose(1, 2).contiguous()),
        ]

    def autoencoder_loss(self, video: Tensor, rebuilt: Tensor, index: Tensor) -> dict[str, Tensor]:
        """What the autoencoder pays for each clip: {"adversarial", "features"}, float32 (B,), weighted.

        The discriminators' own parameters get no gradient here, so an optimiser leaves them as they are.
        """
        self.requires_grad_(False)
        with torch.no_grad():
            real = self.judge(video, index)
        fake = self.judge(rebuilt, index)
        self.requires_grad_(True)
        adversarial = -sum_over_judges([mean_of_clip(logits) for logits, _ in fake])
        features = sum_over_judges([feature_distance(f, r) for (_, f), (_, r) in zip(fake, real, strict=True)])
        return {"adversarial": ADVERSARIAL_WEIGHT * adversarial, "features": FEATURE_WEIGHT * features}

    def discriminator_loss(self, video: Tensor, rebuilt: Tensor, index: Tensor) -> Tensor:
        """What the discriminators pay for each clip, float32 (B,); rebuilt gets no gradient."""
        real, fake = self.judge(video, index), self.judge(rebuilt.detach(), index)
        parts = [hinge_loss(r, f) for (r, _), (f, _) in zip(real, fake, strict=True)]
        return ADVERSARIAL_WEIGHT * sum_over_judges(parts)

    def clip_gradients(self, max_norm: float = 1.0) -> None:
        """Clip each discriminator's gradient norm by itself, as the released recipe does."""
        for network in (self.discriminator_2d, self.discriminator_3d):
            nn.utils.clip_grad_norm_(network.parameters(), max_norm)


def sum_over_judges(parts: list[Tensor]) -> Tensor:
    """Sum of the two discriminators' terms, (B,)."""
    return torch.stack(parts).sum(dim=0)


def is_discriminator_update(num_updates: int) -> bool:
    """Whose update comes next in the adversarial phase: they alternate, the autoencoder first."""
    return num_updates % ALTERNATING_UPDATES == 1


def peak_signal_to_noise(video: Tensor, rebuilt: Tensor) -> Tensor:
    """PSNR of each clip in dB for values in [-1, 1] (peak to peak 2), (B, F, 3, H, W) -> (B,)."""
    return -10 * torch.log10(mean_of_clip((video - rebuilt) ** 2) / 4)
