"""Prints the checks of a case, one line a figure."""

from __future__ import annotations

from lavita.parity.case import Case, CaseError
from lavita.parity.compare import Check
from lavita.parity.systems import run_case


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
