from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hpcml.optim import norm
from hpcml.optim.norms import BLOCK

FLOATS = st.floats(-1e6, 1e6, width=32)


@given(arrays(np.float32, st.integers(0, 300), elements=FLOATS))
def test_the_norm_is_that_of_exact_arithmetic_to_rounding(x):
    truth = math.sqrt(math.fsum(float(value) ** 2 for value in x))
    assert math.isclose(norm(x), truth, rel_tol=1e-5, abs_tol=1e-19)


@pytest.mark.parametrize("n", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_a_long_vector_loses_no_precision(xp, n):
    x = xp.ones(n, xp.float32)
    assert math.isclose(norm(x), math.sqrt(n), rel_tol=1e-6)
    assert norm(x) == norm(x.copy())


@pytest.mark.parametrize("large", [1e20, 3e38])
def test_squares_too_large_for_float32_do_not_make_a_finite_vector_infinite(large):
    x = np.array([large, -large, 0, 1], np.float32)
    assert math.isclose(norm(x), math.sqrt(2) * large, rel_tol=1e-6)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_number_that_is_not_finite_shows(bad):
    assert not math.isfinite(norm(np.array([1.0, bad, 2.0])))


def test_a_norm_is_a_plain_number(xp):
    assert type(norm(xp.ones(3))) is float
