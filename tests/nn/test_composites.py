"""Layers inside layers: the same numbers as the chain written out, gradients true, spans told early and in order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hpcml.arrays import Device, to_host
from hpcml.errors import ShapeError
from hpcml.nn import Dense, Flatten, Layer, Model, Parallel, ReLU, Residual, Sequential, Tanh, Tied
from tests.nn.gradients import assert_slopes_equal, central_differences


class Back(Layer):
    """Multiplies by the transpose of a Dense layer's weight."""

    def __init__(self, of):
        super().__init__()
        self.of = of

    def build(self, shape):
        return (self.of.declared["weight"][0][0],), {"weight": Tied(self.of, "weight")}

    def forward(self, x):
        self._x = x
        return x @ self.parameters["weight"].data.T

    def backward(self, slope):
        self.parameters["weight"].grad[...] = slope.T @ self._x
        return slope @ self.parameters["weight"].data


def tied():
    first = Dense(4)
    return [first, Tanh(), Back(first), Dense(2)]


def tied_thrice():
    first = Dense(3)
    return [first, Tanh(), Residual(Back(first)), Back(first), Dense(2)]


MODELS = {
    "sequential": (lambda: [Sequential(Dense(4), ReLU()), Dense(3)], (3,)),
    "residual": (lambda: [Dense(4), Residual(Tanh(), Dense(4)), Dense(2)], (3,)),
    "residual first": (lambda: [Residual(Dense(3))], (3,)),
    "residual whose f keeps its output": (lambda: [Dense(4), Residual(Dense(4), ReLU()), Tanh()], (3,)),
    "projected": (lambda: [Tanh(), Residual(Dense(5), Tanh(), projection=Dense(5)), Dense(2)], (3,)),
    "summed": (lambda: [Parallel(Dense(4), Sequential(Dense(4), Tanh())), Dense(2)], (3,)),
    "concatenated": (lambda: [Dense(3), Parallel(Dense(2), Sequential(Dense(3), ReLU()), concatenate=True), Dense(2)], (3,)),
    "nested": (lambda: [Flatten(), Sequential(Residual(Parallel(Dense(4), Tanh())), Dense(3)), Residual(ReLU())], (2, 2)),
    "tied": (tied, (3,)),
    "tied three times": (tied_thrice, (3,)),
}


@pytest.fixture(params=MODELS)
def model(request, xp):
    layers, shape = MODELS[request.param]
    built = Model(layers(), shape, seed=5, dtype=np.float64, device=Device() if xp is np else Device(0))
    built.arena.data[:] += xp.asarray(np.random.default_rng(6).standard_normal(built.arena.n)) / 2
    return built


def rows(xp, count, shape):
    return xp.asarray(np.random.default_rng([7, count]).standard_normal((count, *shape)))


def test_the_gradient_is_that_of_finite_differences(model, xp):
    x, weights = rows(xp, 5, model.shape), rows(xp, 5, model.outputs)
    expected = central_differences(lambda: (model.forward(x) * weights).sum(), model.arena.data)
    model.arena.grad.fill(np.nan)
    model.forward(x)
    model.backward(weights.copy())
    assert_slopes_equal(model.arena.grad[: model.arena.n], expected)


def test_the_input_is_left_as_it_was_and_has_the_slope_of_finite_differences(model, xp):
    x, weights = rows(xp, 4, model.shape), rows(xp, 4, model.outputs)
    kept = x.copy()
    for layer in all_layers(model):
        layer.needs_input_slope = True
    expected = central_differences(lambda: (model.forward(x) * weights).sum(), x)
    model.forward(x)
    slope = weights.copy()
    model.context.finish = lambda layer: None
    for layer in reversed(model.layers):
        slope = layer.backward(slope)
    assert_slopes_equal(slope, expected)
    np.testing.assert_array_equal(to_host(x), to_host(kept))


def all_layers(model):
    pending = list(model.layers)
    while pending:
        layer = pending.pop()
        yield layer
        pending += [child for _, child in layer.children]


def test_each_span_is_told_once_from_the_end_as_soon_as_it_is_final(model, xp):
    x, weights = rows(xp, 3, model.shape), rows(xp, 3, model.outputs)
    model.forward(x)
    model.backward(weights.copy())
    final, told = to_host(model.arena.grad).copy(), []

    def ready(span):
        np.testing.assert_array_equal(to_host(model.arena.grad[span]), final[span])
        told.append(span)

    model.arena.grad.fill(-1)
    model.forward(x)
    model.backward(weights.copy(), ready)
    assert told[0].stop == model.arena.n
    assert told[-1].start == 0
    assert all(later.stop == earlier.start for earlier, later in itertools.pairwise(told))


