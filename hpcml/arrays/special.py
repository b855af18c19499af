"""The normal distribution function, which numpy has not, from products and one exponential; the same lines run on a device."""

from __future__ import annotations

import math

import numpy as np

from hpcml.arrays.device import Array, namespace

# erfcx(z) / t over y = 2t - 1, t = 2 / (2 + z), z >= 0: Chebyshev coefficients fitted to scipy's erfcx at 40 nodes.
# fmt: off
_FIT = [
    0.5770337386164697, 0.35543692127049875, 0.06509515882878628, 0.0036711423958366595, -0.0011128447433526724, -0.00016075829915387636,
    3.278031574165178e-05, 5.442441645546599e-06, -1.5154665553055674e-06, -1.429760819817242e-07, 8.234608810994726e-08,
    -1.296284682844031e-09, -4.154721679878772e-09, 6.347063265487624e-10, 1.4320830176065007e-10, -6.160380074786584e-11,
    2.0610522435448773e-12, 3.571305085051478e-12, -8.5892584082372e-13, -6.098289523284788e-14, 7.302274212608317e-14,
    -1.2417706161823441e-14, -2.5613169098999844e-15,
]
# fmt: on
_LONG = [float(c) for c in np.polynomial.chebyshev.cheb2poly(_FIT)]
"""To 1e-14 of the true value: for float64."""
_SHORT = [float(c) for c in np.polynomial.chebyshev.cheb2poly(_FIT[:11])]
"""To 1.2e-8 of the true value: for shorter floats."""


def normal_cdf(x: Array, out: Array, scratch: Array) -> None:
    """Overwrite out with the probability that a standard normal number is below x, and scratch with anything.

    Args:
        x: any shape, floating.
        out: like x, another array.
        scratch: like x, a third array.
    """
    xp = namespace(x)
    xp.abs(x, out=scratch)
    scratch *= math.sqrt(0.5)
    scratch += 2
    xp.divide(4, scratch, out=scratch)  # 2t
    scratch -= 1
    coefficients = _LONG if x.dtype.itemsize > 4 else _SHORT
    out[...] = coefficients[-1]
    for c in reversed(coefficients[:-1]):
        out *= scratch
        out += c
    scratch += 1
    out *= scratch
    xp.multiply(x, x, out=scratch)
    scratch *= -0.5
    xp.exp(scratch, out=scratch)
    out *= scratch
    out *= 0.25  # half of erfc, and t where 2t was multiplied: the tail beyond |x|
    xp.subtract(1, out, out=scratch)
    xp.copyto(out, scratch, where=x > 0)
