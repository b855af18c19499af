"""L-BFGS by slices: the direction is the plain two-loop's, the minimum is SciPy's, on any number of ranks.

Letters: n parameters, k pairs, P ranks.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcml.arrays import span
from hpcml.comm import simulated
from hpcml.errors import ConfigError, NumericsError
from hpcml.sync.lbfgs import VectorFree, minimise, over_ranks


def two_loop(g, steps, changes):
    """The direction as Nocedal and Wright write it (algorithm 7.4), on whole vectors."""
    q, alphas = g.copy(), []
    for s, y in zip(reversed(steps), reversed(changes), strict=True):
        alphas.append((s @ q) / (s @ y))
        q -= alphas[-1] * y
    if steps:
        q *= (steps[-1] @ changes[-1]) / (changes[-1] @ changes[-1])
    for s, y, alpha in zip(steps, changes, reversed(alphas), strict=True):
        q += s * (alpha - (y @ q) / (s @ y))
    return -q


@settings(max_examples=40)
@given(ranks=st.integers(1, 4), n=st.integers(3, 30), memory=st.integers(1, 5), pushed=st.integers(0, 9), seed=st.integers(0, 999))
def test_the_direction_is_the_plain_two_loops_to_rounding(ranks, n, memory, pushed, seed):
    random = np.random.default_rng(seed)
    half = random.standard_normal((n, n))
    hessian = half @ half.T / n + np.eye(n)
    steps = [random.standard_normal(n) for _ in range(pushed)]
    changes = [hessian @ s for s in steps]
    g = random.standard_normal(n)

    def program(comm):
        own = span(n, comm.size, comm.rank)
        history = VectorFree(over_ranks(comm), own.stop - own.start, memory)
        for s, y in zip(steps, changes, strict=True):
            assert history.push(s[own].copy(), y[own].copy())
        out = np.empty(own.stop - own.start)
        downhill = history.find(g[own].copy(), out)
        return out, downhill

    found = simulated.run(ranks, program)
    expected = two_loop(g, steps[-memory:], changes[-memory:])
    np.testing.assert_allclose(np.concatenate([out for out, _ in found]), expected, rtol=1e-8, atol=1e-10)
    assert all(downhill == pytest.approx(expected @ g, rel=1e-8) for _, downhill in found)
    assert found[0][1] < 0


class Logistic:
    """Logistic regression with a penalty: strictly convex. Rows are dealt over ranks, and so are the parameters."""

    def __init__(self, comm, rows=200, n=23):
        random = np.random.default_rng(5)
        self.x = random.standard_normal((rows, n)) * np.logspace(0, 1.5, n)
        self.y = np.sign(self.x @ random.standard_normal(n) + random.standard_normal(rows))
        self.comm, self.n, self.longest = comm, n, 0
        if comm is not None:
            self.own, self.mine = span(n, comm.size, comm.rank), span(rows, comm.size, comm.rank)

    def whole(self, w, part=slice(None)):
        """Loss and gradient over some rows, without the penalty."""
        margin = self.y[part] * (self.x[part] @ w)
        return np.logaddexp(0, -margin).sum(), -(self.x[part].T @ (self.y[part] / (1 + np.exp(margin))))

    def with_penalty(self, w):
        loss, slope = self.whole(w)
        return loss + 0.5 * w @ w, slope + w

    def __call__(self, piece, out):
        w = np.zeros(self.n)
        w[self.own] = piece
        self.comm.all_reduce(w)
        loss, slope = self.whole(w, self.mine)
        sums = np.concatenate([slope, [loss]])
        self.comm.all_reduce(sums)
        out[:] = sums[:-1][self.own] + piece
        return float(sums[-1] + 0.5 * w @ w)


@pytest.mark.parametrize("memory", [3, 10])
def test_it_finds_scipys_minimum_of_a_convex_function_to_1e_8(on_every_rank, memory):
    optimize = pytest.importorskip("scipy.optimize")
    problem = Logistic(None)
    options = {"maxiter": 5000, "gtol": 1e-12, "ftol": 1e-16, "maxfun": 50_000}
    best = optimize.minimize(problem.with_penalty, np.zeros(23), jac=True, method="L-BFGS-B", options=options)
    newton = optimize.minimize(problem.with_penalty, best.x, jac=True, method="BFGS", options={"gtol": 1e-11})
    expected = newton.x if newton.fun <= best.fun else best.x

    def program(comm):
        local = Logistic(comm)
        x = np.zeros(local.own.stop - local.own.start)
        found = minimise(comm, local, x, memory=memory, tolerance=1e-9, iterations=2000)
        return local.own, x, found

    for own, x, found in on_every_rank(program):
        assert found.converged, found
        assert found.loss == pytest.approx(min(best.fun, newton.fun), rel=1e-12)
        np.testing.assert_allclose(x, expected[own], rtol=1e-7, atol=1e-8)


def test_no_rank_holds_a_whole_vector():
    def program(comm):
        history = VectorFree(over_ranks(comm), 10, 4)
        return max(array.shape[-1] for array in vars(history).values() if isinstance(array, np.ndarray))

    assert max(simulated.run(3, program)) == 10  # of 30: two histories by slices, and products (9, 9) that are scalars' business


def test_a_pair_without_positive_curvature_is_left_out():
    def program(comm):
        history = VectorFree(over_ranks(comm), 4, 3)
        refused = history.push(np.ones(4), -np.ones(4))
        out, g = np.empty(4), np.arange(4.0)
        history.find(g, out)
        return refused, history.pairs, (out == -g).all()

    assert simulated.run(2, program) == [(False, 0, True)] * 2


def test_a_start_without_a_loss_and_a_memory_of_nothing_are_refused_on_every_rank():
    def nowhere(comm):
        return minimise(comm, lambda x, out: float("inf"), np.zeros(3))

    def forgetful(comm):
        return VectorFree(over_ranks(comm), 3, 0)

    with pytest.raises(NumericsError, match="where L-BFGS begins"):
        simulated.run(2, nowhere)
    with pytest.raises(ConfigError, match="keeps 1 pair or more"):
        simulated.run(2, forgetful)
