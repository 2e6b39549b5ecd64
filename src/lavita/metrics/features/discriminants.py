"""Linear maps after which a Frechet distance counts most where real clips agree and altered ones do not."""

from __future__ import annotations

import torch
from torch import Tensor


def whitening(real: Tensor, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Return the mean (D,) and the map (D, D) after which real (n, D), float64, has covariance I.

    shrinkage: the multiple of the mean variance that is added to every variance first, after which it is below I. Then
    directions in which the few real clips vary least do not count without bound. Source: Ledoit & Wolf 2004.
    """
    covariance = torch.cov(real.T)
    width = len(covariance)
    covariance += shrinkage * covariance.trace() / width * torch.eye(width, dtype=real.dtype, device=real.device)
    return real.mean(dim=0), torch.linalg.inv(torch.linalg.cholesky(covariance)).T


def weighted_axes(between: Tensor, power: float) -> Tensor:
    """Return (D, D): eigenvectors of between (D, D), the largest last, times (eigenvalue / largest) ** power.

    between: second moments of altered clips in coordinates in which real ones are white. The distance of two real
    halves grows with every direction that is kept, so those that separate little weigh little. Source: Fisher 1936.
    """
    sizes, axes = torch.linalg.eigh(between)
    sizes = sizes.clamp(min=0)
    return axes * (sizes / sizes[-1].clamp(min=torch.finfo(sizes.dtype).tiny)) ** power
