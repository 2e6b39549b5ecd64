"""LAVITA and its baselines under one budget: a fair, checkable benchmark suite for video diffusion."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lavita.api import compose, evaluate, load, run_suite, sample

__version__ = "0.2.0"
__all__ = ["__version__", "compose", "evaluate", "load", "run_suite", "sample"]


def __getattr__(name: str) -> Any:
    """The functions of lavita.api, imported when the first of them is asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'lavita' has no attribute {name!r}")
    from lavita import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
