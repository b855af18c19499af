"""Which part of the gradient is final: layers finish in any order, spans are told from the end of the vector to its start."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hpcml.arrays import namespace
from hpcml.errors import ShapeError
from hpcml.nn.arena import Arena
from hpcml.nn.layers.layer import Layer

Ready = Callable[[slice], None]


class Announcer:
    """Counts, during a backward pass, the layers that each parameter still waits for.

    A parameter that several layers share is final when all of them are done. Of its users the last in the model, whose backward
    comes first, writes into the arena; the others write beside it, and what they wrote is added here.
    """

    def __init__(self, arena: Arena, layers: Iterable[Layer]) -> None:
        """Count how many of the layers use each parameter."""
        self._arena = arena
        self._number = {p.name: k for k, p in enumerate(arena)}
        self._starts = [p.span.start for p in arena]
        self._users = [0] * len(self._starts)
        for layer in layers:
            for p in layer.parameters.values():
                if not p.running:
                    self._users[self._number[p.name]] += 1
        self._left = list(self._users)
        self._finished: set[int] = set()
        self._next, self._edge = len(self._users) - 1, arena.n
        self._ready: Ready | None = None

    def begin(self, ready: Ready) -> None:
        """Start a pass: running statistics are final already, forward wrote them."""
        self._left[:] = self._users
        self._finished.clear()
        self._next, self._edge, self._ready = len(self._users) - 1, self._arena.n, ready
        self._advance()

    def finish(self, layer: Layer) -> None:
        """Take note that this layer's gradients are written; tell every span that is final by now. A second time changes nothing."""
        if id(layer) in self._finished:
            return
        self._finished.add(id(layer))
        for p in layer.parameters.values():
            if p.running:
                continue
            number = self._number[p.name]
            if p.beside:
                self._add(p.name, p.grad, layer, first=self._left[number] == self._users[number])
            self._left[number] -= 1
        self._advance()

    def _add(self, name: str, grad: object, layer: Layer, first: bool) -> None:
        if first:
            raise ShapeError(f"{name}: {type(layer).__name__} shares it and went backward before the model's last layer that uses it")
        shared = self._arena.view(name).grad
        namespace(shared).add(shared, grad, out=shared)

    def _advance(self) -> None:
        while self._next >= 0 and not self._left[self._next]:
            self._next -= 1
        start = self._starts[self._next + 1] if self._next + 1 < len(self._starts) else self._arena.n
        if start < self._edge and self._ready is not None:
            self._ready(slice(start, self._edge))
            self._edge = start
