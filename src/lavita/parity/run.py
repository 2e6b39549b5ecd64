"""Which systems are covered, and how a case of one is run.

An adapter is a module with `build(case)` -> the network of the case, or None for a plain function, and
`run(case, network)` -> {output name: float array or number}, after which the gradients of the recorded loss
lie in the network's parameters.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from lavita.parity.cases import Case, CaseError, Check, gradient_checks, output_checks, structure_checks

SYSTEMS = {
    "latte": "lavita.methods.lavita.parity",
    "latte_img": "lavita.methods.lavita.parity",
    "dit": "lavita.baselines.dit.parity",
    "vdt": "lavita.baselines.vdt.parity",
    "iddpm_sampler": "lavita.parity.diffusion",
    "frechet": "lavita.parity.metrics",
    "inception_score": "lavita.parity.metrics",
    "i3d": "lavita.parity.metrics",
    "pvdm_autoencoder": "lavita.baselines.pvdm.parity",
    "pvdm_unet": "lavita.baselines.pvdm.parity",
}


def run_case(case: Case) -> list[Check]:
    """All checks of a case; it passes when all of them do. Raises CaseError for a case of unknown form.

    A system that is not covered fails, and so does a network that cannot be built or run at the case's sizes.
    """
    if case.system not in SYSTEMS:
        return [Check("system", False, f"{case.system!r} is not covered; covered: {', '.join(SYSTEMS)}")]
    adapter = importlib.import_module(SYSTEMS[case.system])
    network = adapter.build(case)
    checks = []
    if network is not None:
        # Imported here: the cases of plain numpy functions need no torch.
        from lavita.parity.cases import fill_from_case

        checks = structure_checks(case, network)
        if not checks[0].passed:
            return checks
        fill_from_case(network, case)
        network.train(case.data.get("mode", "eval") == "train")
    ours = {name: as_array(value) for name, value in adapter.run(case, network).items()}
    if "timestep_map" in case.data:
        equal = ours["timestep_map"].tolist() == case.data["timestep_map"]
        checks.append(Check("timestep_map", equal, "equal" if equal else "differs"))
    for name, recorded in case.get("outputs").items():
        checks += output_checks(case, name, recorded, ours.get(name))
    return checks + (gradient_checks(case, network) if network is not None else [])


def as_array(value: Any) -> np.ndarray:
    """A tensor, array or number as a numpy array."""
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
