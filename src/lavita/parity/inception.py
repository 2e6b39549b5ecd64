"""Cases of the inception score of class probabilities."""

from __future__ import annotations

import numpy as np

from lavita.parity.case import Case
from lavita.score.inception import inception_score


def build(case: Case) -> None:
    """No network: a function of probabilities."""
    return None


def run(case: Case, network: None) -> dict[str, float]:
    """Mean and standard deviation over the case's splits."""
    values, match = case.expression("probabilities", r"softmax\(([\d.]+) \* Z\) in float64")
    logits = float(match[1]) * values.astype(np.float64)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    mean, deviation = inception_score(weights / weights.sum(axis=1, keepdims=True), case.get("splits"), shuffle_seed=42)
    return {"mean": mean, "std": deviation}
