"""A parity case: recorded figures of an official system; weights and inputs are formulas over names."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

Z_CALL = re.compile(r'z\("([^"]+)", \[([\d, ]+)\]\)')


class CaseError(ValueError):
    """A case that cannot be read: one line naming the file and what is wrong."""


def z(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal values that depend on the name only, float32 of the given shape."""
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """One file of figures. data is its JSON object; name and system are strings of it."""

    path: Path
    name: str
    system: str
    data: dict[str, Any]

    def get(self, *keys: str) -> Any:
        """The entry under nested keys. Raises CaseError naming the first that is missing."""
        value: Any = self.data
        for position, key in enumerate(keys):
            if not isinstance(value, dict) or key not in value:
                raise CaseError(f"{self.path}: no entry {'.'.join(keys[: position + 1])!r}")
            value = value[key]
        return value

    def expression(self, key: str, pattern: str) -> tuple[np.ndarray, re.Match[str]]:
        """An input written with z, as (the array of its z call, the match of `pattern` on the whole text).

        In pattern, Z stands for the call. Raises CaseError where the text has another form: a guess would
        compare figures of different inputs.
        """
        text = str(self.get("inputs", key))
        match = re.fullmatch(pattern.replace("Z", f"(?:{strip_groups(Z_CALL.pattern)})"), text)
        call = Z_CALL.search(text)
        if match is None or call is None:
            raise CaseError(f"{self.path}: input {key!r} has an unknown form: {text[:80]!r}")
        return z(call[1], tuple(int(size) for size in call[2].split(","))), match

    def array(self, key: str) -> np.ndarray:
        """An input that is a plain z call, float32; what follows a colon is a remark."""
        return self.expression(key, "Z(?::.*)?")[0]


def strip_groups(pattern: str) -> str:
    """A pattern with its capturing groups made non-capturing, so that callers number their own."""
    return re.sub(r"(?<!\\)\((?!\?)", "(?:", pattern)


class Adapter(NamedTuple):
    """How the cases of a system are run.

    build(case) -> the network of a case, or None for a plain function; run(case, network) -> {output name: array or
    number}, after which the gradients of the recorded loss lie in the network's parameters.
    """

    build: Callable[[Case], nn.Module | None]
    run: Callable[[Case, Any], dict[str, Any]]


def no_network(case: Case) -> None:
    """The case is of a plain function, or writes its network as a formula."""


def read_case(path: Path) -> Case:
    """Read a case. Raises CaseError for a file that is missing, no JSON, or no case."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CaseError(f"{path}: cannot be read ({error.strerror}); give the JSON file of a case") from error
    except ValueError as error:
        raise CaseError(f"{path}: is no JSON ({error}); give the JSON file of a case") from error
    if not isinstance(data, dict) or not all(isinstance(data.get(key), str) for key in ("case", "system")):
        raise CaseError(f'{path}: is no parity case; wanted a JSON object with strings "case" and "system"')
    if not isinstance(data.get("outputs"), dict) or not data["outputs"]:
        raise CaseError(f'{path}: is no parity case; wanted recorded figures under "outputs"')
    return Case(path, data["case"], data["system"], data)


def weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The value that the cases give to the parameter or running statistic `name`, float32."""
    values = torch.from_numpy(z(name, shape))
    if name.endswith("running_mean"):
        return 0.1 * values
    if name.endswith("running_var"):
        return 1 + 0.1 * values.abs()
    if len(shape) == 1 and name.endswith(".weight"):
        return 1 + 0.1 * values
    if len(shape) <= 1:
        return 0.05 * values
    return values * min(0.08, 1 / math.sqrt(math.prod(shape[1:])))


@torch.no_grad()
def fill_by_formula(network: nn.Module) -> None:
    """Give every trainable parameter its formula weight, named as in the network's own state dict.

    Fixed tables keep their values. From these weights, unlike a zero-initialised start, every layer matters.
    """
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(weight(name, tuple(parameter.shape)))


@torch.no_grad()
def fill_from_case(network: nn.Module, case: Case) -> None:
    """Give a network of the case's shapes the case's weights: all keys that are neither fixed nor tied."""
    state = network.state_dict()
    kept = set(case.get("fixed")) | set(case.data.get("tied", {}))
    rules = weight_rules(case)
    for name, shape in case.get("state_dict").items():
        if name not in kept and state[name].is_floating_point():
            state[name].copy_(ruled_weight(rules, name, tuple(shape)) if rules else weight(name, tuple(shape)))


RULE = re.compile(r"(?:([\d.]+) \+ )?(?:([\d.]+) \* )?z")  # shift + scale * z


def weight_rules(case: Case) -> list[tuple[re.Pattern[str], float, float]]:
    """The case's own rules for weights, (pattern of names, scale, shift), in their order; none where it has none.

    Raises CaseError for a rule of another form.
    """
    exception = case.data.get("weights_exception")
    rules = []
    for pattern, text in exception.get("rules", []) if isinstance(exception, dict) else []:
        match = RULE.fullmatch(text)
        if match is None:
            raise CaseError(f"{case.path}: the rule for weights {pattern!r} has an unknown form: {text!r}")
        rules.append((re.compile(pattern), float(match[2] or 1), float(match[1] or 0)))
    return rules


