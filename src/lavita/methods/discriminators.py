"""What patch discriminators of several methods share: their turn, batch norms over all processes, their losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavita.diffusion.loss import mean_of_clip
from lavita.nn.precision import in_float32
from lavita.training import distributed
from lavita.training.stage import TrainedStage

UPDATES = 2  # that alternate: the generator's (an autoencoder or a decoder), then the discriminator's
ADVERSARIAL_WEIGHT = 0.5  # of the adaptive weight, which is at most the other
MOST_ADAPTIVE_WEIGHT = 1e4


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


class AlternatingStage(TrainedStage):
    """Mixed into a stage that updates a generator and its discriminators in turn, batch by batch.

    A parameter that is not updated has no gradient, so the one AdamW skips it, moments and decay too.
    """

    alternating_updates = UPDATES
    batch_statistics = True  # the discriminators' batch norms, an adaptive weight
    together = False  # whether all processes train it at this moment

    def updates_discriminator(self, batch: dict[str, Tensor]) -> bool:
        """Whose turn a batch is. It follows from the clips' running number, so a resumed run makes the right update."""
        return is_discriminator_update(batch["clip_index"].tolist()[0] // self.train_config.batch_clips)

    def on_train_start(self) -> None:
        share_statistics(self, True)
        self.together = True

    def on_train_end(self) -> None:
        share_statistics(self, False)
        self.together = False


def is_discriminator_update(number: int) -> bool:
    """Whose an update is, counted over the run from 0: the generator's comes first."""
    return number % UPDATES == 1


def share_statistics(module: nn.Module, shared: bool) -> None:
    """Set whether the batch norms of a network are over all processes: only while all of them train it together."""
    for layer in module.modules():
        if isinstance(layer, SharedStatistics):
            layer.shared = shared


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


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last: nn.Parameter, shared: bool = False) -> Tensor:
    """The weight at which the adversarial term moves the last layer half as much as the reconstruction term does, ().

    Both are means over the batch, (). No gradient goes through the weight, which is 0 where no gradients are wanted.
    shared: all processes take part, and the gradients are those of all their clips.
    Source: Esser et al. 2021 (VQGAN), equation 7, with a factor 0.5.
    """
    if not torch.is_grad_enabled():
        return reconstruction.new_zeros(())
    gradients = [torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (reconstruction, adversarial)]
    norms = [(distributed.mean(one) if shared else one).norm() for one in gradients]
    return ADVERSARIAL_WEIGHT * (norms[0] / (norms[1] + 1e-4)).clamp(0, MOST_ADAPTIVE_WEIGHT).detach()
