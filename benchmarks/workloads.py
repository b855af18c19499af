"""What the step benchmark trains: the same model in hpcml and in PyTorch, and the rows that it takes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

CLASSES = 10


@dataclass(frozen=True)
class MLP:
    """Dense layers with ReLU between them."""

    sizes: tuple[int, ...] = (784, 1024, 1024, CLASSES)
    rows: int = 128
    formats: tuple[str, ...] = ("",)
    classes: int = CLASSES
    tokens: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of a row."""
        return (self.sizes[0],)

    def hpcml(self) -> Any:
        """Return hpcml's model."""
        import hpcml

        return hpcml.nn.mlp(list(self.sizes))

    def torch(self, kind: str) -> tuple[Any, Any]:
        """Return PyTorch's model and a batch for it."""
        import torch

        layers: list[torch.nn.Module] = []
        for inputs, outputs in itertools.pairwise(self.sizes):
            layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
        return torch.nn.Sequential(*layers[:-1]), torch.rand(self.rows, *self.shape)


@dataclass(frozen=True)
class CNN:
    """3x3 convolutions with bias, ReLU and a max-pooling by 2, then a dense layer: images of 32 x 32 in three colours."""

    channels: tuple[int, ...] = (3, 32, 64, 128)
    side: int = 32
    rows: int = 64
    formats: tuple[str, ...] = ("", " channels_last")
    classes: int = CLASSES
    tokens: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of a row."""
        return self.side, self.side, self.channels[0]

    def hpcml(self) -> Any:
        """Return hpcml's model."""
        import hpcml

        return hpcml.nn.lenet(self.shape, self.channels[1:], [], CLASSES)

    def torch(self, kind: str) -> tuple[Any, Any]:
        """Return PyTorch's model and a batch for it, in one of its two memory formats."""
        import torch

        layers: list[torch.nn.Module] = []
        for inputs, outputs in itertools.pairwise(self.channels):
            layers += [torch.nn.Conv2d(inputs, outputs, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
        side = self.side >> (len(self.channels) - 1)
        layers += [torch.nn.Flatten(), torch.nn.Linear(self.channels[-1] * side * side, CLASSES)]
        layout = torch.channels_last if kind else torch.contiguous_format
        x = torch.rand(self.rows, self.channels[0], self.side, self.side).contiguous(memory_format=layout)
        return torch.nn.Sequential(*layers).to(memory_format=layout), x


@dataclass(frozen=True)
class Transformer:
    """A causal transformer over bytes with learned positions, whose head shares the embedding's table."""

    layers: int = 4
    width: int = 256
    heads: int = 4
    context: int = 128
    rows: int = 8
    formats: tuple[str, ...] = ("",)
    classes: int = 256
    tokens: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of a row: the tokens seen, and the last, which is only predicted."""
        return (self.context + 1,)

    def hpcml(self) -> Any:
        """Return hpcml's model."""
        import hpcml

        return hpcml.nn.transformer(*self.shape, layers=self.layers, width=self.width, heads=self.heads)

    def torch(self, kind: str) -> tuple[Any, Any]:
        """Return PyTorch's model and a batch for it."""
        import torch
        from peers import Language

        return Language(self.layers, self.width, self.heads, self.context), torch.randint(0, 256, (self.rows, self.context))


WORKLOADS = {"mlp": MLP(), "cnn": CNN(), "transformer": Transformer()}
