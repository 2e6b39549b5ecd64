"""Runs the recorded cases of a system and prints one line per figure.

Systems are found, not listed: every module named here, and parity.py of every baseline, has a dictionary SYSTEMS of
Adapters by the name that its cases give.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import numpy as np

from lavita.config.registry import BASELINES
from lavita.parity.cases import (
    Adapter,
    Case,
    CaseError,
    Check,
    fill_from_case,
    gradient_checks,
    output_checks,
    structure_checks,
)

MODULES = ("lavita.parity.adapters", "lavita.methods.lavita.parity")


@cache
def systems() -> dict[str, Adapter]:
    """The adapter of every system that is covered."""
    of_baselines = [f"lavita.baselines.{path.parent.name}.parity" for path in sorted(BASELINES.glob("*/parity.py"))]
    found: dict[str, Adapter] = {}
    for name in (*MODULES, *of_baselines):
        found |= importlib.import_module(name).SYSTEMS
    return found


def run_case(case: Case) -> list[Check]:
    """All checks of a case; it passes when all of them do. Raises CaseError for a case of unknown form.

    A system that is not covered fails, and so does a network that cannot be built or run at the case's sizes.
    """
    if case.system not in systems():
        return [Check("system", False, f"{case.system!r} is not covered; covered: {', '.join(systems())}")]
    adapter = systems()[case.system]
    network = adapter.build(case)
    checks = []
    if network is not None:
        checks = structure_checks(case, network)
        if not checks[0].passed:
            return checks
        fill_from_case(network, case)
        network.train(case.data.get("mode", "eval") == "train")
    figures = adapter.run(case, network)
    ours = {name: as_array(value) for name, value in figures.items()}
    for key in {"timestep_map", "timesteps"} & case.data.keys():  # whole numbers, which are equal or wrong
        equal = key in ours and ours[key].tolist() == case.data[key]
        checks.append(Check(key, equal, "equal" if equal else "differs"))
    for name, recorded in case.get("outputs").items():
        checks += output_checks(case, name, recorded, ours.get(name))
    return checks + (gradient_checks(case, network, figures) if network is not None else [])


def as_array(value: Any) -> Any:
    """A tensor, array or number as a numpy array; a dictionary of such with arrays in it."""
    if isinstance(value, dict):
        return {name: as_array(inner) for name, inner in value.items()}
    return value.detach().numpy() if hasattr(value, "detach") else np.asarray(value)


def line(case: Case, check: Check) -> str:
    """One line: verdict, case, figure, numbers."""
    return f"{'pass' if check.passed else 'FAIL'}  {case.name}  {check.what}: {check.detail}"


def run_and_print(case: Case, all_gradients: bool) -> bool:
    """Run a case and print its checks; returns whether all passed. Raises CaseError for an unknown form.

    Gradient norms share one line unless they fail or all_gradients is set.
    """
    try:
        checks = run_case(case)
    except CaseError:
        raise
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        # Our network cannot take the case's sizes: a failure of the case, not of the program.
        checks = [Check("run", False, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")]
    gradients = [check for check in checks if check.what.startswith("gradient ")]
    for check in checks:
        if check not in gradients or all_gradients or not check.passed:
            print(line(case, check))
    if gradients:
        good = sum(check.passed for check in gradients)
        print(
            line(
                case,
                Check("gradient norms", good == len(gradients), f"{good} of {len(gradients)} within limits"),
            )
        )
    return all(check.passed for check in checks)
