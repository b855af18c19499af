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
    Rotary,
    Sequential,
    autoencoder,
    lstm,
    mlp,
    resnet,
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
@pytest.mark.parametrize("width", [0, -1, -3])
def test_a_width_below_one_is_refused_when_built(name, width):
    layers, shape = WIDTHS[name](width)
    with pytest.raises(ShapeError, match="whole number of at least 1"):
        Model(layers, shape)


@pytest.mark.parametrize("name", WIDTHS)
@pytest.mark.parametrize("width", [2.5, float("nan")])
def test_a_width_that_is_no_whole_number_is_refused_when_built(name, width):
    layers, shape = WIDTHS[name](width)
    with pytest.raises(ShapeError):
        Model(layers, shape)


MISFITS = {
    r"layer 1 is <class '.*ReLU'>, not a layer; write ReLU\(": lambda: Model([Dense(3), ReLU], (4,)),
    "layer 0 is <ufunc 'tanh'>, not a layer; give a Layer": lambda: Model([np.tanh], (4,)),
    r"layer 0 \(Sequential\): a chain needs at least one layer": lambda: Model([Sequential()], (4,)),
    r"layer 0 \(Residual\): a chain needs at least one layer": lambda: Model([Residual()], (4,)),
    r"layer 0 \(Recompute\): a chain needs at least one layer": lambda: Model([Recompute()], (4,)),
    r"not a tuple; write \(4,\)": lambda: Model([Dense(3)], 4),
    "attention of 0 heads": lambda: Model([Attention(4, 0)], (4, 4)),
    "Rotary of 0 heads": lambda: Model([Rotary(0)], (4, 12)),
    r"an mlp needs at least two sizes.*got \[4\]": lambda: mlp([4]),
    r"an autoencoder needs at least two sizes.*got \[\]": lambda: autoencoder([], 4),
    "an lstm needs at least one LSTM layer": lambda: lstm((4, 2), [], 2),
    "a resnet needs at least one stage": lambda: resnet((4, 4, 1), [], 1, 2),
    "of at least one block; channels are .4., blocks 0": lambda: resnet((4, 4, 1), [4], 0, 2),
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
