"""One optimizer step over a block, as twins: numpy passes over a block that stays in cache, or one kernel over a whole vector on a GPU.

Letters: m elements; p (m,) parameters, g (m,) gradient, v and w (m,) states, all of one dtype T, float32 or float64. Both twins round after
every operation, in the same order (kernels are compiled without fused multiply-add, which costs nothing: memory is the limit), so
by IEEE arithmetic they have the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from hpcml.arrays.device import Array, namespace


@dataclass(frozen=True, slots=True)
class Kernel:
    """A fused step in the words of CUDA: g and the scalars are read, `written` are read and overwritten, all of one type T."""

    name: str
    written: tuple[str, ...]
    scalars: tuple[str, ...]
    body: str

    def run(self, g: Array, written: Sequence[Array], scalars: Sequence[float]) -> None:
        """Overwrite the written cupy arrays in one launch on the current stream; scalars round to the arrays' dtype, as numpy's do."""
        _compiled(self)(g, *[g.dtype.type(value) for value in scalars], *written)


@cache
def _compiled(kernel: Kernel) -> Any:
    import cupy

    reads = ", ".join(f"T {name}" for name in ("g", *kernel.scalars))
    writes = ", ".join(f"T {name}" for name in kernel.written)
    return cupy.ElementwiseKernel(reads, writes, kernel.body, f"hpcml_{kernel.name}", options=("--fmad=false",))


@cache
def sgd_kernel(momentum: bool, nesterov: bool, decay: bool) -> Kernel:
    """Return the kernel of `sgd` with only the terms that are used."""
    lines = ["T slope = g;"]
    if decay:
        lines.append("slope += p * decay;")
    if momentum:
        lines.append("v = v * momentum + slope;")
        lines.append("slope += v * momentum;" if nesterov else "slope = v;")
    lines.append("p -= slope * rate;")
    return Kernel("sgd", ("p", "v") if momentum else ("p",), ("rate", "momentum", "decay"), "\n".join(lines))


def sgd(p: Array, g: Array, v: Array | None, scratch: Array, *, rate: float, momentum: float, nesterov: bool, decay: float) -> None:
    """Overwrite p and v, and g and scratch with anything: v = momentum v + g + decay p; p = p - rate v, as `optim.SGD` says."""
    if namespace(p) is not np:
        kernel = sgd_kernel(v is not None, nesterov, bool(decay))
        kernel.run(g, (p,) if v is None else (p, v), (rate, momentum, decay))
        return
    if decay:
        np.multiply(p, decay, out=scratch)
        g += scratch
    if v is not None:
        v *= momentum
        v += g
        if nesterov:
            np.multiply(v, momentum, out=scratch)
            g += scratch
        else:
            g = v
    np.multiply(g, rate, out=scratch)
    p -= scratch


ADAMW = Kernel(
    "adamw",
    ("p", "v", "w"),
    ("keep", "beta1", "rest1", "beta2", "rest2", "root", "epsilon", "scale"),
    "v = v * beta1 + g * rest1;\nw = w * beta2 + g * g * rest2;\np = p * keep - v / (sqrt(w) / root + epsilon) * scale;",
)
"""The kernel of `adamw`: keep = 1 - rate decay, rest = 1 - beta, root and scale correct the bias of both means."""


def adamw(
    p: Array,
    g: Array,
    states: tuple[Array, Array],
    scratch: Array,
    step: int,
    *,
    rate: float,
    betas: tuple[float, float],
    epsilon: float,
    decay: float,
) -> None:
    """Overwrite p and both states by step number `step`, counted from 0, and g and scratch with anything, as `optim.AdamW` says."""
    (v, w), (beta1, beta2) = states, betas
    root, scale = (1 - beta2 ** (step + 1)) ** 0.5, rate / (1 - beta1 ** (step + 1))
    if namespace(p) is not np:
        ADAMW.run(g, (p, v, w), (1 - rate * decay, beta1, 1 - beta1, beta2, 1 - beta2, root, epsilon, scale))
        return
    p *= 1 - rate * decay
    v *= beta1
    np.multiply(g, 1 - beta1, out=scratch)
    v += scratch
    np.multiply(g, g, out=g)
    g *= 1 - beta2
    w *= beta2
    w += g
    np.sqrt(w, out=scratch)
    scratch /= root
    scratch += epsilon
    np.divide(v, scratch, out=scratch)
    scratch *= scale
    p -= scratch


@cache
def lars_kernel(decay: bool) -> Kernel:
    """Return the kernel of `lars`, with or without weight decay."""
    slope = "T slope = g + p * decay;" if decay else "T slope = g;"
    return Kernel("lars", ("p", "v"), ("rate", "momentum", "decay"), f"{slope}\nv = v * momentum + slope * rate;\np -= v;")


def lars(p: Array, g: Array, v: Array, scratch: Array, *, rate: float, momentum: float, decay: float) -> None:
    """Overwrite p and v, and g and scratch with anything: v = momentum v + rate (g + decay p); p = p - v."""
    if namespace(p) is not np:
        lars_kernel(bool(decay)).run(g, (p, v), (rate, momentum, decay))
        return
    if decay:
        np.multiply(p, decay, out=scratch)
        g += scratch
    g *= rate
    v *= momentum
    v += g
    p -= v


@cache
def adagrad_kernel(decay: bool) -> Kernel:
    """Return the kernel of `adagrad`, with or without weight decay."""
    slope = "T slope = g + p * decay;" if decay else "T slope = g;"
    body = f"{slope}\nv += slope * slope;\np -= slope / (sqrt(v) + epsilon) * rate;"
    return Kernel("adagrad", ("p", "v"), ("rate", "epsilon", "decay"), body)


def adagrad(p: Array, g: Array, v: Array, scratch: Array, *, rate: float, epsilon: float, decay: float) -> None:
    """Overwrite p and v, and g and scratch with anything: v = v + g g; p = p - rate g / (sqrt(v) + epsilon), with g + decay p for g."""
    if namespace(p) is not np:
        adagrad_kernel(bool(decay)).run(g, (p, v), (rate, epsilon, decay))
        return
    if decay:
        np.multiply(p, decay, out=scratch)
        g += scratch
    np.multiply(g, g, out=scratch)
    v += scratch
    np.sqrt(v, out=scratch)
    scratch += epsilon
    np.divide(g, scratch, out=scratch)
    scratch *= rate
    p -= scratch


def kernels() -> list[Kernel]:
    """Return every kernel that the rules can ask for."""
    yes_no = (False, True)
    with_momentum = [sgd_kernel(True, nesterov, decay) for nesterov in yes_no for decay in yes_no]
    plain = [sgd_kernel(False, False, decay) for decay in yes_no]
    return [*plain, *with_momentum, ADAMW, *(make(decay) for make in (lars_kernel, adagrad_kernel) for decay in yes_no)]
