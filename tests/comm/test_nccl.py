"""NCCL as a communicator: where it cannot serve; its calls against a numpy-backed stand-in; and on GPUs, where there are some."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest

from hpcml.comm import Op, nccl, simulated, world
from hpcml.errors import DeviceError
from tests.laws import CommunicatorLaws

NAMES = ("INT8", "UINT8", "INT32", "UINT32", "INT64", "UINT64", "FLOAT32", "FLOAT64")


@pytest.mark.parametrize(
    ("hosts", "gpus", "reason"),
    [
        ("aa", ["0000:01", "0000:02"], ""),
        ("ab", ["0000:01", "0000:01"], ""),
        ("aba", ["0000:01", "0000:01", "0000:01"], "ranks 0 and 2 share the GPU 0000:01 of a, and it takes one rank a GPU"),
        ("aa", ["0000:01", None], "rank 1 on a: no driver"),
    ],
)
def test_why_it_cannot_serve_is_the_same_on_every_rank(hosts, gpus, reason):
    def program(comm):
        def place():
            if gpus[comm.rank] is None:
                raise RuntimeError("no driver\nand more")
            return gpus[comm.rank]

        return nccl.why_not(comm, place)

    assert simulated.run(len(hosts), program, list(hosts)) == [f"NCCL cannot be used: {reason}" if reason else ""] * len(hosts)


def test_where_it_cannot_serve_it_is_an_error_on_every_rank(monkeypatch):
    monkeypatch.setattr(nccl, "_library", lambda: (_ for _ in ()).throw(DeviceError("no library")))

    def program(comm):
        with pytest.raises(DeviceError, match="NCCL cannot be used: rank 0 on host0: no library"):
            nccl.NcclCommunicator(comm)

    simulated.run(2, program)


class OnDevice(np.ndarray):
    """A numpy array that stands for one in a device's memory: `data.ptr` says where."""

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)


def there(x):
    return np.ascontiguousarray(x).view(OnDevice)


class StandIn:
    """CuPy's NCCL, numpy-backed, over a simulated world; it reads memory through the pointers that it is given."""

    NCCL_SUM, NCCL_PROD, NCCL_MAX, NCCL_MIN = range(4)

    def __init__(self, host):
        self.host, self.group = host, None

    def memory(self, ptr, count, dtype):
        kind = np.dtype(NAMES[dtype].lower())
        return np.frombuffer((ctypes.c_char * (count * kind.itemsize)).from_address(ptr), kind)

    def groupStart(self):
        self.group = []

    def groupEnd(self):
        for send in (call for call in self.group if call[0] == "send"):
            self.host.exchange(send[1], send[2], None, None)
        for receive in (call for call in self.group if call[0] == "recv"):
            self.host.exchange(None, None, receive[1], receive[2])

    def send(self, buffer, count, dtype, peer, stream):
        self.group.append(("send", self.memory(buffer, count, dtype), peer))

    def recv(self, buffer, count, dtype, peer, stream):
        self.group.append(("recv", self.memory(buffer, count, dtype), peer))

    def allReduce(self, source, target, count, dtype, op, stream):
        assert source == target
        self.host.all_reduce(self.memory(target, count, dtype), {0: Op.SUM, 2: Op.MAX, 3: Op.MIN}[op])

    def broadcast(self, source, target, count, dtype, root, stream):
        assert source == target
        self.host.broadcast(self.memory(target, count, dtype), root)

    def allGather(self, source, target, count, dtype, stream):
        out = self.memory(target, count * self.host.size, dtype).reshape(self.host.size, count)
        self.host.all_gather(self.memory(source, count, dtype), out)


@pytest.fixture
def stand_in(monkeypatch):
    """Replace NCCL by the stand-in; return the constructor."""
    monkeypatch.setattr(nccl, "on_device", lambda x: isinstance(x, OnDevice))
    monkeypatch.setattr(nccl, "why_not", lambda host: "")
    monkeypatch.setattr(nccl, "_library", lambda: StandIn)
    monkeypatch.setattr(nccl, "_stream", lambda: 0)
    for number, name in enumerate(NAMES):
        monkeypatch.setattr(StandIn, f"NCCL_{name}", number, raising=False)

    monkeypatch.setattr(nccl, "_join", lambda library, host: StandIn(host))

    def make(comm):
        made = nccl.NcclCommunicator(comm)
        made._nccl = made._ring  # the group belongs to one rank of the simulated world, not to the module
        return made

    return make


class TestHostArraysFallThrough(CommunicatorLaws):
    @pytest.fixture(autouse=True)
    def _stand_in(self, stand_in):
        self.make = stand_in


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "uint8", "bool", "float16", "int16"])
@pytest.mark.parametrize("n", [0, 1, 97])
def test_device_arrays_through_the_stand_in(stand_in, dtype, n):
    def program(host):
        comm = stand_in(host)
        mine = [(np.arange(n) % 5 + rank).astype(dtype) for rank in range(comm.size)]
        x = there(mine[comm.rank].copy())
        comm.all_reduce(x)
        expected = np.sum(mine, axis=0, dtype=dtype) if dtype != "bool" else np.any(mine, axis=0)
        np.testing.assert_array_equal(x, expected)
        comm.all_gather(there(mine[comm.rank]), out := there(np.zeros((comm.size, n), dtype)))
        np.testing.assert_array_equal(out, np.stack(mine))
        y = there(mine[comm.rank].copy())
        comm.broadcast(y, comm.size - 1)
        np.testing.assert_array_equal(y, mine[-1])
        after, before = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
        comm.exchange(there(mine[comm.rank]), after, into := there(np.zeros(n, dtype)), before)
        np.testing.assert_array_equal(into, mine[before])

    for size in (1, 2, 3):
        simulated.run(size, program)


@pytest.mark.gpu
def test_on_a_gpu_with_one_rank():
    """A world of one uses every call of the real library; more ranks need more GPUs."""
    import cupy

    comm = nccl.NcclCommunicator(world())
    x = cupy.arange(9, dtype=cupy.float32)
    comm.all_reduce(x)
    comm.broadcast(x)
    out = cupy.zeros((1, 9), cupy.float32)
    comm.all_gather(x, out)
    into = cupy.zeros_like(x)
    comm.exchange(x, 0, into, 0)
    assert out[0].get().tolist() == into.get().tolist() == list(range(9))
