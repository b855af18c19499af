"""Whole models follow PyTorch's loss curve from the same weights for 100 steps."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from hpcml.nn import Workspace, autoencoder, lenet, lstm, resnet, softmax_cross_entropy, squared_error
from hpcml.optim import SGD, Scratch, apply_whole
from tests.nn.torching import torch

STEPS, ROWS, RATE, MOMENTUM = 100, 16, 0.02, 0.9


def batches():
    """The digits in a fixed order: (x (ROWS, 64) in [0, 1], y (ROWS,)) for each step."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))[: STEPS * ROWS]
    return [(x[rows] / 16, y[rows].astype(np.int64)) for rows in order.reshape(STEPS, ROWS)]


def convolution(x, weight, **keys):
    """A convolution of channels-last tensors."""
    filters = weight.permute(3, 2, 0, 1).contiguous()
    return torch().nn.functional.conv2d(x.permute(0, 3, 1, 2), filters, **keys).permute(0, 2, 3, 1)


def normalised(x, gain, bias):
    """What batch normalisation makes of channels-last tensors in training."""
    over = (0, 1, 2)
    return (x - x.mean(over)) / torch().sqrt(x.var(over, unbiased=False) + 1e-5) * gain + bias


def torch_lenet(x, w1, b1, w2, b2, v1, c1, v2, c2):
    functional = torch().nn.functional
    out = x.reshape(-1, 8, 8, 1)
    for weight, bias in ((w1, b1), (w2, b2)):
        out = (convolution(out, weight, padding=1) + bias).relu()  # pooled last, as the books have it
        out = functional.max_pool2d(out.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    return (out.reshape(len(x), -1) @ v1 + c1).relu() @ v2 + c2


def torch_resnet(x, stem, g0, b0, w1, g1, b1, w2, g2, b2, w3, g3, b3, w4, g4, b4, w5, g5, b5, v, c):
    out = normalised(convolution(x.reshape(-1, 8, 8, 1), stem, padding=1), g0, b0).relu()
    bent = normalised(convolution(out, w1, padding=1), g1, b1).relu()
    out = (out + normalised(convolution(bent, w2, padding=1), g2, b2)).relu()
    bent = normalised(convolution(out, w3, padding=1, stride=2), g3, b3).relu()
    out = (normalised(convolution(out, w5, stride=2), g5, b5) + normalised(convolution(bent, w4, padding=1), g4, b4)).relu()
    return out.mean((1, 2)) @ v + c


def torch_autoencoder(x, *tensors):
    for k in range(0, len(tensors), 2):
        x = x @ tensors[k] + tensors[k + 1]
        x = x.relu() if k in (0, 4) else x
    return x


def torch_lstm(x, inputs, state, bias, v, c):
    library = torch()
    made = library.nn.LSTM(8, 12, batch_first=True, dtype=library.float64)
    weights = {"weight_ih_l0": inputs.T, "weight_hh_l0": state.T, "bias_ih_l0": bias, "bias_hh_l0": library.zeros_like(bias)}
    states, _ = library.func.functional_call(made, weights, (x.reshape(-1, 8, 8),))
    return states[:, -1] @ v + c


MODELS = {
    "lenet": (lambda **o: lenet((8, 8, 1), [6, 8], [20], 10, (64,), **o), torch_lenet),
    "resnet": (lambda **o: resnet((8, 8, 1), [4, 6], 1, 10, (64,), **o), torch_resnet),
    "lstm": (lambda **o: lstm((8, 8), [12], 10, (64,), **o), torch_lstm),
    "autoencoder": (lambda **o: autoencoder([64, 24, 6], **o), torch_autoencoder),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_follows_pytorchs_loss_curve(name):
    make, oracle = MODELS[name]
    library, model = torch(), make(seed=3, dtype="float64")
    classes = name != "autoencoder"
    loss = softmax_cross_entropy if classes else squared_error
    tensors = [library.tensor(p.data.copy(), requires_grad=True) for p in model.arena if not p.running]
    theirs = library.optim.SGD(tensors, RATE, MOMENTUM)
    rule, work, arena = SGD(RATE, MOMENTUM), Workspace(), model.arena
    state, scratch = np.zeros((rule.slots, arena.n)), Scratch(arena.data, arena.parts(), arena.trained)
    for number, (x, y) in enumerate(batches()):
        model.context.train(seed=0, step=number, worker=0)
        value, slope = loss(model.forward(x), y if classes else x, work)
        model.backward(slope)
        grad = arena.grad[: arena.n]
        grad /= ROWS
        apply_whole(rule, arena.data, grad, state, number, scratch)
        theirs.zero_grad()
        prediction = oracle(library.tensor(x), *tensors)
        if classes:
            expected = library.nn.functional.cross_entropy(prediction, library.tensor(y))
        else:
            expected = ((prediction - library.tensor(x)) ** 2).sum() / 2 / ROWS
        expected.backward()
        theirs.step()
        assert float(value) / ROWS == pytest.approx(expected.item(), rel=1e-6)
