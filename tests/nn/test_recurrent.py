from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcml.errors import ShapeError
from hpcml.nn import GRU, LSTM, RNN, Model, ReLU
from tests.nn.torching import assert_as_torch, torch

LAYERS = pytest.mark.parametrize("layer", [RNN, LSTM, GRU])


def pytorchs(layer, width, sequence):
    """The same layer in PyTorch, its weights those of hpcml, turned; the two biases of PyTorch are one here, but for GRU's n."""
    library = torch()

    def oracle(x, inputs, state, bias, state_bias=None):
        second = library.zeros_like(bias) if state_bias is None else library.cat([library.zeros(2 * width), state_bias])
        made = getattr(library.nn, layer.__name__)(x.shape[-1], width, batch_first=True, dtype=library.float64)
        weights = {"weight_ih_l0": inputs.T, "weight_hh_l0": state.T, "bias_ih_l0": bias, "bias_hh_l0": second}
        states, _ = library.func.functional_call(made, weights, (x,))
        return states if sequence else states[:, -1]

    return oracle


@LAYERS
@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(1, 4),
    steps=st.integers(1, 5),
    inputs=st.integers(1, 3),
    width=st.integers(1, 4),
    sequence=st.booleans(),
    seed=st.integers(0, 99),
)
def test_values_and_gradients_are_pytorchs(layer, rows, steps, inputs, width, sequence, seed):
    assert_as_torch([layer(width, sequence=sequence)], (steps, inputs), pytorchs(layer, width, sequence), rows, seed)


@LAYERS
def test_a_sequence_may_feed_the_next_layer(layer):
    def oracle(x, *tensors):
        half = len(tensors) // 2
        return pytorchs(layer, 2, False)(pytorchs(layer, 3, True)(x, *tensors[:half]).relu(), *tensors[half:])

    assert_as_torch([layer(3, sequence=True), ReLU(), layer(2)], (4, 2), oracle)


@LAYERS
def test_the_last_state_is_that_of_the_whole_sequence(layer):
    x = np.random.default_rng(0).standard_normal((3, 5, 2)).astype(np.float32)
    last, all_states = (Model([layer(4, sequence=s)], (5, 2), seed=1) for s in (False, True))
    np.testing.assert_array_equal(last.forward(x), all_states.forward(x)[:, -1])


@LAYERS
def test_a_step_allocates_nothing_after_the_first_whatever_the_rows(layer):
    model, slope = Model([layer(16, sequence=True), layer(16)], (6, 8)), np.ones((3000, 16), np.float32)
    x = np.random.default_rng(0).standard_normal((3000, 6, 8)).astype(np.float32)

    def step(rows):
        model.forward(x[:rows])
        model.backward(slope[:rows])

    step(3000)
    tracemalloc.start()
    try:
        for rows in (3000, 2999, 3000):
            step(rows)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 150_000  # a state of all rows is 192 kB; numpy has small buffers of its own


def test_an_lstm_starts_by_keeping_its_memory():
    np.testing.assert_array_equal(Model([LSTM(2)], (3, 1)).arena.view("0.lstm.bias").data, [0, 0, 1, 1, 0, 0, 0, 0])


@LAYERS
def test_rows_that_are_no_sequence_are_refused(layer):
    with pytest.raises(ShapeError, match=rf"{layer.__name__} takes rows \(steps, numbers\), got rows of shape \(64,\); put Reshape"):
        Model([layer(3)], (64,))
