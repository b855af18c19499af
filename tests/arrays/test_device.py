from __future__ import annotations

import sys

import numpy as np
import pytest

from hpcml.arrays import Device, choose_device, namespace, to_host
from hpcml.arrays import device as module
from hpcml.arrays.device import gpus
from hpcml.errors import ConfigError, DeviceError


def test_an_array_says_which_module_works_on_it(xp):
    assert namespace(xp.zeros(3)) is xp
    assert namespace(xp.zeros(3).sum()) is xp


@pytest.mark.parametrize("x", [[1.0], 3, None, "array", memoryview(b"x")])
def test_what_is_no_array_is_refused(x):
    with pytest.raises(TypeError, match=r"expected a numpy or cupy array, got \w+; convert it with numpy\.asarray"):
        namespace(x)


def test_to_host_gives_a_numpy_array_and_host_arrays_as_they_are(xp):
    x = xp.arange(4)
    host = to_host(x)
    assert isinstance(host, np.ndarray)
    assert host.tolist() == [0, 1, 2, 3]
    assert xp is not np or host is x


def test_the_cpu_places_arrays_where_they_are():
    x = np.zeros(3)
    assert Device().place(x) is x
    Device().activate()
    assert (Device().name, Device(2).name) == ("cpu", "gpu:2")


@pytest.mark.parametrize("local_rank", [0, 5])
def test_the_cpu_can_always_be_chosen(local_rank):
    assert choose_device("cpu", local_rank) == Device()


@pytest.mark.parametrize("choice", ["GPU", "cuda", "", "gpu:0"])
def test_an_unknown_choice_names_the_known_ones(choice):
    with pytest.raises(ConfigError, match=f"run.device is {choice!r}; choose one of auto, cpu, gpu"):
        choose_device(choice)


def test_an_empty_list_of_visible_gpus_is_no_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus() == 0
    assert choose_device("auto") == Device()
    with pytest.raises(DeviceError, match=r"CUDA_VISIBLE_DEVICES is empty.*set run\.device to \"cpu\" or \"auto\""):
        choose_device("gpu")


def test_a_missing_cupy_is_named_with_how_to_get_it(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert choose_device("auto") == Device()
    with pytest.raises(DeviceError, match=r"CuPy is not installed \(pip install 'hpcml\[cuda12\]'"):
        choose_device("gpu")


class BrokenDriver:
    """A cupy whose driver is too old."""

    class cuda:
        class runtime:
            @staticmethod
            def getDeviceCount():
                raise RuntimeError("cudaErrorInsufficientDriver")


def test_a_driver_that_does_not_work_is_named(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "cupy", BrokenDriver)
    assert choose_device("auto") == Device()
    with pytest.raises(DeviceError, match="cudaErrorInsufficientDriver"):
        choose_device("gpu")


@pytest.mark.parametrize(("count", "places"), [(1, [0, 0, 0, 0]), (2, [0, 1, 0, 1]), (4, [0, 1, 2, 3]), (8, [0, 1, 2, 3])])
def test_the_ranks_of_a_node_take_its_gpus_in_turn(monkeypatch, count, places):
    monkeypatch.setattr(module, "_probe", lambda: (count, ""))
    assert [choose_device("auto", k).index for k in range(4)] == places
    assert [choose_device("gpu", k).index for k in range(4)] == places


def test_a_node_whose_driver_sees_no_gpu_says_so(monkeypatch):
    monkeypatch.setattr(module, "_probe", lambda: (0, "the driver reports no GPU"))
    with pytest.raises(DeviceError, match=r'run\.device is "gpu", but the driver reports no GPU'):
        choose_device("gpu")


@pytest.mark.gpu
def test_a_gpu_takes_a_copy(xp):
    host = np.arange(3.0)
    placed = Device(0).place(host)
    placed += 1
    assert host.tolist() == [0, 1, 2]
    assert to_host(placed).tolist() == [1, 2, 3]
