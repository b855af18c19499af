from __future__ import annotations

import numpy as np
import pytest

from hpcml.arrays import blas


@pytest.fixture
def openblas():
    before = blas.threads()
    if before is None:
        pytest.skip("numpy here stands on another BLAS than OpenBLAS")
    yield
    blas.limit_threads(before)


def test_the_threads_that_were_set_are_those_in_use(openblas):
    for count in (1, 2, 1):
        assert blas.limit_threads(count)
        assert blas.threads() == count


def test_the_kernel_is_named_with_its_version(openblas):
    assert blas.kernel().startswith("OpenBLAS ")
    assert len(blas.kernel().split()) == 3
    assert blas.kernel() == blas.kernel()


def test_a_blas_that_tells_nothing_is_no_error(monkeypatch):
    monkeypatch.setattr(blas, "_function", lambda name: None)
    assert blas.threads() is None
    assert blas.limit_threads(3) is False
    assert blas.kernel() == "unknown"


def test_one_shape_under_one_thread_always_has_the_same_bits(openblas):
    blas.limit_threads(1)
    random = np.random.default_rng(0)
    a, b = random.standard_normal((65, 130)).astype(np.float32), random.standard_normal((130, 33)).astype(np.float32)
    assert len({(a.copy() @ b.copy()).tobytes() for _ in range(5)}) == 1
