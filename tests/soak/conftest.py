"""What the long tests share."""

import pytest

from tests.soak.runs import end_started


@pytest.fixture(autouse=True)
def nothing_runs_on():
    """No run outlives its test, whatever becomes of that."""
    yield
    end_started()
