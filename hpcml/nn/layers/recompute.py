"""Activations that are made again in backward instead of being kept."""

from __future__ import annotations

from hpcml.arrays import Array
from hpcml.nn.layers.chain import backward_chain, declare_chain, numbered, require_layer, walk
from hpcml.nn.layers.layer import Built, Layer, Shape


class Recompute(Layer):
    """Blocks one after the other that share their memory: only each block's output is kept, the rest is made again in backward.

    For n blocks alike the activations of one block and n outputs are held instead of those of n blocks, at the cost of one
    more forward of all blocks but the last. The bits are those of the plain chain.

    References:
        Chen, Xu, Zhang and Guestrin, Training deep nets with sublinear memory cost, 2016.
    """

    def __init__(self, *blocks: Layer) -> None:
        """Hold at least one block; they should be alike, or their buffers are made anew at each step."""
        super().__init__()
        self.blocks = list(blocks)
        for number, block in enumerate(self.blocks):
            require_layer(f"block {number}", block)
        for block in self.blocks[1:]:
            for (_, first), (_, other) in zip(walk([("", self.blocks[0])]), walk([("", block)]), strict=False):
                other.work = first.work

    @property
    def children(self) -> list[tuple[str, Layer]]:
        """Return the blocks by position."""
        return numbered(self.blocks)

    def build(self, shape: Shape) -> Built:
        """Return the last block's shape and no parameters of its own."""
        return declare_chain(self.blocks, shape), {}

    def forward(self, x: Array) -> Array:
        """Return what the blocks make of x; keeps x and each block's output until backward."""
        self._inputs = [x]
        for number, block in enumerate(self.blocks):
            made = block.forward(self._inputs[-1])
            out = self.take(f"out {number}", made.shape, made)
            out[...] = made
            self._inputs.append(out)
        return self._inputs[-1]

    def backward(self, slope: Array) -> Array:
        """Overwrite the blocks' gradients, each after making its activations again, and return the input's slope."""
        for number in reversed(range(len(self.blocks))):
            if number < len(self.blocks) - 1:  # the last block's are still there
                self.blocks[number].forward(self._inputs[number])
            made = backward_chain([self.blocks[number]], slope)
            slope = self.take(f"slope {number % 2}", made.shape, made)
            slope[...] = made  # the next block makes its activations in the memory that this slope may lie in
        return slope
