"""What no model can be made of, and rows that are not a model's, is refused at once with what came and what was expected."""

from __future__ import annotations

import numpy as np
import pytest

from hpcml.errors import ShapeError
from hpcml.nn import (
    LSTM,
    Attention,
    Bias,
    Conv,
    Dense,
    Embedding,
    Model,
    Recompute,
    ReLU,
    Residual,
    Sequential,
    autoencoder,
    mlp,
)

WIDTHS = {
    "Dense": lambda width: ([Dense(width)], (4,)),
    "Conv": lambda width: ([Conv(width, 3)], (4, 4, 1)),
    "LSTM": lambda width: ([LSTM(width)], (4, 4)),
    "Attention": lambda width: ([Attention(width, 1)], (4, 4)),
    "Embedding": lambda width: ([Embedding(5, width)], (4,)),
    "inside": lambda width: ([Sequential(Residual(Dense(width), Dense(4)))], (4,)),
    "input": lambda width: ([ReLU()], (4, width)),
}


@pytest.mark.parametrize("name", WIDTHS)
@pytest.mark.parametrize("width", [0, -3, 2.5, float("nan"), True, "4", None])
def test_a_width_that_is_no_whole_number_above_zero_is_refused_when_built(name, width):
    with pytest.raises(ShapeError, match="whole number of at least 1"):
        Model(*WIDTHS[name](width))


MISFITS = {
    r"layer 1 is <class '.*ReLU'>, not a layer; write ReLU\(": lambda: Model([Dense(3), ReLU], (4,)),
    "layer 0 is <ufunc 'tanh'>, not a layer; give a Layer": lambda: Model([np.tanh], (4,)),
    r"layer 0 \(Sequential\): a chain needs at least one layer": lambda: Model([Sequential()], (4,)),
    r"layer 0 \(Residual\): a chain needs at least one layer": lambda: Model([Residual()], (4,)),
    r"layer 0 \(Recompute\): a chain needs at least one layer": lambda: Model([Recompute()], (4,)),
    r"not a tuple; write \(4,\)": lambda: Model([Dense(3)], 4),
    r"an mlp needs at least two sizes.*got \[4\]": lambda: mlp([4]),
    r"an autoencoder needs at least two sizes.*got \[\]": lambda: autoencoder([], 4),
}


@pytest.mark.parametrize("message", MISFITS)
def test_what_is_no_model_is_refused(message):
    with pytest.raises(ShapeError, match=message):
        MISFITS[message]()


@pytest.mark.parametrize("shape", [(4,), (2, 5), (2, 1), (2, 4, 1), ()])
def test_rows_of_another_shape_than_the_models_are_refused_and_not_stretched(shape):
    model = Model([Bias(), ReLU()], (4,))
    with pytest.raises(ShapeError, match=r"the model takes rows \(B, 4\), got an array of shape"):
        model.forward(np.ones(shape, np.float32))
