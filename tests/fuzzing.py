"""How many examples property tests try: few and always the same; FUZZ=100 tries a hundred times as many new ones."""

from __future__ import annotations

import os
from datetime import timedelta

from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get("FUZZ", "1"))


def fuzzed(examples: int, seconds: float | None = 10.0) -> settings:
    """Settings of a property test. seconds: that no example may take longer than."""
    return settings(
        max_examples=examples * FACTOR,
        deadline=None if seconds is None else timedelta(seconds=seconds),
        derandomize=FACTOR == 1,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
