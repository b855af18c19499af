"""Vectors longer than MPI's 32-bit counts: every element arrives, and is added, once."""

from __future__ import annotations

import numpy as np
import pytest

from hpcml.comm import Op
from hpcml.comm.roads import ROADS
from hpcml.comm.start import world

pytestmark = [pytest.mark.mpi, pytest.mark.huge, pytest.mark.slow]

N = 2**31 + 11


@pytest.fixture(scope="module")
def comm():
    return world()


PIECE = 61 << 22


def pattern(rank, times=1, plus=0):
    """Bytes that differ by place and rank, and whose sum over a few ranks does not wrap around."""
    x = np.empty(N, np.uint8)
    piece = np.tile(np.arange(61, dtype=np.uint8) * np.uint8(times) + np.uint8(rank + plus), PIECE // 61)
    for start in range(0, N, PIECE):
        x[start : start + PIECE] = piece[: len(x[start : start + PIECE])]
    return x


def require_equal(x, expected):
    for start in range(0, N, PIECE):
        part = slice(start, start + PIECE)
        assert np.array_equal(x[part], expected[part]), f"a difference in elements {start} to {start + PIECE}"


def total(comm):
    return pattern(0, comm.size, comm.size * (comm.size - 1) // 2)


def test_the_librarys_sum(comm):
    x = pattern(comm.rank)
    comm.all_reduce(x, Op.SUM)
    require_equal(x, total(comm))


def test_a_schedules_sum(comm):
    x = pattern(comm.rank)
    ROADS["ring"](comm, x)()
    require_equal(x, total(comm))


def test_an_exchange_and_a_broadcast(comm):
    x, came = pattern(comm.rank), np.zeros(N, np.uint8)
    comm.exchange(x, (comm.rank + 1) % comm.size, came, (comm.rank - 1) % comm.size)
    require_equal(came, pattern((comm.rank - 1) % comm.size))
    comm.broadcast(came, comm.size - 1)
    require_equal(came, pattern((comm.size - 2) % comm.size))
