"""The device's compiler, where its wheel is at hand."""

from __future__ import annotations

import pytest


def nvrtc():
    """Return CuPy's binding of the compiler, which needs no GPU, or skip."""
    try:
        from cupy_backends.cuda.libs import nvrtc as found

        found.getVersion()
    except Exception as problem:  # CuPy raises errors of many kinds where a library is missing
        pytest.skip(f"no NVRTC here (pip install 'hpcml[cuda12]' nvidia-cuda-nvrtc-cu12): {problem}")
    return found
