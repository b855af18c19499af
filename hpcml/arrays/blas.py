"""The BLAS behind numpy: which kernel it chose for this CPU, and how many threads it may use.

The same product has the same bits only under the same kernel and the same number of threads,
so exact runs fix the threads and record both. numpy offers no call for either; OpenBLAS, which
its wheels carry, does, so it is asked through ctypes. Costs one look at the process's loaded libraries.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

import numpy as np

_PREFIXES = (("scipy_openblas_", "64_"), ("scipy_openblas_", ""), ("openblas_", "64_"), ("openblas_", ""))


@cache
def _library() -> tuple[ctypes.CDLL, str, str] | None:
    """Return the loaded OpenBLAS with the prefix and suffix of its names, or None."""
    np.dot(np.ones(1), np.ones(1))
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    paths = {line.split()[-1] for line in maps.read_text().splitlines() if "openblas" in line.lower()}
    for path in sorted(paths):
        if not os.path.isfile(path):
            continue
        library = ctypes.CDLL(path)
        for prefix, suffix in _PREFIXES:
            if hasattr(library, f"{prefix}set_num_threads{suffix}"):
                return library, prefix, suffix
    return None


def _function(name: str) -> ctypes._NamedFuncPointer | None:
    found = _library()
    if found is None:
        return None
    library, prefix, suffix = found
    return getattr(library, f"{prefix}{name}{suffix}", None)


def limit_threads(threads: int) -> bool:
    """Let BLAS use `threads` threads from now on; return whether the library could be told."""
    function = _function("set_num_threads")
    if function is None:
        return False
    function(ctypes.c_int(threads))
    return True


def threads() -> int | None:
    """Return how many threads BLAS uses, or None where the library does not tell."""
    function = _function("get_num_threads")
    return None if function is None else int(function())


def kernel() -> str:
    """Return the name of the BLAS kernel in use, such as "OpenBLAS 0.3.31 Zen"; "unknown" where it does not tell."""
    core, config = _function("get_corename"), _function("get_config")
    if core is None or config is None:
        return "unknown"
    core.restype = config.restype = ctypes.c_char_p
    version = " ".join(config().decode().split()[:2])
    return f"{version} {core().decode()}"
