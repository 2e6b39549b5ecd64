"""Cases of the Frechet and kernel distances between two sets of features."""

from __future__ import annotations

import numpy as np

from lavita.parity.case import Case
from lavita.score.distance import frechet_distance, kernel_distance

GENERATED = r"y = ([\d.]+) \* Z \+ ([\d.]+) in float64, then every third column \(0, 3, 6, \.\.\.\) of y halved"


def build(case: Case) -> None:
    """No network: a function of features."""
    return None


def run(case: Case, network: None) -> dict[str, float]:
    """Both distances of the case's two sets, float64 (n, d) and (m, d)."""
    real = case.expression("real", "Z in float64")[0].astype(np.float64)
    values, match = case.expression("gen", GENERATED)
    generated = float(match[1]) * values.astype(np.float64) + float(match[2])
    generated[:, ::3] /= 2
    return {
        "frechet_ddof0": frechet_distance(real, generated, ddof=0),
        "frechet_ddof1": frechet_distance(real, generated, ddof=1),
        "kernel_poly3_unbiased_mmd": kernel_distance(real, generated),
    }
