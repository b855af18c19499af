"""Roads over real and simulated worlds: every type, empty and odd lengths, chunks, nodes; numpy is the oracle."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import hpcml.comm.mpi as mpi
from hpcml.comm import simulated
from hpcml.comm.mpi import MpiCommunicator
from hpcml.comm.roads import ROADS, library, node_numbers, number_type, schedule_of, summable
from hpcml.errors import CommError

HOSTS = ["a", "b", "a", "c", "c"]
TYPES = ["int8", "uint16", "int32", "int64", "float32", "float64", "complex128"]


def values(rank, n, dtype):
    """Small whole numbers, so that every order of additions gives the same sum."""
    return np.random.default_rng([rank, n]).integers(0, 9, n).astype(dtype)


def check_sums(comm, name, n, dtype):
    x = values(comm.rank, n, dtype)
    run = ROADS[name](comm, x)
    expected = sum(values(rank, n, dtype) for rank in range(comm.size)).astype(dtype)
    run()
    np.testing.assert_array_equal(x, expected)
    x[...] = values(comm.rank, n, dtype)
    run()  # what is made once serves every step
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("name", ROADS)
@pytest.mark.parametrize("dtype", TYPES)
def test_every_road_sums_every_type_on_uneven_nodes(name, dtype):
    for n in (0, 1, 3, 40):
        simulated.run(5, lambda comm, n=n: check_sums(comm, name, n, dtype), hosts=HOSTS)


@pytest.mark.mpi
@pytest.mark.parametrize("name", ROADS)
def test_every_road_sums_in_a_real_world(comm, name):
    for dtype in TYPES:
        for n in (0, 1, 5, 1000):
            check_sums(comm, name, n, dtype)


@pytest.mark.mpi
@pytest.mark.parametrize("name", ROADS)
@pytest.mark.parametrize("chunk", [7, 16])
def test_vectors_longer_than_a_call_to_the_library_may_be(comm, name, chunk, monkeypatch):
    """Spans differ by an element, so a rank may send one chunk more than it receives."""
    monkeypatch.setattr(mpi, "CHUNK", chunk)
    for n in (1, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 40):
        check_sums(comm, name, n, "float32")
        check_sums(comm, name, n, "int8")


@pytest.mark.parametrize("chunk", [1, 3, 8])
@pytest.mark.parametrize(("out", "landing"), [(0, 0), (0, 5), (8, 0), (8, 9), (24, 3), (3, 24)])
def test_both_sides_of_a_message_count_the_same_chunks(chunk, out, landing, monkeypatch):
    monkeypatch.setattr(mpi, "CHUNK", chunk)
    x, y = np.arange(out, dtype=np.uint8), np.arange(landing, dtype=np.uint8)
    pairs = list(mpi._pairs(x, y))
    for whole, cut in ((x, [a for a, _ in pairs if a is not None]), (y, [b for _, b in pairs if b is not None])):
        assert len(cut) == max(1, -(-whole.size // chunk))
        np.testing.assert_array_equal(np.concatenate(cut), whole)


def narrow(name):
    if name == "bfloat16":
        pytest.importorskip("ml_dtypes")
    return number_type(name)


@pytest.mark.parametrize("name", ROADS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits_are_summed_in_float32_and_rounded_once(name, dtype):
    """1 + 8 x 2^-13 is lost when each addition is rounded to 16 bits; in float32 it is exact."""
    kind = narrow(dtype)
    small = 2.0**-13 if dtype == "float16" else 2.0**-10

    def program(comm):
        x = np.full(9, 1.0 if comm.rank == 3 else small, np.float32).astype(kind)
        ROADS[name](comm, x)()
        return x

    expected = np.float32(1 + 8 * small).astype(kind)
    assert expected != np.float32(1).astype(kind)
    for x in simulated.run(9, program, hosts=list("abcabcaab")):
        assert x.dtype == kind
        assert (x == expected).all()


@pytest.mark.mpi
@pytest.mark.parametrize("name", ROADS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits_travel_in_a_real_world(comm, name, dtype):
    x = (np.arange(50, dtype=np.float32) * (comm.rank + 1) / 8).astype(narrow(dtype))
    inputs = [(np.arange(50, dtype=np.float32) * (rank + 1) / 8).astype(x.dtype).astype(np.float32) for rank in range(comm.size)]
    ROADS[name](comm, x)()
    np.testing.assert_array_equal(x, np.sum(inputs, axis=0).astype(x.dtype))


@pytest.mark.parametrize("name", ROADS)
def test_a_vector_with_gaps_is_refused_with_the_remedy(name):
    def program(comm):
        ROADS[name](comm, np.zeros(10)[::2])

    with pytest.raises(CommError, match="ascontiguousarray"):
        simulated.run(2, program)


@pytest.mark.parametrize("x", [np.zeros(3, bool), np.zeros(3, "datetime64[s]"), np.array(["a"]), np.zeros(2, [("a", "f4")])])
def test_what_is_no_number_is_refused(x):
    with pytest.raises(CommError, match="cannot be summed over ranks"):
        summable(x)


def test_a_matrix_is_summed_in_its_own_memory():
    def program(comm):
        x = np.full((3, 4), comm.rank + 1.0)
        library(comm, x)()
        return x

    for x in simulated.run(3, program):
        np.testing.assert_array_equal(x, np.full((3, 4), 6.0))


def test_bfloat16_without_its_library_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(CommError, match="pip install ml_dtypes"):
        number_type("bfloat16")


def test_an_unknown_type_is_refused():
    with pytest.raises(CommError, match="'floatish' is no type of number"):
        number_type("floatish")


def test_nodes_are_numbered_in_order_of_their_first_ranks():
    assert simulated.run(5, node_numbers, hosts=HOSTS) == [[0, 1, 0, 2, 2]] * 5


def test_every_road_but_the_librarys_tells_its_schedule():
    for name in ROADS:
        assert (schedule_of(name, [0, 0]) is None) == (name == "all-reduce")


@pytest.mark.mpi
def test_a_step_allocates_nothing(comm):
    """The vectors are far longer than everything that Python makes on the way."""
    import tracemalloc

    assert isinstance(comm, MpiCommunicator)
    x = np.ones(1 << 18, np.float32)
    runs = [ROADS[name](comm, x) for name in ROADS]
    for run in runs:
        run()
    tracemalloc.start()
    for run in runs:
        run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes // 8
