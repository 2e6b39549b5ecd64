"""What GANs of the StyleGAN2 family are trained with: losses, R1, adaptive augmentation, corrected optimisers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavita.training import distributed

LARGEST_GRADIENT = 1e5  # what infinite entries become


def generator_loss(fake: Tensor) -> Tensor:
    """Non-saturating logistic loss of the discriminator's logits of generated clips, (B,) -> (B,).

    Source: Goodfellow et al. 2014, section 3.
    """
    return functional.softplus(-fake)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Logistic loss of the logits of real and of generated clips, (B,) each -> (B,)."""
    return functional.softplus(-real) + functional.softplus(fake)


def r1_penalty(logits: Tensor, real: Tensor, kept_axes: int = 1) -> Tensor:
    """Squared norm of the gradient of real clips' logits (B,) by the clips, whose graph stays for a backward pass.

    The first kept_axes axes of `real` are kept, all others summed over: 1 gives one number a clip, 2 one a frame of
    (B, F, 3, H, W). The penalty in a loss is gamma / 2 times their mean.
    Source: Mescheder et al. 2018 (arXiv:1801.04406), equation 9.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    return gradient.square().sum(tuple(range(kept_axes, real.ndim)))


@dataclass(frozen=True)
class Adam:
    """Settings of an Adam optimiser: learning rate and the betas of its two moments."""

    learning_rate: float
    beta1: float
    beta2: float

    def lazy(self, interval: int) -> Adam:
        """The same over a run in which a regulariser gets an update of its own after every `interval` others.

        Source: StyleGAN2, appendix B, "Lazy regularization".
        """
        ratio = interval / (interval + 1)
        return Adam(self.learning_rate * ratio, self.beta1**ratio, self.beta2**ratio)


@torch.no_grad()
def make_finite(parameters: Iterable[nn.Parameter]) -> None:
    """Gradients in place: NaN becomes 0, infinities +-1e5, as StyleGAN2-ADA's loop does."""
    for parameter in parameters:
        if parameter.grad is not None:
            torch.nan_to_num(
                parameter.grad, nan=0.0, posinf=LARGEST_GRADIENT, neginf=-LARGEST_GRADIENT, out=parameter.grad
            )


class AdaptiveProbability(nn.Module):
    """The probability of augmentations, steered by how sure the discriminator is of training clips.

    Every `interval` updates of the discriminator p moves by `step`: up where the mean sign of the logits of real clips
    since the last move is above `target`, down where it is below; it stays in [0, most]. Its state is in buffers, so
    that a resumed run continues with them. step: for a move of 0 to 1 in n clips, batch * interval / n.
    Source: StyleGAN2-ADA, section 3 (equation 1, r_t).
    """

    def __init__(self, step: float, interval: int = 4, target: float = 0.6, most: float = float("inf")) -> None:
        super().__init__()
        self.step, self.interval, self.target, self.most = step, interval, target, most
        self.register_buffer("p", torch.zeros(()))
        self.register_buffer("signs", torch.zeros(2))  # since the last move: their sum, and their number
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def observe(self, real_logits: Tensor) -> None:
        """Count the signs of logits of real clips, (B,), as seen in a pass of training; each process has its own."""
        signs = real_logits.detach().float().sign()
        self.signs += distributed.mean(torch.stack([signs.sum(), torch.ones_like(signs).sum()]))

    @torch.no_grad()
    def end_update(self) -> None:
        """Count an update of the discriminator, after which p may move."""
        self.updates += 1
        if int(self.updates) % self.interval:
            return
        total, count = self.signs  # means over the processes, whose ratio is that of the sums
        if float(count):
            self.p += self.step * (total / count - self.target).sign()
            self.p.clamp_(0, self.most)
        self.signs.zero_()
