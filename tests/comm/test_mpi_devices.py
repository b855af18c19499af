"""What lies on a device never reaches the MPI library unless told to: on every rank of a real world, with a stand-in for device arrays."""

from __future__ import annotations

import numpy as np
import pytest

from hpcml.comm.mpi import MpiCommunicator
from hpcml.comm.staging import Staging
from hpcml.errors import CommError
from tests.comm.late_chunks import LateChunks

pytestmark = pytest.mark.mpi


class OnDevice(np.ndarray):
    """A numpy array that stands for one in a device's memory."""


def there(x):
    return np.ascontiguousarray(x).view(OnDevice)


@pytest.fixture
def staged(comm, monkeypatch):
    """The world, for which OnDevice arrays are device arrays; what the host part of the library is given is recorded."""
    if not isinstance(comm, MpiCommunicator):
        pytest.skip("there is no MPI library here")
    monkeypatch.setattr("hpcml.comm.mpi.on_device", lambda x: isinstance(x, OnDevice))
    monkeypatch.setattr("hpcml.comm.mpi.settle", lambda x: None)
    monkeypatch.setattr(comm, "_staging", Staging(comm, LateChunks, 64 * 5))
    return comm


@pytest.mark.parametrize("n", [0, 1, 79, 80, 81, 1000])
def test_all_operations_stage(staged, monkeypatch, n):
    comm, numbers = staged, np.arange(n, dtype=np.float32)
    sizes = []
    chunks = staged._staging._make
    monkeypatch.setattr(LateChunks, "fetch", lambda self, k, x, fetch=LateChunks.fetch: (sizes.append(x.size), fetch(self, k, x)))
    x = there(numbers + comm.rank)
    comm.all_reduce(x)
    np.testing.assert_array_equal(x, comm.size * numbers + sum(range(comm.size)))
    out = there(np.zeros((comm.size, n), np.float32))
    comm.all_gather(there(numbers + comm.rank), out)
    np.testing.assert_array_equal(out, numbers + np.arange(comm.size)[:, None])
    y = there(numbers * (comm.rank + 1))
    comm.broadcast(y, comm.size - 1)
    np.testing.assert_array_equal(y, numbers * comm.size)
    if comm.size > 1:
        after, before = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
        comm.exchange(there(numbers + comm.rank), after, into := there(np.zeros(n, np.float32)), before)
        np.testing.assert_array_equal(into, numbers + before)
    assert chunks is LateChunks
    assert sum(sizes) >= 4 * n * (2 if comm.size == 1 else 3)


def test_sixteen_bit_floats_are_summed_in_float32(staged):
    x = there(np.full(3, 1.0 if staged.rank else 2048.0, np.float16))
    staged.all_reduce(x)
    assert (np.asarray(x) == np.float16(2048 + (staged.size - 1))).all()  # in float16 2048 + 1 is 2048


def test_host_and_device_memory_in_one_exchange_are_refused(staged):
    with pytest.raises(CommError, match="one array of an operation lies on a device"):
        staged.exchange(there(np.zeros(3)), staged.rank, np.zeros(3), staged.rank)
    staged.barrier()


def test_a_library_that_takes_device_arrays_is_handed_them(staged, monkeypatch):
    monkeypatch.setattr(LateChunks, "fetch", lambda *given: pytest.fail("staged"))
    direct = staged.handing_over()
    x = there(np.full(100, 1.0))
    direct.all_reduce(x)
    direct.by_node()[0].broadcast(x)
    assert (np.asarray(x) == staged.size).all()


def test_a_shorter_message_than_expected_is_an_error_not_old_numbers(comm):
    if comm.size == 1:
        return
    if comm.rank == 0:
        comm.exchange(np.zeros(3), 1, None, None)
    elif comm.rank == 1:
        with pytest.raises(CommError, match=r"rank 1 expected 32 bytes from rank 0, got 24"):
            comm.exchange(None, None, np.zeros(4), 0)
    comm.barrier()
