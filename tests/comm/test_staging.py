"""Staging carries every byte whatever the sizes, dtypes and chunks, with copies as early or as late as a device may make them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcml.arrays.pinned import PinnedChunks
from hpcml.comm import Communicator, Op, simulated
from hpcml.comm.staging import Staging, cut
from hpcml.errors import CommError
from tests.comm.late_chunks import EarlyChunks, LateChunks
from tests.laws import CommunicatorLaws

NBYTES = 64 * 3
DTYPES = ["u1", "?", "<i2", "<f2", "<f4", "<f8", "<i8", "<c16"]
BOTH = pytest.mark.parametrize("make", [EarlyChunks, LateChunks])


def content(rank, n, dtype, seed=0):
    return (np.arange(n) * 7 + rank * 13 + seed).astype(np.uint8).astype(dtype)


def staged(size, make, program):
    """Run program(staging, comm) on each rank and return the results."""
    return simulated.run(size, lambda comm: program(Staging(comm, make, NBYTES), comm))


class Staged(Communicator):
    """A communicator whose every array is taken for a device array and staged."""

    def __init__(self, host, make):
        self.host_ranks, self.make = host, make
        self.rank, self.size, self.host = host.rank, host.size, host.host
        self.staging = Staging(host, make, NBYTES)
        self.exchange, self.all_reduce = self.staging.exchange, self.staging.all_reduce
        self.broadcast, self.all_gather = self.staging.broadcast, self.gather

    def exchange(self, x, to, into, source):
        """Replaced above; the base class asks for it."""

    def gather(self, x, out):
        self.staging.all_gather(np.ascontiguousarray(x).reshape(x.shape), out)

    def split(self, color, key=0):
        return Staged(self.host_ranks.split(color, key), self.make)

    def by_node(self):
        inside, across = self.host_ranks.by_node()
        return Staged(inside, self.make), Staged(across, self.make)

    def shared_blocks(self, nbytes):
        return self.host_ranks.shared_blocks(nbytes)

    def fence(self):
        self.host_ranks.fence()

    def release(self):
        self.host_ranks.release()


class TestStagedAsLateAsMayBe(CommunicatorLaws):
    def make(self, comm):
        return Staged(comm, LateChunks)


class TestStagedAtOnce(CommunicatorLaws):
    def make(self, comm):
        return Staged(comm, EarlyChunks)


@BOTH
@given(size=st.integers(1, 4), lengths=st.lists(st.integers(0, 500), min_size=4, max_size=4), dtype=st.sampled_from(DTYPES))
def test_exchange_around_a_ring_of_unequal_lengths(make, size, lengths, dtype):
    def program(staging, comm):
        before = (comm.rank - 1) % size
        came = [np.zeros(lengths[before], dtype) for _ in range(2)]
        for k in range(2):
            mine = content(comm.rank, lengths[comm.rank], dtype, k)
            staging.exchange(mine, (comm.rank + 1) % size, came[k], before)
            mine.fill(0)
        return came

    for rank, came in enumerate(staged(size, make, program)):
        before = (rank - 1) % size
        for k in range(2):
            np.testing.assert_array_equal(came[k], content(before, lengths[before], dtype, k))


@BOTH
@given(n=st.integers(0, 500), dtype=st.sampled_from(DTYPES))
def test_one_half_of_an_exchange_alone(make, n, dtype):
    def program(staging, comm):
        x = content(5, n, dtype) if comm.rank == 0 else np.zeros(n, dtype)
        staging.exchange(*((x, 1, None, None) if comm.rank == 0 else (None, None, x, 0)))
        return x

    for x in staged(2, make, program):
        np.testing.assert_array_equal(x, content(5, n, dtype))


@BOTH
@given(size=st.integers(1, 4), n=st.integers(0, 300), dtype=st.sampled_from(["<i4", "<f4", "<f8"]), op=st.sampled_from(list(Op)))
def test_all_reduce(make, size, n, dtype, op):
    def program(staging, comm):
        results = []
        for k in range(2):
            x = content(comm.rank, n, dtype, k)
            staging.all_reduce(x, op)
            results.append(x)
        return results

    for results in staged(size, make, program):
        for k, x in enumerate(results):
            expected = getattr(np, op.value).reduce([content(rank, n, dtype, k) for rank in range(size)])
            np.testing.assert_array_equal(x, expected.astype(dtype))


@BOTH
@given(size=st.integers(1, 4), n=st.integers(0, 400), dtype=st.sampled_from(DTYPES))
def test_broadcast_and_all_gather(make, size, n, dtype):
    def program(staging, comm):
        root = size - 1
        x = content(comm.rank, n, dtype)
        out = np.zeros((size, n), dtype)
        staging.all_gather(x, out)
        staging.broadcast(x, root)
        staging.all_gather(x, again := np.zeros((size, n), dtype))
        return x, out, again

    for x, out, again in staged(size, make, program):
        np.testing.assert_array_equal(x, content(size - 1, n, dtype))
        np.testing.assert_array_equal(out, [content(rank, n, dtype) for rank in range(size)])
        np.testing.assert_array_equal(again, [content(size - 1, n, dtype)] * size)


def test_the_next_chunk_leaves_the_device_before_the_host_works_on_this_one():
    story = []

    class Told(LateChunks):
        def fetch(self, chunk, source):
            story.append(f"fetch {chunk}")
            super().fetch(chunk, source)

    def program(comm):
        comm.all_reduce = lambda x, op: story.append("reduce")
        Staging(comm, Told, NBYTES).all_reduce(np.zeros(NBYTES * 3, np.uint8))

    simulated.run(1, program)
    assert story == ["fetch 0", "fetch 1", "reduce", "fetch 0", "reduce", "reduce"]


def test_strided_arrays_and_wrong_shapes_are_refused_with_the_remedy():
    def program(staging, comm):
        with pytest.raises(CommError, match="ascontiguousarray"):
            staging.all_reduce(np.zeros((4, 4))[:, :2])
        with pytest.raises(CommError, match=r"expected \(1, 3\)"):
            staging.all_gather(np.zeros(3), np.zeros((1, 4)))

    staged(1, LateChunks, program)


def test_the_count_of_pieces_depends_on_the_length_alone():
    assert [len(cut(np.zeros(n, np.uint8), 10)) for n in (0, 1, 10, 11, 20, 21)] == [1, 1, 1, 2, 2, 3]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 1001, 100_003])
def test_on_a_gpu_behind_a_busy_stream(n, dtype):
    import cupy

    def program(comm):
        staging = Staging(comm, PinnedChunks, 4096 * 3)
        stream = cupy.cuda.Stream(non_blocking=True)
        with stream:
            busy = cupy.ones(1 << 22)
            before = (comm.rank - 1) % comm.size
            x, came = cupy.zeros(n, dtype), cupy.zeros(n, dtype)
            for _ in range(20):
                cupy.sin(busy, out=busy)
            x[...] = cupy.asarray(content(comm.rank, n, dtype))
            staging.exchange(x, (comm.rank + 1) % comm.size, came, before)
            x.fill(0)  # at once: what was sent must have left before
            staging.broadcast(came, 1)
            return came.get()

    for came in simulated.run(3, program):
        np.testing.assert_array_equal(came, content(0, n, dtype))
