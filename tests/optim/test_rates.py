from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcml.optim import Constant, Cosine, Steps, Warmup, linear_scaling

VALUES = st.floats(1e-6, 10)
COUNTS = st.integers(1, 500)


@given(VALUES, st.integers(0, 10**9))
def test_a_constant_is_constant(value, step):
    assert Constant(value)(step) == value


@given(VALUES, COUNTS, st.integers(0, 2000))
def test_steps_fall_by_their_factor_at_every_multiple(value, every, step):
    rate = Steps(value, every, 0.5)
    assert rate(0) == rate(every - 1) == value
    assert math.isclose(rate(step + every), rate(step) / 2, abs_tol=1e-300)
    assert math.isclose(rate(step), value * 0.5 ** (step // every), abs_tol=1e-300)


@given(VALUES, COUNTS, st.floats(0, 1))
def test_a_cosine_falls_from_its_value_to_its_floor_and_stays_there(value, steps, share):
    floor = value * share
    rate = Cosine(value, steps, floor)
    assert math.isclose(rate(0), value)
    assert rate(steps) == rate(steps + 1) == rate(10 * steps) == floor
    assert math.isclose(rate(steps) + rate(0), 2 * (floor + (value - floor) / 2))
    walk = [rate(step) for step in range(steps + 2)]
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in itertools.pairwise(walk))


def test_half_way_down_a_cosine_is_half_the_rate():
    assert math.isclose(Cosine(0.4, 10)(5), 0.2)


@given(VALUES, COUNTS, st.sampled_from(["constant", "cosine", "steps"]))
def test_a_warm_up_climbs_in_equal_steps_and_meets_the_inner_rate(value, steps, kind):
    inner = {"constant": Constant(value), "cosine": Cosine(value, 700), "steps": Steps(value, 3)}[kind]
    rate = Warmup(inner, steps)
    assert math.isclose(rate(0), inner(0) / steps)
    assert math.isclose(rate(steps - 1), inner(0))
    assert rate(steps) == inner(0)
    climbs = [rate(k + 1) - rate(k) for k in range(steps - 1)]
    assert all(math.isclose(climb, inner(0) / steps, rel_tol=1e-6) for climb in climbs)
    assert all(rate(steps + k) == inner(k) for k in range(20))


def test_no_warm_up_is_the_inner_rate():
    assert [Warmup(Steps(1.0, 2), 0)(k) for k in range(6)] == [Steps(1.0, 2)(k) for k in range(6)]


@given(VALUES, COUNTS, COUNTS)
def test_linear_scaling_keeps_the_rate_a_row(rate, batch, base):
    assert math.isclose(linear_scaling(rate, batch, base) / batch, rate / base)
    assert linear_scaling(rate, base, base) == pytest.approx(rate)


@given(VALUES, COUNTS, st.integers(0, 1000))
def test_rates_are_never_negative(value, count, step):
    for rate in (Constant(value), Steps(value, count), Cosine(value, count), Warmup(Cosine(value, count), count)):
        assert rate(step) >= 0
