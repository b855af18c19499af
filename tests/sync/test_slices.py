"""Slices: they cut a vector once, dots are numpy's to rounding and the same bits on any number of ranks.

Letters: n numbers, V workers.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcml.comm import simulated
from hpcml.comm.alone import Alone
from hpcml.sync.slices import BLOCKS, Slices


def program(comm, n, workers):
    slices = Slices(comm, n, workers)
    random = np.random.default_rng(n)
    x, y = random.standard_normal(n), random.standard_normal(n)
    found = slices.dots([(x[slices.own], y[slices.own]), (x[slices.own], x[slices.own])])
    whole = np.zeros(n)
    whole[slices.own] = x[slices.own]
    slices.gather(whole)
    np.testing.assert_array_equal(whole, x)
    np.testing.assert_allclose(found, [x @ y, x @ x], rtol=1e-12, atol=1e-12)
    return found.tobytes(), slices.own


@settings(max_examples=30)
@given(st.integers(1, 300), st.integers(1, 90), st.integers(2, 5))
def test_dots_have_the_same_bits_on_any_number_of_ranks_and_slices_cut_the_vector(n, workers, ranks):
    expected, _ = program(Alone(), n, workers)
    found = simulated.run(ranks, lambda comm: program(comm, n, workers))
    assert {bits for bits, _ in found} == {expected}
    covered = [place for _, own in found for place in range(own.start, own.stop)]
    assert sorted(covered) == list(range(n))


def test_over_real_ranks(on_every_rank):
    for n in (7, 1000):
        assert {bits for bits, _ in on_every_rank(lambda comm, n=n: program(comm, n, 4))} == {program(Alone(), n, 4)[0]}


@pytest.mark.parametrize(("n", "workers"), [(1000, 4), (5, 3), (200, 100)])
def test_a_workers_slice_is_the_same_whoever_hosts_it(n, workers):
    def parts(comm):
        slices = Slices(comm, n, workers)
        mine = range(*np.array([comm.rank, comm.rank + 1]) * workers // comm.size)
        return {w: (slices.own.start + slices.part(w).start, slices.own.start + slices.part(w).stop) for w in mine}

    expected = parts(Alone())
    for ranks in (2, 3):
        merged = {worker: run for found in simulated.run(ranks, parts) for worker, run in found.items()}
        assert merged == expected


def test_a_rank_holds_about_its_share():
    held = [own.stop - own.start for _, own in simulated.run(4, lambda comm: program(comm, 10_000, 8))]
    assert max(held) <= 10_000 / 4 + 10_000 / BLOCKS
