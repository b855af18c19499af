"""PyTorch as an oracle: the same formula on the same numbers in float64, values and gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from hpcml.nn import Layer, Model
from hpcml.nn.layers.chain import numbered, walk


def torch() -> Any:
    """PyTorch, or skip: it is no dependency (pip install torch==2.13.0)."""
    return pytest.importorskip("torch", reason="PyTorch is not installed; pip install torch==2.13.0 to compare with it")


def close(found: Any, expected: Any, relative: float = 1e-10) -> None:
    """Compare to a part of the largest number."""
    expected = expected.detach().numpy() if hasattr(expected, "detach") else np.asarray(expected)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=relative, atol=relative * max(1e-3, float(np.abs(expected).max(initial=0))))


def assert_as_torch(
    layers: Sequence[Layer], shape: tuple[int, ...], oracle: Callable[..., Any], rows: int = 3, seed: int = 0, *, inputs: Any = None
) -> None:
    """Compare outputs, the slope of the input and of every parameter with those of `oracle`.

    Args:
        layers: of a model.
        shape: of one row.
        oracle: (x, parameters in the arena's order) -> outputs, on tensors of hpcml's shapes.
        rows: of the batch.
        seed: of all numbers.
        inputs: (rows, *shape); left out, normal numbers.
    """
    library, random = torch(), np.random.default_rng(seed)
    model = Model(layers, shape, seed=seed, dtype=np.float64)
    for _, layer in walk(numbered(model.layers)):
        layer.needs_input_slope = True
    model.arena.data[:] += random.standard_normal(model.arena.n) / 2
    x = random.standard_normal((rows, *shape)) if inputs is None else np.array(inputs, np.float64)
    slope = random.standard_normal((rows, *model.outputs))
    tensors = [library.tensor(p.data.copy(), requires_grad=True) for p in model.arena]
    tx = library.tensor(x.copy(), requires_grad=True)
    expected = oracle(tx, *tensors)
    close(model.forward(x), expected)
    (expected * library.tensor(slope)).sum().backward()
    model.arena.grad.fill(np.nan)
    model.forward(x)
    back = slope.copy()
    for layer in reversed(model.layers):
        back = layer.backward(back)
    close(back, tx.grad)
    for p, tensor in zip(model.arena, tensors, strict=True):
        close(p.grad, tensor.grad)
