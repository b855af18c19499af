"""What every way to sum over virtual workers does."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest

from hpcml.arrays import spans, to_host
from hpcml.comm import Communicator
from hpcml.sync import Nodes
from tests.laws.numbers import numbers


class ReducerLaws:
    """What every way to sum over virtual workers does; `make` returns a reducer with its memory."""

    def make(self, nodes: Nodes, workers: int, n: int, tail: int, dtype: Any, xp: Any) -> Any:
        raise NotImplementedError

    def totals(self, comm: Communicator, vectors: np.ndarray, xp: Any = np, rounds: int = 1) -> list[np.ndarray]:
        """Return copies of the sums of the rows of vectors (V, length), taken by one reducer again and again, negated every other time."""
        workers, length = vectors.shape
        tail = min(2, length)
        nodes = Nodes(comm)
        reducer = self.make(nodes, workers, length - tail, tail, vectors.dtype, xp)
        total = reducer.vector()
        run = spans(workers, comm.size)[nodes.order.rank]
        found = []
        for k in range(rounds):
            for worker in range(run.start, run.stop):
                reducer.buffer()[:] = xp.asarray(vectors[worker] * (-1) ** k)
                for first in range(length - tail - 1, -1, -5):
                    reducer.ready(slice(first, first + 5))
                reducer.add()
            sums = reducer.finish()
            for part, x in reducer.parts():
                total[part] = x
            reducer.settle()
            found.append(np.concatenate([to_host(total), sums.astype(vectors.dtype)]))
            reducer.settle()
        return found

    def test_the_sum_is_the_true_sum_to_rounding(self, on_every_rank):
        def program(comm):
            for length, workers in product((0, 1, 2, 5, 64, 1001), (comm.size, comm.size + 1, 7, 16)):
                vectors = np.random.default_rng(workers).standard_normal((workers, length))
                (total,) = self.totals(comm, vectors)
                truth = [math.fsum(column) for column in vectors.T]
                np.testing.assert_allclose(total, truth, rtol=0, atol=1e-14 * workers)

        on_every_rank(program)

    def test_all_ranks_hold_the_same_bits(self, on_every_rank):
        def program(comm):
            vectors = np.random.default_rng(1).standard_normal((9, 501)).astype(np.float32)
            for total in self.totals(comm, vectors, rounds=2):
                comm.agree(total.tobytes(), "the sum")

        on_every_rank(program)

    def test_a_reducer_is_as_good_the_second_time(self, on_every_rank):
        def program(comm):
            vectors = np.random.default_rng(2).standard_normal((6, 90)).astype(np.float32)
            first, negated, again = self.totals(comm, vectors, rounds=3)
            np.testing.assert_array_equal(first, -negated)
            np.testing.assert_array_equal(first, again)

        on_every_rank(program)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_whole_numbers_are_summed_exactly_on_every_device(self, on_every_rank, xp, dtype):
        def program(comm):
            vectors = np.stack([numbers(w, 33, dtype) for w in range(8)])
            for sign, total in zip((1, -1), self.totals(comm, vectors, xp, rounds=2), strict=True):
                np.testing.assert_array_equal(total, sign * vectors.sum(axis=0))

        on_every_rank(program)
