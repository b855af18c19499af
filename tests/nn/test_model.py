from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from hpcml.arrays import Device, to_host
from hpcml.errors import ShapeError
from hpcml.nn import (
    GRU,
    LOSSES,
    LSTM,
    RNN,
    Bias,
    Conv,
    Dense,
    Flatten,
    Model,
    ReLU,
    Tanh,
    Workspace,
    linear,
    mlp,
    softmax_cross_entropy,
    squared_error,
)
from hpcml.optim import LARS, SGD, AdamW, Scratch, apply_whole
from tests.nn.gradients import assert_slopes_equal, central_differences


def test_an_mlp_is_numpys_formula(xp):
    model = mlp([4, 5, 3], seed=2, dtype=np.float64, device=Device() if xp is np else Device(0))
    x = np.random.default_rng(0).standard_normal((6, 4))
    w1, b1, w2, b2 = (to_host(p.data) for p in model.arena)
    np.testing.assert_allclose(to_host(model.forward(xp.asarray(x))), np.maximum(x @ w1 + b1, 0) @ w2 + b2, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if name != "contrastive" and not loss.each_position])
@pytest.mark.parametrize("sizes", [[4, 3], [4, 6, 3], [(2, 2), 5, 4, 3]])
def test_the_gradient_of_model_and_loss_is_that_of_finite_differences(name, sizes):
    model, loss, random = mlp(sizes, seed=8, dtype=np.float64), LOSSES[name], np.random.default_rng(9)
    x = random.standard_normal((5, *model.shape))
    y = random.integers(0, 3, 5) if loss.integer_target else random.random((5, 3))
    expected = central_differences(lambda: loss(model.forward(x), y)[0], model.arena.data)
    _, slope = loss(model.forward(x), y)
    model.backward(slope)
    assert_slopes_equal(model.arena.grad[: model.arena.n], expected)


