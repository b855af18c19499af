"""Which device the numbers live on: the array itself says so, and one choice at the start decides."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcml.errors import ConfigError, DeviceError

Array = Any
"""A numpy or cupy array; functions say which shapes and dtypes they take."""

CHOICES = ("auto", "cpu", "gpu")


def namespace(x: Array) -> Any:
    """Return the module, numpy or cupy, whose functions work on x."""
    if isinstance(x, np.ndarray | np.generic):
        return np
    if type(x).__module__.partition(".")[0] == "cupy":
        import cupy

        return cupy
    raise TypeError(f"expected a numpy or cupy array, got {type(x).__name__}; convert it with numpy.asarray")


def on_device(x: Array) -> bool:
    """Return whether x lives on a device, not in host memory."""
    return namespace(x) is not np


def to_host(x: Array) -> np.ndarray:
    """Return x as a numpy array: x itself when it lives in host memory, else a copy that waits for the device."""
    return x if namespace(x) is np else x.get()


def address(x: Array) -> int:
    """Return where in memory x begins, in the device's or the host's."""
    return int(x.data.ptr) if on_device(x) else int(x.ctypes.data)


@dataclass(frozen=True, slots=True)
class Device:
    """One place for arrays: host memory (``index`` None) or one GPU of this node."""

    index: int | None = None

    @property
    def name(self) -> str:
        """Return "cpu" or "gpu:N"."""
        return "cpu" if self.index is None else f"gpu:{self.index}"

    @property
    def model(self) -> str:
        """Return "cpu", or what the GPU calls itself, such as "NVIDIA H100"."""
        if self.index is None:
            return "cpu"
        import cupy

        return str(cupy.cuda.runtime.getDeviceProperties(self.index)["name"].decode())

    def place(self, x: np.ndarray) -> Array:
        """Return x on this device: x itself on the CPU, a copy on a GPU."""
        if self.index is None:
            return x
        import cupy

        with cupy.cuda.Device(self.index):
            return cupy.asarray(x)

    def activate(self) -> None:
        """Make this device the current one of the calling thread."""
        if self.index is not None:
            import cupy

            cupy.cuda.Device(self.index).use()


def gpus() -> int:
    """Return how many GPUs this process can use; 0 where CuPy or a driver is missing."""
    return _probe()[0]


def choose_device(choice: str = "auto", local_rank: int = 0) -> Device:
    """Return the device of the rank that is number `local_rank` of its node.

    Args:
        choice: "cpu", "gpu", or "auto": a GPU where there is one, else the CPU.
        local_rank: position among the ranks of this node; ranks share GPUs in turn when they outnumber them.

    Raises:
        ConfigError: if the choice is none of the three.
        DeviceError: if "gpu" is asked for and none can be used; the message says why.
    """
    if choice not in CHOICES:
        raise ConfigError(f"run.device is {choice!r}; choose one of {', '.join(CHOICES)}")
    if choice == "cpu":
        return Device()
    count, why = _probe()
    if count:
        return Device(local_rank % count)
    if choice == "gpu":
        raise DeviceError(f'run.device is "gpu", but {why}; set run.device to "cpu" or "auto", or start on a node with a GPU')
    return Device()


def _probe() -> tuple[int, str]:
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return 0, "CUDA_VISIBLE_DEVICES is empty, so no GPU is visible to this process"
    try:
        import cupy
    except ImportError:
        return 0, "CuPy is not installed (pip install 'hpcml[cuda12]' or 'hpcml[cuda13]')"
    try:
        return int(cupy.cuda.runtime.getDeviceCount()), "the driver reports no GPU"
    except Exception as error:  # CuPy raises its own classes, by version: any of them means that no GPU can be used
        return 0, f"CuPy finds no usable GPU ({error})"
