"""Seconds of an optimizer's step on one device, beside those of a plain copy of the same bytes: the memory's own limit."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from hpcml.arrays import Array, Device, namespace, on_device, stream
from hpcml.arrays.pinned import settle
from hpcml.optim import Rule, Scratch, apply_whole

Fields = dict[str, float]


def rule_row(rule: Rule, n: int, device: Device, repeats: int) -> Fields:
    """Return seconds, GB/s and share of the copy's GB/s of one step of a rule over n float32 parameters.

    Counted are the bytes that a step must touch: the gradient read, parameters and states read and written.
    """
    random = stream(0, "bench")
    data, grad = (device.place(random.standard_normal(n, dtype=np.float32)) for _ in range(2))
    state = namespace(data).zeros((rule.slots, n), np.float32)
    work = Scratch(data, [slice(0, n)])
    seconds = median_seconds(lambda: apply_whole(rule, data, grad, state, 0, work), data, repeats)
    rate = (1 + 2 * (1 + rule.slots)) * data.nbytes / seconds / 1e9
    return {"seconds": seconds, "gb_per_second": rate, "of_copy": rate / copy_row(n, device, repeats)["gb_per_second"]}


def copy_row(n: int, device: Device, repeats: int) -> Fields:
    """Return seconds and GB/s, read and written, of a copy of n float32 numbers."""
    x = device.place(np.ones(n, np.float32))
    y = namespace(x).empty_like(x)

    def copy() -> None:
        y[...] = x

    seconds = median_seconds(copy, x, repeats)
    return {"seconds": seconds, "gb_per_second": 2 * x.nbytes / seconds / 1e9}


def median_seconds(run: Callable[[], None], x: Array, repeats: int) -> float:
    """Return the median seconds of a call, the end of its work on the device of x included; the first call is not counted."""
    taken = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        run()
        if on_device(x):
            settle(x)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])
