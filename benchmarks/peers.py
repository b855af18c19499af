"""PyTorch's transformer for the step benchmark, eager: the formula of `hpcml.nn.transformer`."""

from __future__ import annotations

import torch
from torch.nn import functional


class Block(torch.nn.Module):
    """Attention and a two-layer perceptron, each normalised first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.three, self.back = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)
        self.wide, self.narrow = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.three(self.before(x)).chunk(3, -1))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.back(mixed)
        return x + self.narrow(functional.gelu(self.wide(self.between(x)), approximate="tanh"))


class Language(torch.nn.Module):
    """Scores of the next byte, (B, T) -> (B, T, 256)."""

    def __init__(self, layers: int, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(256, width)
        self.places = torch.nn.Parameter(torch.randn(context, width) * 0.02)
        self.blocks = torch.nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.last = torch.nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.blocks(self.table(x) + self.places)) @ self.table.weight.T
