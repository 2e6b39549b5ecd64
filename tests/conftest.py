"""What tests of several folders share: a script of benchmarks/ called as a user calls it, in this process."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def script(capsys) -> Callable[[str], Callable[..., SimpleNamespace]]:
    """script("evaluate") is a function of arguments that returns the exit status (code), out and err of that script.

    A process of its own would take seconds to import torch for every call.
    """

    def of(name: str) -> Callable[..., SimpleNamespace]:
        spec = importlib.util.spec_from_file_location(f"{name}_script", BENCHMARKS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)

        def call(*arguments: object) -> SimpleNamespace:
            try:
                code = module.main([str(argument) for argument in arguments])
            except SystemExit as stop:
                code = stop.code
            said = capsys.readouterr()
            return SimpleNamespace(code=code, out=said.out, err=said.err)

        return call

    return of
