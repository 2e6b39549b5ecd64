"""Numbers as people read them, against numpy's own way of writing significant digits."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from lavita.results.rows import ORDINARY, shown


@pytest.mark.parametrize("digits", [2, 3, 4, 6])
def test_ordinary_sizes_have_significant_digits_and_no_exponent(digits):
    rng = np.random.default_rng(0)
    powers = rng.uniform(math.log10(ORDINARY[0]), math.log10(ORDINARY[1]) - 1e-9, 2000)
    values = [*(10**powers * rng.choice((-1, 1), 2000)), 0.5, 99995.0, 0.00099996, 123.45, 12.5]
    for value in map(float, values):
        text = shown(value, digits)
        wanted = np.format_float_positional(value, precision=digits, unique=False, fractional=False)
        assert float(text) == float(wanted), value
        significant = re.sub(r"^-?0?\.?0*", "", text).replace(".", "")
        assert len(significant) == digits or (len(significant) > digits and "." not in text), text


def test_what_stands_in_the_issue_and_at_the_ends():
    assert shown(2073761.138) == "2074000" and shown(8450.04) == "8450" and shown(999.96) == "1000"
    assert shown(0.0) == "0" and shown(1.0) == "1.000" and shown(-0.25) == "-0.2500"
    assert shown(3.1634e-12) == "3.163e-12" and shown(2.5e15) == "2.5e+15" and shown(math.inf) == "inf"
    assert shown(math.nan) == "" and shown(None) == "" and shown(3200000) == "3200000" and shown("failed") == "failed"
