"""Models of recurrent layers, for sequences (steps, numbers)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hpcml.nn import values
from hpcml.nn.layers import LSTM, Dense
from hpcml.nn.layers.layer import Shape
from hpcml.nn.model import Model
from hpcml.nn.zoo.images import read_as


def lstm(shape: Shape, hidden: Sequence[int], outputs: int, row: Shape | None = None, **options: Any) -> Model:
    """Return LSTM layers of these widths, one on the states of the other, and a dense layer on the last state.

    Args:
        shape: of a sequence, (steps, numbers).
        hidden: width of each LSTM layer, at least one.
        outputs: units of the last layer.
        row: shape of the rows as they come, such as (64,); left out, that of a sequence.
        options: seed, dtype, device, as Model takes them.
    """
    hidden = values.wholes("an lstm's hidden layers", hidden)
    below = [LSTM(width, sequence=True) for width in hidden[:-1]]
    return Model([*read_as(shape, row), *below, LSTM(hidden[-1]), Dense(outputs)], row or shape, **options)
