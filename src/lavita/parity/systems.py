"""Which systems are covered, and how a case of one is run.

An adapter is a module with `build(case)` -> the network of the case, or None for a plain function, and
`run(case, network)` -> {output name: float array or number}, after which the gradients of the recorded loss
lie in the network's parameters.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from lavita.parity.case import Case
from lavita.parity.compare import Check, gradient_checks, output_checks, structure_checks

SYSTEMS = {
    "latte": "lavita.parity.latte",
    "latte_img": "lavita.parity.latte",
    "dit": "lavita.parity.dit",
    "vdt": "lavita.parity.vdt",
    "iddpm_sampler": "lavita.parity.sampler",
    "frechet": "lavita.parity.frechet",
    "inception_score": "lavita.parity.inception",
    "i3d": "lavita.parity.i3d",
    "pvdm_autoencoder": "lavita.parity.pvdm_autoencoder",
    "pvdm_unet": "lavita.parity.pvdm_unet",
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
        from lavita.parity.fill import fill_from_case

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
