from __future__ import annotations

import numpy as np
import pytest

from hpcml.arrays import aligned
from hpcml.nn import Workspace


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i8", "?"])
@pytest.mark.parametrize("shape", [0, 1, 7, (0, 3), (3, 5), (2, 3, 4)])
def test_aligned_memory_is_zero_contiguous_and_starts_on_a_cache_line(shape, dtype):
    x = aligned(shape, dtype)
    assert x.shape == np.empty(shape).shape
    assert x.dtype == np.dtype(dtype)
    assert x.flags.c_contiguous
    assert x.flags.writeable
    assert x.size == 0 or x.ctypes.data % 64 == 0
    assert not x.any()


def test_two_arrays_share_no_memory():
    assert not np.shares_memory(aligned(5, "f4"), aligned(5, "f4"))


def test_a_workspace_gives_the_same_memory_for_the_same_name_and_grows_only_when_it_must(xp):
    work, like = Workspace(), xp.zeros(1, xp.float32)
    first = work.take("a", (4, 3), like)
    assert work.take("a", (2, 3), like).base is not None
    first[:] = 7
    assert bool((work.take("a", (4, 3), like) == 7).all())
    larger = work.take("a", (9, 3), like)
    assert larger.shape == (9, 3)
    larger[:] = 5
    assert bool((work.take("a", (4, 3), like) == 5).all())
    assert bool((first == 7).all())
    assert work.take("a", (4, 3), like, bool).dtype == bool
    other = work.take("b", (4, 3), like)
    other[:] = 1
    assert work.take("b", (4, 2), like).shape == (4, 2)
