"""Comparisons of our figures with recorded ones; every comparison is one `Check`. NaN never passes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from lavita.parity.case import Case, CaseError

# Relative, in float32. The deep systems get ten times as much: their own code moves more with threads. Scores are
# recorded and computed in float64.
TOLERANCE = 1e-5
TOLERANCES = {"i3d": 1e-4, "pvdm_autoencoder": 1e-4, "frechet": 1e-9, "inception_score": 1e-9}


@dataclass(frozen=True)
class Check:
    """One compared figure: what, whether it passed, and the numbers (or the difference) in words."""

    what: str
    passed: bool
    detail: str


def limited(what: str, error: float, limit: float) -> Check:
    """A check that an error is at most its limit; false for NaN."""
    return Check(what, bool(error <= limit), f"relative error {error:.2e}, limit {limit:.0e}")


def relative_error(ours: Any, recorded: Any) -> float:
    """||ours - recorded|| / ||recorded|| in float64; the plain difference where all that is recorded is 0."""
    a, b = np.asarray(ours, dtype=np.float64).ravel(), np.asarray(recorded, dtype=np.float64).ravel()
    if not b.size or a.shape != b.shape:
        return float("nan")
    scale = np.linalg.norm(b)
    return float(np.linalg.norm(a - b) / (scale if scale > 0 else 1.0))


def picked(case: Case, name: str, recorded: dict[str, Any], size: int) -> np.ndarray:
    """Flat indices of the recorded values of an output with `size` entries, from the text of its `index`."""
    match = re.fullmatch(r"unique\(round\(linspace\(0, (\d+), (\d+)\)\)\)", str(recorded.get("index")))
    if match is None or not isinstance(recorded.get("values"), list):
        raise CaseError(f"{case.path}: output {name!r} has no index of the known form, or no values")
    return np.unique(np.round(np.linspace(0, size - 1, int(match[2])))).astype(np.int64)


def output_checks(case: Case, name: str, recorded: Any, ours: np.ndarray | None) -> list[Check]:
    """Checks of one recorded output: a plain number, or shape, norm and picked values of an array."""
    limit = TOLERANCES.get(case.system, TOLERANCE)
    if ours is None:
        return [Check(name, False, "recorded, but this project computes no such output of this system")]
    if not isinstance(recorded, dict):
        return [limited(name, relative_error(ours, recorded), limit)]
    if list(ours.shape) != recorded.get("shape"):
        return [Check(f"{name} shape", False, f"got {list(ours.shape)}, recorded {recorded.get('shape')}")]
    values = ours.astype(np.float64).ravel()[picked(case, name, recorded, ours.size)]
    norm = np.linalg.norm(ours.astype(np.float64))
    return [
        limited(f"{name} values", relative_error(values, recorded["values"]), limit),
        limited(f"{name} norm", relative_error(norm, recorded.get("norm", np.nan)), limit),
    ]


def structure_checks(case: Case, network: nn.Module) -> list[Check]:
    """Checks of state dict, names of trained parameters and their count, all of which must be equal."""
    ours = {name: list(value.shape) for name, value in network.state_dict().items()}
    recorded = case.get("state_dict")
    differing = [name for name in sorted({*ours, *recorded}) if ours.get(name) != recorded.get(name)]
    wrong = [f"{name}: got {ours.get(name)}, recorded {recorded.get(name)}" for name in differing]
    trained = {name: value for name, value in network.named_parameters() if value.requires_grad}
    untrained = set(case.get("fixed")) | set(case.data.get("tied", {}))
    names = {name for name in recorded if name not in untrained and "running_" not in name}
    odd = sorted(names ^ set(trained))
    count, wanted = sum(value.numel() for value in trained.values()), case.get("trainable_parameters")
    return [
        Check("state dict", not wrong, "; ".join(wrong[:3]) or f"{len(ours)} names and shapes equal"),
        Check("parameter names", not odd, f"differ: {', '.join(odd[:3])}" if odd else f"{len(trained)} equal"),
        Check("trainable parameters", count == wanted, f"got {count}, recorded {wanted}"),
    ]


def gradient_checks(case: Case, network: nn.Module) -> list[Check]:
    """A check for each recorded gradient norm g: |ours - g| <= 1e-4 g + 1e-6 G, G the largest of the case."""
    records = [value for key, value in case.data.items() if key.startswith("grad_norms_of_")]
    checks = []
    parameters = dict(network.named_parameters())
    for recorded in records:
        largest = max(recorded.values())
        for name, norm in recorded.items():
            gradient = parameters[name].grad if name in parameters else None
            # A parameter that the loss does not reach has no gradient; recorded as zero.
            ours = 0.0 if gradient is None else float(gradient.double().norm())
            error, limit = abs(ours - norm), 1e-4 * norm + 1e-6 * largest
            detail = f"got {ours:.6g}, recorded {norm:.6g}, difference {error:.1e}, limit {limit:.1e}"
            checks.append(Check(f"gradient {name}", bool(error <= limit), detail))
    return checks
