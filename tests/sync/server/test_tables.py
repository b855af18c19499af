"""Tables: every write is the rule's step, rows are the dense step where nothing else is written, and the elastic pull conserves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcml.errors import ShapeError
from hpcml.optim import SGD, AdaGrad, AdamW, Scratch, apply_whole
from hpcml.sync.server.filter import significant
from hpcml.sync.server.tables import Elastic, RuleUpdater, Table

RULES = [SGD(0.1), SGD(0.1, momentum=0.9, nesterov=True), AdaGrad(0.1), AdamW(0.01)]


def numbers(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_writes_are_the_rules_steps(rule):
    p, gradients = numbers(1, 30), numbers(2, 6, 30)
    table = Table(p, RuleUpdater(rule, p, 30), 1, whole=False)
    mine, state = p.copy(), np.zeros((rule.slots, 30))
    for step, g in enumerate(gradients):
        table.write(0, g.copy(), 0.0)
        apply_whole(rule, mine, g.copy(), state, step, Scratch(mine, []))
    np.testing.assert_array_equal(table.data, mine)
    np.testing.assert_array_equal(table.slots, state)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("width", [1, 3])
def test_a_write_of_all_rows_is_a_dense_one_and_a_write_of_some_leaves_the_others(rule, width):
    p, gradients = numbers(1, 30), numbers(2, 4, 30)
    dense = Table(p, RuleUpdater(rule, p, 30), 1, whole=False, width=width)
    rows = Table(p, RuleUpdater(rule, p, 30), 1, whole=False, width=width)
    for g in gradients:
        dense.write(0, g.copy(), 0.0)
        rows.write(0, g.copy(), 0.0, np.arange(30 // width))
    np.testing.assert_array_equal(rows.data, dense.data)
    np.testing.assert_array_equal(rows.slots, dense.slots)
    before, some = rows.data.copy(), np.array([0, 4, 9]) if width == 3 else np.array([1, 2, 29])
    rows.write(0, np.ones(3 * width), 0.0, some)
    touched = np.zeros(30 // width, bool)
    touched[some] = True
    changed = (rows.data != before).reshape(-1, width)
    assert changed[touched].all()
    assert not changed[~touched].any()
    np.testing.assert_array_equal(rows.rows_since(4), some)
    out = np.empty(3 * width)
    rows.gather(some, out)
    np.testing.assert_array_equal(out.reshape(-1, width), rows.data.reshape(-1, width)[some])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_clocks_writes_become_their_mean_by_weight_and_who_left_counts_as_zeros(dtype):
    p = numbers(1, 20).astype(dtype)
    table = Table(p, RuleUpdater(SGD(0.5), p, 20), 3, whole=True)
    sums = numbers(2, 3, 20).astype(dtype)
    for worker, weight in enumerate((4.0, 1.0, 3.0)):
        table.write(worker, sums[worker].copy(), weight)
    table.apply()
    expected = p - 0.5 * (sums.sum(axis=0) / 8)
    np.testing.assert_allclose(table.data, expected, rtol=1e-5)
    table.write(1, sums[1].copy(), 2.0)
    table.apply()
    np.testing.assert_allclose(table.data, expected - 0.5 * sums[1] / 2, rtol=1e-5)
    after = table.data.copy()
    table.write(0, np.zeros(20, dtype), 0.0)
    table.apply()
    np.testing.assert_array_equal(table.data, after)


def test_running_statistics_are_taken_from_not_moved_by_the_rule():
    p = np.ones(10)
    table = Table(p, RuleUpdater(SGD(0.5), p, 6), 1, whole=False)
    table.write(0, np.full(10, 0.25), 0.0)
    np.testing.assert_array_equal(table.data, [0.875] * 6 + [0.75] * 4)
    table.write(0, np.full(3, 0.25), 0.0, np.array([5, 6, 9]))
    np.testing.assert_array_equal(table.data, [0.875] * 5 + [0.75, 0.5, 0.75, 0.75, 0.5])


def test_delay_compensation_is_the_papers_and_nothing_without_delay():
    p, g = numbers(1, 12), numbers(2, 12)
    for delay, expected in ((0.0, g), (0.3, g + 0.04 * g * g * 0.3)):
        table = Table(p, updater := RuleUpdater(SGD(1.0), p, 12, 2, compensation=0.04), 2, whole=False)
        updater.read[1] = p - delay
        table.write(1, g.copy(), 0.0)
        np.testing.assert_allclose(table.data, p - expected, rtol=1e-12)
    sparse = Table(p, updater := RuleUpdater(SGD(1.0), p, 12, 2, compensation=0.04), 2, whole=False)
    updater.read[1] = p - 0.3
    sparse.write(1, g.copy(), 0.0, np.arange(12))
    np.testing.assert_allclose(sparse.data, p - expected, rtol=1e-12)


@given(st.floats(0.01, 1.0), st.integers(0, 1000))
def test_the_elastic_pull_conserves_the_sum_of_centre_and_worker(alpha, seed):
    centre, x = numbers(seed, 17), numbers(seed + 1, 17)
    table = Table(centre, Elastic(alpha, centre), 1, whole=False)
    moved = x.copy()
    table.write(0, moved, 0.0)
    np.testing.assert_allclose(table.data + moved, centre + x, rtol=0, atol=1e-12)
    np.testing.assert_allclose(moved, x - alpha * (x - centre), rtol=0, atol=1e-12)


def test_the_filter_keeps_what_is_small_for_its_value_and_ever_less_of_it():
    owed, values = np.array([0.02, 0.005, -0.02, 0.0, 1e-12]), np.array([1.0, 1.0, -1.0, 1.0, 0.0])
    np.testing.assert_array_equal(significant(owed, values, 1.0, 0.01, 1), [0, 2])
    np.testing.assert_array_equal(significant(owed, values, 1.0, 0.01, 9), [0, 1, 2])
    np.testing.assert_array_equal(significant(owed, values, 0.1, 0.01, 1), [])


def test_rows_that_do_not_divide_a_table_are_refused():
    with pytest.raises(ShapeError, match=r"10 numbers cannot have rows of 3"):
        Table(np.zeros(10), Elastic(0.1, np.zeros(10)), 1, whole=False, width=3)