def test_spans_inside_a_composite_are_told_while_it_still_works():
    told = []

    class Watched(Dense):
        def backward(self, slope):
            told.append("backward")
            return super().backward(slope)

    model = Model([Residual(Watched(3), Tanh(), Watched(3))], (3,))
    model.forward(np.ones((2, 3), np.float32))
    model.backward(np.ones((2, 3), np.float32), told.append)
    assert told == ["backward", slice(12, 24), "backward", slice(0, 12)]


def test_a_sequential_is_the_chain_written_out():
    chain = Model([Dense(4), ReLU(), Dense(2)], (3,), seed=1)
    nested = Model([Sequential(Dense(4), Sequential(ReLU(), Dense(2)))], (3,), seed=1)
    x, slope = rows(np, 5, (3,)).astype(np.float32), rows(np, 5, (2,)).astype(np.float32)
    np.testing.assert_array_equal(nested.forward(x), chain.forward(x))
    for model in (nested, chain):
        model.backward(slope.copy())
    np.testing.assert_array_equal(nested.arena.grad, chain.arena.grad)


def test_parameters_are_named_by_their_path():
    layers = [Dense(2), Residual(Tanh(), Dense(3), projection=Dense(3)), Parallel(Sequential(Dense(1)), concatenate=True)]
    names = [p.name for p in Model(layers, (2,)).arena if p.name.endswith("weight")]
    assert names == [
        "0.dense.weight",
        "1.residual.1.dense.weight",
        "1.residual.projection.dense.weight",
        "2.parallel.0.sequential.0.dense.weight",
    ]


def test_a_tied_parameter_stands_once_in_the_arena():
    model = Model(tied(), (3,))
    assert [p.name for p in model.arena] == ["0.dense.weight", "0.dense.bias", "3.dense.weight", "3.dense.bias"]
    other = model.arena.vector()
    model.arena.point(data=other)
    other[:] = 2
    assert (model.layers[2].parameters["weight"].data == 2).all()


def test_a_misfit_inside_a_composite_is_drawn_with_its_place():
    with pytest.raises(ShapeError) as caught:
        Model([Dense(4), Residual(ReLU(), _Square(), Dense(4))], (3,))
    assert str(caught.value).splitlines() == [
        "layer 1 (Residual): layer 2 (Dense): Dense takes rows of one axis, got rows of shape (4, 4); put Flatten() before it",
        "  input (3,)",
        "  0 Dense -> (4,)",
        "  1 Residual <- here",
        "    input (4,)",
        "    0 ReLU -> (4,)",
        "    1 _Square -> (4, 4)",
        "    2 Dense <- here",
    ]


class _Square(ReLU):
    def build(self, shape):
        return (*shape, *shape), {}


MISFITS = {
    "give a projection": lambda: [Residual(Dense(4))],
    "mend the projection": lambda: [Residual(Dense(4), projection=Dense(5))],
    r"shapes \(4,\), \(5,\), which cannot be summed": lambda: [Parallel(Dense(4), Dense(5))],
    r"which cannot join along the last axis": lambda: [Parallel(Dense(4), _Square(), concatenate=True)],
    "at least one branch": lambda: [Parallel()],
    "tied to 'weight' of a Dense that is not in this model": lambda: [Back(_built())],
    "is the layer 0.dense again": lambda: [layer := Dense(3), layer],
}


def _built():
    layer = Dense(3)
    Model([layer], (3,))
    return layer


@pytest.mark.parametrize("message", MISFITS)
def test_what_does_not_fit_is_refused_when_built(message):
    with pytest.raises(ShapeError, match=message):
        Model(MISFITS[message](), (3,))


def test_a_composite_that_goes_backward_in_another_order_is_refused_where_weights_are_tied():
    class Wrong(Parallel):
        def backward(self, slope):
            self.branches.reverse()
            return super().backward(slope)

    first = Dense(3)
    model = Model([Wrong(first, Back(first))], (3,))
    model.forward(np.ones((2, 3), np.float32))
    with pytest.raises(ShapeError, match="went backward before the model's last layer that uses it"):
        model.backward(np.ones((2, 3), np.float32))