CHAINS = {
    "dense": lambda: Model([Flatten(), Dense(5), ReLU(), Dense(4), Tanh(), Dense(3)], (2, 3), dtype=np.float64),
    "convolutions": lambda: Model([Conv(4, 2), Conv(4, 3, stride=2, padding=1), Bias(), Flatten(), Dense(3)], (4, 5, 2), dtype=np.float64),
    "recurrent": lambda: Model([LSTM(4, sequence=True), GRU(3, sequence=True), RNN(3)], (4, 2), dtype=np.float64),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_the_gradient_is_announced_once_each_from_the_last_layer_to_the_first(chain):
    model = CHAINS[chain]()
    x, slope = np.ones((2, *model.shape)), np.ones((2, 3))
    model.forward(x)
    model.backward(slope.copy())
    final, spans = model.arena.grad.copy(), []

    def ready(span):
        np.testing.assert_array_equal(model.arena.grad[span], final[span])
        spans.append(span)

    model.arena.grad.fill(-1)
    model.forward(x)
    model.backward(slope.copy(), ready)
    assert [s.stop for s in spans] == [model.arena.n, *(s.start for s in spans[:-1])]
    assert spans[-1].start == 0


def test_first_values_depend_on_the_seed_alone():
    one, same, other = mlp([4, 3, 2], seed=1), mlp([4, 3, 2], seed=1), mlp([4, 3, 2], seed=2)
    np.testing.assert_array_equal(one.arena.data, same.arena.data)
    assert (one.arena.data != other.arena.data).any()
    np.testing.assert_array_equal(mlp([4, 3, 2], seed=1, dtype=np.float64).arena.data.astype(np.float32), one.arena.data)


def test_layers_of_one_size_start_at_different_values():
    model = mlp([6, 6, 6], seed=0)
    assert (model.arena.view("0.dense.weight").data != model.arena.view("2.dense.weight").data).any()


def test_a_model_pointed_at_other_parameters_uses_them():
    model, x = mlp([3, 4, 2], seed=1), np.ones((2, 3), np.float32)
    before = model.forward(x).copy()
    other = model.arena.vector()
    model.arena.point(data=other)
    assert (model.forward(x) == 0).all()
    other[:] = mlp([3, 4, 2], seed=1).arena.data
    np.testing.assert_array_equal(model.forward(x), before)


def test_layers_that_do_not_fit_are_drawn():
    with pytest.raises(ShapeError) as caught:
        Model([Dense(4), ReLU(), Flatten(), _Square(), Dense(2)], (3,))
    drawn = str(caught.value).splitlines()
    assert drawn[0].startswith("layer 4 (Dense): Dense takes rows of one axis, got rows of shape (4, 4)")
    assert [line.strip() for line in drawn[1:]] == [
        "input (3,)",
        "0 Dense -> (4,)",
        "1 ReLU -> (4,)",
        "2 Flatten -> (4,)",
        "3 _Square -> (4, 4)",
        "4 Dense <- here",
    ]


class _Square(ReLU):
    def build(self, shape):
        return (*shape, *shape), {}


def test_a_model_without_layers_is_refused():
    with pytest.raises(ShapeError, match="at least one layer"):
        Model([], (3,))


def test_linear_starts_at_zero_and_flattens_images():
    model = linear((8, 8), 10)
    assert (model.arena.data == 0).all()
    assert model.forward(np.ones((2, 8, 8), np.float32)).shape == (2, 10)
    assert model.describe() == "1.dense.weight (64, 10); 1.dense.bias (10,)"


def state_of(rule, arena):
    return np.zeros((rule.slots, arena.n), arena.dtype)


def test_linear_regression_finds_what_scikit_learn_finds():
    random = np.random.default_rng(4)
    x = random.standard_normal((80, 3))
    y = x @ random.standard_normal((3, 2)) + random.standard_normal(2) + 0.1 * random.standard_normal((80, 2))
    model, rule = linear(3, 2, dtype=np.float64), SGD(0.3)
    for step in range(200):
        _, slope = squared_error(model.forward(x), y)
        model.backward(slope)
        model.arena.grad /= 80
        grad = model.arena.grad[: model.arena.n]
        apply_whole(rule, model.arena.data, grad, state_of(rule, model.arena), step, Scratch(model.arena.data, model.arena.parts()))
    oracle = LinearRegression().fit(x, y)
    np.testing.assert_allclose(model.arena.view("0.dense.weight").data, oracle.coef_.T, atol=1e-6)
    np.testing.assert_allclose(model.arena.view("0.dense.bias").data, oracle.intercept_, atol=1e-6)


@pytest.mark.gpu
def test_a_model_moved_to_a_gpu_gives_the_same_to_rounding():
    x = np.random.default_rng(0).standard_normal((6, 4))
    model = mlp([4, 5, 3], seed=2, dtype=np.float64)
    expected = model.forward(x).copy()
    model.move(Device(0))
    np.testing.assert_allclose(to_host(model.forward(Device(0).place(x))), expected, rtol=1e-12)


@pytest.mark.parametrize("rule", [SGD(0.1, momentum=0.9, nesterov=True, decay=0.1), AdamW(0.01), LARS(0.1)])
@pytest.mark.parametrize("loss", [softmax_cross_entropy, squared_error])
def test_a_step_allocates_nothing_after_the_first(loss, rule):
    rows, outputs = 20_000, 10
    random = np.random.default_rng(0)
    model, work = mlp([16, 32, outputs], seed=0), Workspace()
    x = random.standard_normal((rows, 16)).astype(np.float32)
    y = random.integers(0, outputs, rows) if loss.integer_target else random.standard_normal((rows, outputs)).astype(np.float32)
    slots, scratch = state_of(rule, model.arena), Scratch(model.arena.data, model.arena.parts())

    def step(number):
        _, slope = loss(model.forward(x), y, work)
        model.backward(slope)
        model.arena.grad /= rows
        apply_whole(rule, model.arena.data, model.arena.grad[: model.arena.n], slots, number, scratch)

    step(0)
    step(1)
    tracemalloc.start()
    try:
        kept_before, _ = tracemalloc.get_traced_memory()
        for number in range(2, 6):
            step(number)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept - kept_before < 4096
    # One vector of a number a row would be 80 kB; numpy itself takes small blocks to convert between dtypes.
    assert peak - kept_before < 40_000
