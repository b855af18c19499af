"""A stand-in for a GPU: the words of `arrays/fused.py`, compiled by the host's C++ compiler, block after block.

The threads of a block are threads of the host that meet where CUDA's do, so a missing meeting shows as a race, a wrong index as a
wrong number.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from hpcml.arrays import fused

WORLD = """
#include <algorithm>
#include <barrier>
#include <cmath>
#include <thread>
#include <vector>
struct Place { unsigned x = 0, y = 0; };
static thread_local Place threadIdx;
static Place blockIdx, blockDim, gridDim;
static std::barrier<>* meeting;
#define __global__
#define __device__ static
#define __shared__ static
static void __syncthreads() { meeting->arrive_and_wait(); }
"""
CALL = """
extern "C" void call_{name}(unsigned threads, unsigned wide, unsigned high, {parameters}) {{
  blockDim.x = threads; gridDim = {{wide, high}};
  for (unsigned row = 0; row < high; row++) for (unsigned column = 0; column < wide; column++) {{
    blockIdx = {{column, row}};
    std::barrier<> here(threads);
    meeting = &here;
    if (threads == 1) {{ threadIdx.x = 0; {name}({names}); continue; }}
    std::vector<std::thread> all;
    for (unsigned thread = 0; thread < threads; thread++) all.emplace_back([=] {{ threadIdx.x = thread; {name}({names}); }});
    for (auto& one : all) one.join();
  }}
}}
"""


def signatures():
    """Return name -> parameters of each kernel in the source."""
    found = {}
    for text in fused.SOURCE.split('extern "C" __global__ void ')[1:]:
        name, _, rest = text.partition("(")
        found[name] = " ".join(rest.partition(")")[0].split())
    return found


def compile_kernels(alone=False):
    """Return a function like `fused.launch` that runs blocks on numpy arrays; skip where no C++20 compiler is.

    Args:
        alone: blocks of one thread where the words allow it, for tests that are not about the words: a hundred times as fast.
    """
    functions = _compiled()

    def run(name, grid, *arguments):
        if grid[0] and grid[1]:
            threads = 64 if "columns" in name else 1 if alone else 64 if grid[0] < 4 else 8
            getattr(functions, f"call_{name}")(threads, *grid, *map(_passed, arguments))

    return run


@cache
def _compiled():
    """Return the library, compiled once a session."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler here: the kernels' words cannot be run on the host")
    calls = [
        CALL.format(name=name, parameters=words, names=", ".join(word.split()[-1].lstrip("*") for word in words.split(",")))
        for name, words in signatures().items()
    ]
    with TemporaryDirectory() as folder:
        code, library = Path(folder) / "fused.cpp", Path(folder) / "fused.so"
        code.write_text(WORLD + fused.SOURCE + "".join(calls))
        made = subprocess.run([compiler, "-std=c++20", "-O1", "-pthread", "-shared", "-fPIC", "-o", library, code], capture_output=True)
        if b"barrier" in made.stderr and made.returncode:
            pytest.skip("the C++ compiler here has no std::barrier: the kernels' words cannot be run on the host")
        assert made.returncode == 0, made.stderr.decode()
        return ctypes.CDLL(str(library))


def _passed(value):
    if isinstance(value, np.ndarray):
        assert value.flags.c_contiguous
        return ctypes.c_void_p(value.ctypes.data)
    return ctypes.c_longlong(int(value)) if isinstance(value, np.int64) else ctypes.c_float(float(value))
