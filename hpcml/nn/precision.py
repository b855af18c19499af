"""Products in 16 bits: operands are rounded, their products are exact and summed in float32, as a GPU's tensor cores do it.

Parameters, activations, norms, softmax, losses, sums and updates stay float32; so do passes of evaluation. A parameter and its
rounded copy never drift apart, since the copy lasts for one product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpcml.arrays import Array, namespace, products
from hpcml.errors import ShapeError
from hpcml.nn import values
from hpcml.nn.workspace import Scratch, pieces


@dataclass(frozen=True, slots=True)
class Scaling:
    """How slopes are kept within the range of float16: times a power of two, which gradients are divided by again, exactly.

    Args:
        first: the scale at the start.
        patience: steps without overflow until the scale is doubled; an overflow halves it, and that step moves nothing.

    References:
        Micikevicius et al., Mixed precision training, ICLR 2018.
    """

    first: float = 4096.0
    patience: int = 2000

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        values.positive("the first scale", self.first)
        values.whole("the patience of a scale", self.patience)


@dataclass(frozen=True, slots=True)
class Precision:
    """To what the operands of products are rounded in a pass of training.

    Args:
        name: "bfloat16" (8 bits of digits, the range of float32) or "float16" (11 bits, up to 65504).
        scaling: of slopes; None where the range needs none.
    """

    name: str
    scaling: Scaling | None = None

    def __post_init__(self) -> None:
        """Refuse another name, whose rounding nobody knows."""
        if self.name not in ("bfloat16", "float16"):
            raise ShapeError(f"a precision's name is {self.name!r}; it must be 'bfloat16' or 'float16'")

    def matmul(self, a: Array, b: Array, out: Array, scratch: Scratch, multiply: products.Multiply | None = None) -> None:
        """Overwrite out with the product of a and b as rounded, float32 (..., m, k) and (..., k, n), in memory of `scratch`."""
        if products.fits(a, b, out):
            products.product(self.pack(a, "left", scratch), self.pack(b, "right", scratch), out, multiply)
            return
        left, right = self.round(a, "left", scratch), self.round(b, "right", scratch)
        namespace(a).matmul(left, right, out=out)

    def round(self, x: Array, name: str, scratch: Scratch) -> Array:
        """Return x rounded to the nearest number of 16 bits, ties to even, as float32 in scratch memory laid out like x."""
        turned = x.ndim > 1 and not x.flags.c_contiguous
        x = x.swapaxes(-1, -2) if turned else x
        out = scratch.take(f"rounded {name}", x.shape, x)
        if x.flags.c_contiguous:
            flat, into = x.reshape(-1), out.reshape(-1)
            for piece in pieces(x, x.size):
                self._round(flat[piece], into[piece], scratch)
        else:
            self._round(x, out, scratch)
        return out.swapaxes(-1, -2) if turned else out

    def pack(self, x: Array, name: str, scratch: Scratch) -> Array:
        """Return x rounded as by `round`, in 16 bits for a device: float16, or bfloat16 as bits in uint16; in memory laid out like x."""
        turned = x.strides[-1] > x.strides[-2]
        x = x.swapaxes(-1, -2) if turned else x
        if self.name == "float16":
            out = scratch.take(f"packed {name}", x.shape, x, np.float16)
            with np.errstate(over="ignore"):  # what is too large becomes infinite, and is found in the gradient
                out[...] = x
        else:
            out = scratch.take(f"packed {name}", x.shape, x, np.uint16)
            products.to_bfloat16(scratch.whole("whole", x), out)
        return out.swapaxes(-1, -2) if turned else out

    def _round(self, x: Array, out: Array, scratch: Scratch) -> None:
        xp = namespace(x)
        if self.name == "float16":
            half = scratch.take("half", x.shape, x, np.float16)
            with np.errstate(over="ignore"):  # what is too large becomes infinite, and is found in the gradient
                half[...] = x
            out[...] = half
            return
        bits, whole = out.view(np.uint32), x.view(np.uint32)
        none = xp.isnan(x, out=scratch.take("none", x.shape, x, np.bool_))
        xp.right_shift(whole, 16, out=bits)
        bits &= 1
        bits += 0x7FFF
        bits += whole
        bits &= 0xFFFF0000
        xp.copyto(out, np.nan, where=none)  # whose bits may have wrapped around to a number


BFLOAT16 = Precision("bfloat16")
FLOAT16 = Precision("float16", Scaling())