def ruled_weight(rules: list[tuple[re.Pattern[str], float, float]], name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The value of a weight by the first rule whose pattern is found in its name, float32."""
    scale, shift = next((scale, shift) for pattern, scale, shift in rules if pattern.search(name))
    return scale * torch.from_numpy(z(name, shape)) + shift


# Relative, in float32. The deep systems get ten times as much: their own code moves more with threads. Scores are
# recorded and computed in float64. Where one figure has a bar of its own it stands behind the system's name.
TOLERANCE = 1e-5
TOLERANCES = {"i3d": 1e-4, "pvdm_autoencoder": 1e-4, "frechet": 1e-9, "inception_score": 1e-9,
              "styleganv_augment": 1e-4,
              "lvg_sres_augment": 1e-4, "lvg_lowres_train G_change": 1e-4, "lvg_lowres_train D_change": 1e-4,
              "lvg_lowres_train G_ema_change": 1e-3}  # fmt: skip
SCALARS = {"lvg": 2e-5}  # by the first part of the system's name: of plain numbers, such as scores, which cancel


def tolerance(system: str, name: str, recorded: Any) -> float:
    """The bar of one recorded output of a system."""
    if not isinstance(recorded, dict) and system.partition("_")[0] in SCALARS:
        return SCALARS[system.partition("_")[0]]
    return TOLERANCES.get(f"{system} {name}", TOLERANCES.get(system, TOLERANCE))


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


def output_checks(case: Case, name: str, recorded: Any, ours: Any) -> list[Check]:
    """Checks of one recorded output: a plain number, or shape, norm and picked values of an array, or a dictionary of
    such. ours: an array, or a dictionary of arrays; None where there is none.
    """
    if isinstance(recorded, dict) and "values" not in recorded:  # figures by name
        inner = ours if isinstance(ours, dict) else {}
        return [check for key in recorded
                for check in output_checks(case, f"{name} {key}", recorded[key], inner.get(key))]  # fmt: skip
    limit = tolerance(case.system, name, recorded)
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


DRAWN_BUFFERS = ("running_", "magnitude_ema", "w_avg")  # parts of names of running statistics, which are drawn too


def structure_checks(case: Case, network: nn.Module) -> list[Check]:
    """Checks of state dict, names of trained parameters and their count, all of which must be equal."""
    ours = {name: list(value.shape) for name, value in network.state_dict().items()}
    recorded = case.get("state_dict")
    differing = [name for name in sorted({*ours, *recorded}) if ours.get(name) != recorded.get(name)]
    wrong = [f"{name}: got {ours.get(name)}, recorded {recorded.get(name)}" for name in differing]
    trained = {name: value for name, value in network.named_parameters() if value.requires_grad}
    untrained = set(case.get("fixed")) | set(case.data.get("tied", {}))
    names = {name for name in recorded if name not in untrained and not any(part in name for part in DRAWN_BUFFERS)}
    odd = sorted(names ^ set(trained))
    count, wanted = sum(value.numel() for value in trained.values()), case.get("trainable_parameters")
    return [
        Check("state dict", not wrong, "; ".join(wrong[:3]) or f"{len(ours)} names and shapes equal"),
        Check("parameter names", not odd, f"differ: {', '.join(odd[:3])}" if odd else f"{len(trained)} equal"),
        Check("trainable parameters", count == wanted, f"got {count}, recorded {wanted}"),
        *fixed_checks(case, network),
    ]


def fixed_checks(case: Case, network: nn.Module) -> list[Check]:
    """Checks of the fixed tables that a case gives digests of; "every NAME" stands for all whose name ends so."""
    checks = []
    state = network.state_dict()
    for name, recorded in case.data.get("fixed_values", {}).items():
        ending = name.removeprefix("every ")
        tables = [value for key, value in state.items() if key == name or (key.endswith(ending) and ending != name)]
        for table in {tuple(table.flatten().tolist()): table for table in tables}.values():
            checks += output_checks(case, name, recorded, table.numpy())
        if not tables:
            checks.append(Check(name, False, "recorded, but this network has no such table"))
    return checks


GRADIENTS = "grad_norms_of_"


def gradient_checks(case: Case, network: nn.Module, figures: dict[str, Any]) -> list[Check]:
    """A check for each recorded gradient norm g: |ours - g| <= 1e-4 g + 1e-6 G, G the largest of that loss.

    figures: what the case's run gave, among it {parameter: norm} of every loss where there are several; one alone has
    its gradients in the network's parameters.
    """
    checks = []
    for key in (key for key in case.data if key.startswith(GRADIENTS)):
        recorded, ours = case.data[key], figures.get(key, gradient_norms(network))
        largest = max(recorded.values())
        for name, norm in recorded.items():
            error, limit = abs(ours.get(name, 0.0) - norm), 1e-4 * norm + 1e-6 * largest
            detail = f"got {ours.get(name, 0.0):.6g}, recorded {norm:.6g}, difference {error:.1e}, limit {limit:.1e}"
            of_loss = f" of {key.removeprefix(GRADIENTS)}" if key in figures else ""
            checks.append(Check(f"gradient {name}{of_loss}", bool(error <= limit), detail))
    return checks


def gradient_norms(network: nn.Module) -> dict[str, float]:
    """Norms of the gradients that lie in a network's parameters. One that the loss does not reach has none."""
    return {
        name: float(value.grad.double().norm()) for name, value in network.named_parameters() if value.grad is not None
    }
