"""Rows reach a device whole and in time, however late or early its streams run."""

from __future__ import annotations

import sys

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcml.arrays.device import Device
from hpcml.arrays.feeds import DeviceFeed, HostFeed, feed
from hpcml.data import Loader, Sampler, open_shards
from tests.arrays.late_device import LateDevice


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("feeds") / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(90, dtype="f4").reshape(30, 3)
        file["y"] = np.arange(30)
        file["w"] = np.linspace(0, 1, 30)
    with open_shards(path, weights="w") as shards:
        yield shards


def kernel(device, batches, results):
    """Give the device work that reads a step's batches later."""
    device.compute.add(lambda: results.append([(np.array(b.x), np.array(b.y), np.array(b.weights)) for b in batches]))


@given(seed=st.integers(0, 1 << 30), batch=st.integers(3, 12), workers=st.integers(1, 3), leave=st.integers(0, 9), slow=st.booleans())
def test_kernels_find_their_rows_in_any_order_that_the_streams_allow(data, seed, batch, workers, leave, slow):
    device, results, expected = LateDevice(seed), [], []
    sampler = Sampler(data.shard_rows, batch, workers, 7, block=2, window=2)
    host = Loader(data, sampler, range(workers))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", device.cupy)
        loader = Loader(data, sampler, range(workers), ahead=1, device=Device(0))
        for epoch in range(2):
            steps = loader.batches(epoch)
            for number, (batches, same) in enumerate(zip(steps, host.batches(epoch), strict=False)):
                kernel(device, batches, results)
                expected.append([(b.x.copy(), b.y.copy(), b.weights.copy()) for b in same])
                if slow:  # the host waits for its loss, as a training step does
                    device.run(lambda: len(results) == len(expected))
                if number == leave:
                    break
            steps.close()
    device.finish()
    assert len(results) == len(expected)
    for found, right in zip(results, expected, strict=True):
        for a, b in zip(found, right, strict=True):
            for x, y in zip(a, b, strict=True):
                np.testing.assert_array_equal(x, y)


def test_the_next_step_is_on_its_way_before_the_kernels_of_this_one_have_ended(data):
    device, results = LateDevice(0), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", device.cupy)
        made = DeviceFeed(0)
        first, second = (made.allocate(4, np.float32) for _ in range(2))
        first[:], second[:] = 1, 2
        (one,) = made.start([first])
        made.arrive()
        device.compute.add(lambda: results.append(np.array(one)), lambda: (two == 2).all())  # a kernel that outlasts the next copy
        (two,) = made.start([second])
        device.finish()
    np.testing.assert_array_equal(results, [[1, 1, 1, 1]])


def test_pinned_memory_is_zeroed_and_aligned_and_nothing_is_no_copy():
    device = LateDevice(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", device.cupy)
        made = feed(Device(0))
        memory = made.allocate((3, 5), np.float64)
        assert (memory.ctypes.data % 64, memory.shape, memory.sum()) == (0, (3, 5), 0)
        twins = made.start([None, memory[:0], memory])
        made.drain()
        assert twins[0] is None
        assert [twin.shape for twin in twins[1:]] == [(0, 5), (3, 5)]


def test_host_memory_needs_no_moving():
    made = feed(Device())
    x = np.ones(3)
    assert isinstance(made, HostFeed)
    assert made.start([x, None]) == [x, None]


@pytest.mark.gpu
def test_rows_on_a_real_device_are_those_of_the_host(data):
    import cupy

    sampler = Sampler(data.shard_rows, 7, 2, 7, block=2, window=2)
    loader, host = Loader(data, sampler, range(2), device=Device(0)), Loader(data, sampler, range(2))
    for epoch in range(3):
        for batches, same in zip(loader.batches(epoch), host.batches(epoch), strict=True):
            for there, here in zip(batches, same, strict=True):
                cupy.sin(cupy.ones(1 << 22, cupy.float32))  # kernels that are still busy
                np.testing.assert_array_equal(cupy.asnumpy(there.x * 2), here.x * 2)
                np.testing.assert_array_equal(cupy.asnumpy(there.y), here.y)
