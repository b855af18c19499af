"""Layers that hold layers: in a row, around which the input goes on as it is, or side by side."""

from __future__ import annotations

from collections.abc import Sequence

from hpcml.arrays import Array, namespace
from hpcml.errors import ShapeError
from hpcml.nn import values
from hpcml.nn.layers.chain import backward_chain, declare_chain, forward_chain, numbered, require_layer
from hpcml.nn.layers.layer import Built, Layer, Shape


class Sequential(Layer):
    """Layers one after the other, as one layer."""

    def __init__(self, *layers: Layer) -> None:
        """Hold at least one layer."""
        super().__init__()
        self.layers = list(layers)

    @property
    def children(self) -> list[tuple[str, Layer]]:
        """Return the layers by position."""
        return numbered(self.layers)

    def build(self, shape: Shape) -> Built:
        """Return the last layer's shape and no parameters of its own."""
        return declare_chain(self.layers, shape), {}

    def forward(self, x: Array) -> Array:
        """Return what the layers make of x."""
        return forward_chain(self.layers, x)

    def backward(self, slope: Array) -> Array:
        """Overwrite the layers' gradients and return the input's slope."""
        return backward_chain(self.layers, slope)


class Residual(Layer):
    """Add to the input what layers make of it: x + f(x), or p(x) + f(x) with a projection p where shapes differ.

    References:
        He, Zhang, Ren and Sun, Deep residual learning for image recognition, CVPR 2016.
    """

    def __init__(self, *layers: Layer, projection: Layer | None = None) -> None:
        """Hold the layers of f, and p if the input shall not go on as it is."""
        super().__init__()
        self.layers, self.projection = list(layers), projection

    @property
    def children(self) -> list[tuple[str, Layer]]:
        """Return the layers of f by position, then the projection."""
        return [*numbered(self.layers), *([("projection", self.projection)] if self.projection else [])]

    def build(self, shape: Shape) -> Built:
        """Return the shape that f gives and no parameters of its own."""
        out, straight = declare_chain(self.layers, shape), shape
        if self.projection:
            require_layer("the projection", self.projection)
            straight = self.projection.declare(shape)
        if out != straight:
            hint = "mend the projection" if self.projection else "give a projection, or layers that keep the shape"
            raise ShapeError(f"Residual adds rows of shape {straight} and {out}; {hint}")
        return out, {}

    def forward(self, x: Array) -> Array:
        """Return x + f(x) in the layer's own buffer."""
        bent = forward_chain(self.layers, x)
        straight = self.projection.forward(x) if self.projection else x
        out = bent if not self.layers[-1].keeps_output else self.take("out", bent.shape, bent)
        namespace(bent).add(straight, bent, out=out)
        return out

    def backward(self, slope: Array) -> Array:
        """Overwrite the gradients of all layers inside and return the sum of both ways' slopes."""
        xp = namespace(slope)
        hold = self.context.scratch.copy
        with hold(slope) as kept:
            if not self.projection:
                bent = backward_chain(self.layers, slope)
                return xp.add(kept, bent, out=bent)
            with hold(backward_chain([self.projection], slope)) as straight:
                bent = backward_chain(self.layers, kept)
                return xp.add(straight, bent, out=bent)


class Parallel(Layer):
    """Give the same input to several branches; their outputs are summed, or joined along the last axis."""

    def __init__(self, *branches: Layer, concatenate: bool = False) -> None:
        """Hold at least one branch, such as a Sequential."""
        super().__init__()
        self.branches, self.concatenate = list(branches), values.flag("Parallel's concatenate", concatenate)
        self._edges: list[int] = []

    @property
    def children(self) -> list[tuple[str, Layer]]:
        """Return the branches by position."""
        return numbered(self.branches)

    def build(self, shape: Shape) -> Built:
        """Return the common shape, its last axis the sum of all where joined, and no parameters of its own."""
        if not self.branches:
            raise ShapeError("Parallel needs at least one branch")
        for number, branch in enumerate(self.branches):
            require_layer(f"branch {number}", branch)
        shapes = [branch.declare(shape) for branch in self.branches]
        compared = {(len(s), s[:-1]) for s in shapes} if self.concatenate else set(shapes)
        if len(compared) > 1:
            what = "join along the last axis" if self.concatenate else "be summed"
            raise ShapeError(f"Parallel: branches give rows of shapes {', '.join(map(str, shapes))}, which cannot {what}")
        if not self.concatenate:
            return shapes[0], {}
        self._edges = [sum(s[-1] for s in shapes[:k]) for k in range(len(shapes) + 1)]
        return (*shapes[0][:-1], self._edges[-1]), {}

    def forward(self, x: Array) -> Array:
        """Return the branches' outputs, summed or joined, in the layer's own buffer."""
        outs = [branch.forward(x) for branch in self.branches]
        if self.concatenate:
            joined = self.take("out", (*outs[0].shape[:-1], self._edges[-1]), outs[0])
            for k, out in enumerate(outs):
                joined[..., self._edges[k] : self._edges[k + 1]] = out
            return joined
        total = self.take("out", outs[0].shape, outs[0])
        total[...] = outs[0]
        for out in outs[1:]:
            total += out
        return total

    def backward(self, slope: Array) -> Array:
        """Overwrite the gradients of all branches, the last branch first, and return the sum of their input slopes."""
        parts = self._share(slope)
        total: Array = None
        for branch, part in zip(reversed(self.branches), reversed(parts), strict=True):
            back = backward_chain([branch], part)
            if total is None:
                total = self.take("back", back.shape, back)
                total[...] = back
            else:
                total += back
        return total

    def _share(self, slope: Array) -> Sequence[Array]:
        """Return each branch's own copy of its part of the slope, which it may overwrite."""
        parts = []
        for k in range(len(self.branches)):
            part = slope[..., self._edges[k] : self._edges[k + 1]] if self.concatenate else slope
            own = self.take(f"slope {k}", part.shape, slope)
            own[...] = part
            parts.append(own)
        return parts
