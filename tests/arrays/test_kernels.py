"""The two twins of every fused step have the same bits: numpy's passes, and the kernel's own words, compiled for host and device."""

from __future__ import annotations

import ctypes
import itertools
import re
import shutil
import subprocess

import numpy as np
import pytest

from hpcml.arrays import kernels
from tests.arrays.nvrtc import nvrtc

DTYPES = {"float": np.float32, "double": np.float64}
HOST_LOOP = """
#include <cmath>
using std::sqrt;
typedef {type} T;
extern "C" void {name}(long n, const T* g_, const T* s_{pointers}) {{
  {scalars}
  for (long i = 0; i < n; i++) {{
    const T g = g_[i]; {references}
    {body}
  }}
}}
"""
DEVICE_LOOP = """
typedef {type} T;
extern "C" __global__ void {name}(long n, const T* g_, const T* s_{pointers}) {{
  {scalars}
  for (long i = blockIdx.x * (long)blockDim.x + threadIdx.x; i < n; i += blockDim.x * (long)gridDim.x) {{
    const T g = g_[i]; {references}
    {body}
  }}
}}
"""


def source(kernel, number, loop, kind):
    """Return the kernel's own body in a loop over plain memory."""
    return loop.format(
        type=kind,
        name=f"{kernel.name}_{number}",
        pointers="".join(f", T* {name}_" for name in kernel.written),
        scalars=" ".join(f"const T {name} = s_[{k}];" for k, name in enumerate(kernel.scalars)),
        references=" ".join(f"T& {name} = {name}_[i];" for name in kernel.written),
        body=kernel.body,
    )


@pytest.fixture(scope="module", params=DTYPES)
def compiled(request, tmp_path_factory):
    """Every kernel's body compiled by the host's C++ compiler, without fused multiply-add as on the device."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler here: the kernels' words cannot be run on the host")
    folder = tmp_path_factory.mktemp(request.param)
    libraries = []
    for number, kernel in enumerate(kernels.kernels()):
        code, library = folder / f"{number}.cpp", folder / f"{number}.so"
        code.write_text(source(kernel, number, HOST_LOOP, request.param))
        subprocess.run([compiler, "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-o", library, code], check=True)
        libraries.append(ctypes.CDLL(str(library)))
    return DTYPES[request.param], libraries


def run_on_host(compiled):
    """Return a stand-in for Kernel.run that runs the compiled body on numpy arrays."""
    dtype, libraries = compiled

    def run(kernel, g, written, scalars):
        number = kernels.kernels().index(kernel)
        values = np.array([g.dtype.type(value) for value in scalars], dtype)
        pointers = [ctypes.c_void_p(x.ctypes.data) for x in (g, values, *written)]
        getattr(libraries[number], f"{kernel.name}_{number}")(ctypes.c_long(g.size), *pointers)

    return run


def vectors(dtype, count, n=1003):
    random = np.random.default_rng(5)
    values = (random.standard_normal((count, n)) * 10.0 ** random.integers(-6, 6, n)).astype(dtype)
    np.abs(values[3], out=values[3])  # the second state of AdamW is a mean of squares, AdaGrad's a sum
    return list(values)


RULES = {
    **{
        f"sgd {m} {nesterov} {decay}": (kernels.sgd, {"rate": 0.1, "momentum": m, "nesterov": nesterov, "decay": decay})
        for m, nesterov, decay in itertools.product((0.0, 0.9), (False, True), (0.0, 0.013))
        if m or not nesterov
    },
    "adamw": (kernels.adamw, {"rate": 0.003, "betas": (0.9, 0.999), "epsilon": 1e-8, "decay": 0.01}),
    "adagrad": (kernels.adagrad, {"rate": 0.1, "epsilon": 1e-10, "decay": 0.0}),
    "adagrad decay": (kernels.adagrad, {"rate": 0.1, "epsilon": 1e-10, "decay": 0.013}),
    "lars": (kernels.lars, {"rate": 0.1, "momentum": 0.9, "decay": 0.0}),
    "lars decay": (kernels.lars, {"rate": 0.1, "momentum": 0.9, "decay": 0.013}),
}


def three_steps(step, options, p, gradients, v, w, scratch):
    """Take three steps from the same start; gradients are copied, since a step may overwrite them."""
    for number, gradient in enumerate(gradients):
        g = gradient.copy()
        if step is kernels.adamw:
            step(p, g, (v, w), scratch, number, **options)
        elif step is kernels.sgd:
            step(p, g, v if options["momentum"] else None, scratch, **options)
        elif step is kernels.adagrad:
            step(p, g, w, scratch, **options)
        else:
            step(p, g, v, scratch, **options)


@pytest.mark.parametrize("name", RULES)
def test_the_kernels_words_have_numpys_bits(compiled, monkeypatch, name):
    step, options = RULES[name]
    dtype = compiled[0]
    p, v, scratch, w, *gradients = vectors(dtype, 7)
    mine = [x.copy() for x in (p, v, w)]
    three_steps(step, options, p, gradients, v, w, scratch)
    monkeypatch.setattr(kernels.Kernel, "run", lambda self, *rest: run_on_host(compiled)(self, *rest))
    monkeypatch.setattr(kernels, "namespace", lambda x: "a device")
    three_steps(step, options, mine[0], gradients, mine[1], mine[2], scratch)
    for ours, theirs in zip(mine, (p, v, w), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_device_never_runs_numpys_passes(monkeypatch):
    launched = []
    monkeypatch.setattr(kernels.Kernel, "run", lambda self, *rest: launched.append(self))
    monkeypatch.setattr(kernels, "namespace", lambda x: "a device")
    for step, options in RULES.values():
        three_steps(step, options, *[np.zeros(3)], [np.zeros(3)], *[np.zeros(3)] * 3)
    assert len(launched) == len(RULES)
    assert set(launched) == set(kernels.kernels())


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("number", range(len(kernels.kernels())))
def test_nvrtc_compiles_every_kernel_without_fused_multiply_add(number, kind):
    compiler = nvrtc()
    text = source(kernels.kernels()[number], number, DEVICE_LOOP, kind)
    program = compiler.createProgram(text, "step.cu", (), ())
    compiler.compileProgram(program, ("--gpu-architecture=compute_80", "--fmad=false"))
    ptx = compiler.getPTX(program)
    assert not re.search(rb"\bfma\.", ptx)
    assert re.search(rb"\bmul\.(rn\.)?f(32|64)", ptx)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", RULES)
def test_a_gpu_has_numpys_bits(name, dtype):
    import cupy

    step, options = RULES[name]
    p, v, scratch, w, *gradients = vectors(dtype, 7)
    there = [cupy.asarray(x) for x in (p, v, w, scratch)]
    three_steps(step, options, p, gradients, v, w, scratch)
    three_steps(step, options, there[0], [cupy.asarray(g) for g in gradients], there[1], there[2], there[3])
    for device, host in zip(there, (p, v, w), strict=False):
        np.testing.assert_array_equal(device.get(), host)
