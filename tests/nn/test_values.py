"""Values that make no sense are refused where they are given, by name; so are arrays that a model or a loss would read wrongly."""

from __future__ import annotations

import numpy as np
import pytest

from hpcml import nn
from hpcml.errors import DataError, ShapeError
from hpcml.nn import Dense, Model, ReLU

NAN = float("nan")
WHOLE, PART, LIST = "it must be a whole number of at least", "it must be 0 or more and below 1", "give a list"
SMALL, ABOVE, FLAG = "it must be above 0 and below 1", "it must be a finite number above 0", "it must be True or False"

TABLE = [
    ("Dense's number of outputs", WHOLE, lambda v: nn.Dense(v), [0, 2.5, True]),
    ("Dense's positions", FLAG, lambda v: nn.Dense(2, positions=v), [1, "no"]),
    ("Conv's number of outputs", WHOLE, lambda v: nn.Conv(v, 3), [0, "4"]),
    ("Conv's number of groups", WHOLE, lambda v: nn.Conv(4, 3, groups=v), [0, 2.0]),
    ("Conv's bias", FLAG, lambda v: nn.Conv(4, 3, bias=v), [0, None]),
    ("BatchNorm's momentum", PART, lambda v: nn.BatchNorm(v), [-1, 1.0, 8, NAN, "0.9", False]),
    ("BatchNorm's epsilon", SMALL, lambda v: nn.BatchNorm(epsilon=v), [0, -1, NAN]),
    ("BatchNorm's synchronised", FLAG, lambda v: nn.BatchNorm(synchronised=v), [1]),
    ("LayerNorm's epsilon", SMALL, lambda v: nn.LayerNorm(v), [-1, 0, 8, NAN, "1e-5"]),
    ("RMSNorm's epsilon", SMALL, lambda v: nn.RMSNorm(v), [-1]),
    ("Dropout's probability", PART, lambda v: nn.Dropout(v), [-0.1, 1.0, 50, True, "0.1"]),
    ("attention's dropout", PART, lambda v: nn.Attention(4, 2, dropout=v), [-0.1, 1.0]),
    ("Attention's width", WHOLE, lambda v: nn.Attention(v, 1), [0, 8.0]),
    ("Attention's number of heads", WHOLE, lambda v: nn.Attention(8, v), [0, 2.0, True, None]),
    ("attention's number of heads", WHOLE, lambda v: nn.DotProduct(v), [0]),
    ("attention's causal", FLAG, lambda v: nn.Attention(8, 2, causal=v), ["no"]),
    ("Attention's rotary", FLAG, lambda v: nn.Attention(8, 2, rotary=v), [2]),
    ("Rotary's number of heads", WHOLE, lambda v: nn.Rotary(v), [0, True]),
    ("size 0 of Reshape", WHOLE, lambda v: nn.Reshape(v, 2), [-1, 3.0, "3"]),
    ("Embedding's vocabulary", WHOLE, lambda v: nn.Embedding(v, 4), [0, 5.5]),
    ("Embedding's width", WHOLE, lambda v: nn.Embedding(5, v), [0]),
    ("Embedding's context", WHOLE, lambda v: nn.Embedding(5, 4, context=v), [0, -1, 2.0]),
    ("Embedding's padding", "", lambda v: nn.Embedding(5, 4, padding=v), [5, -1, 0.0]),
    ("NGrams' lengths", LIST, lambda v: nn.NGrams(5, 4, v, 8), [[], [0], 2, [2.5]]),
    ("NGrams' buckets", WHOLE, lambda v: nn.NGrams(5, 4, [2], v), [0]),
    ("Recall's lengths", LIST, lambda v: nn.Recall(5, 4, v), [[3, 0]]),
    ("Recall's vocabulary", WHOLE, lambda v: nn.Recall(v, 4, [1]), [0]),
    ("LSTM's width", WHOLE, lambda v: nn.LSTM(v), [0, "4", None]),
    ("GRU's sequence", FLAG, lambda v: nn.GRU(4, sequence=v), [8]),
    ("GELU's tanh", FLAG, lambda v: nn.GELU(v), ["tanh"]),
    ("Parallel's concatenate", FLAG, lambda v: nn.Parallel(ReLU(), concatenate=v), [-1]),
    ("number of hidden units", WHOLE, lambda v: nn.RestrictedBoltzmann(v), [0, 2.5]),
    ("number of Gibbs steps", WHOLE, lambda v: nn.RestrictedBoltzmann(2, v), [0]),
    ("RestrictedBoltzmann's highest", ABOVE, lambda v: nn.RestrictedBoltzmann(2, highest=v), [0.0, float("inf")]),
    ("Hopfield's number of sweeps", WHOLE, lambda v: nn.Hopfield(v), [0, 1.5]),
    ("Hopfield's highest", ABOVE, lambda v: nn.Hopfield(highest=v), [-1.0]),
    ("the sides of SelfOrganisingMap's grid", LIST, lambda v: nn.SelfOrganisingMap(v), [[], [3, 0], 10, [2.5]]),
    ("radius", "0 or more", lambda v: nn.SelfOrganisingMap([3], v), [-1.0, NAN]),
    ("halving", WHOLE, lambda v: nn.SelfOrganisingMap([3], halving=v), [0, NAN]),
    ("kept", PART, lambda v: nn.SelfOrganisingMap([3], kept=v), [1.0]),
    ("label_smoothing", PART, lambda v: nn.cross_entropy(v), [1.0, -1, NAN, "a"]),
    ("label_smoothing", PART, lambda v: nn.binary_cross_entropy(v), [2]),
    ("class_weights", "give one for each class", lambda v: nn.cross_entropy(0, v), [3, [], [1, -1], [1, NAN]]),
    ("class_weights", "give 2 finite numbers", lambda v: nn.binary_cross_entropy(0, v), [(1, 2, 3)]),
    ("hinge's margin", "0 or more", lambda v: nn.hinge(v), [-1, NAN]),
    ("contrastive's margin", "0 or more", lambda v: nn.contrastive(v), [-1]),
    ("huber's delta", ABOVE, lambda v: nn.huber(v), [0, -1, "a"]),
    ("a model's seed", WHOLE, lambda v: Model([Dense(3)], (4,), seed=v), [-1, 1.5, None]),
    ("a precision's name", "it must be 'bfloat16' or 'float16'", lambda v: nn.Precision(v), ["int8", None]),
    ("the first scale", ABOVE, lambda v: nn.Scaling(v), [0, -1.0, NAN]),
    ("the patience of a scale", WHOLE, lambda v: nn.Scaling(patience=v), [0, 1.5]),
    ("a lenet's channels", LIST, lambda v: nn.lenet((8, 8, 1), v, [], 2), [4, [0]]),
    ("a lenet's hidden layers", LIST, lambda v: nn.lenet((8, 8, 1), [4], v, 2), [4]),
    ("a resnet's channels", LIST, lambda v: nn.resnet((8, 8, 1), v, 1, 2), [4, []]),
    ("a resnet's number of blocks", WHOLE, lambda v: nn.resnet((8, 8, 1), [4], v, 2), [0, 1.5, True]),
    ("an lstm's hidden layers", LIST, lambda v: nn.lstm((4, 2), v, 2), [3, []]),
    ("a transformer's number of layers", WHOLE, lambda v: nn.transformer(9, layers=v), [0, 1.5]),
    ("a row that a transformer reads", WHOLE, lambda v: nn.transformer(v), [1, 9.0]),
    ("Attention's width", "multiple of its 3 heads", lambda v: nn.transformer(9, width=v, heads=3), [8]),
    ("a transformer's width", WHOLE, lambda v: nn.transformer(9, width=v), [0, "8"]),
    ("Embedding's vocabulary", WHOLE, lambda v: nn.transformer(9, vocabulary=v), [0, True]),
    ("a transformer's context", WHOLE, lambda v: nn.transformer(9, context=v), [-1]),
]


@pytest.mark.parametrize(("name", "expected", "make", "wrong"), TABLE, ids=[f"{row[0]} {k}" for k, row in enumerate(TABLE)])
def test_a_value_that_makes_no_sense_is_refused_with_what_came_and_what_was_expected(name, expected, make, wrong):
    for value in wrong:
        with pytest.raises(ShapeError) as caught:
            make(value)
        assert name in str(caught.value)
        assert expected in str(caught.value)
        assert str(value) in str(caught.value)


def test_numpys_whole_numbers_are_whole_numbers():
    one, other = (Model([nn.Conv(kind(4), kind(3), groups=kind(2)), nn.MaxPool(kind(2))], (8, 8, 2)) for kind in (int, np.int64))
    assert one.arena.layout() == other.arena.layout()
    assert nn.Dropout(np.float32(0.5)).probability == 0.5


MISFITS = {
    "Attention's width is 8, which is no multiple of its 3 heads": lambda: nn.Attention(8, 3),
    "Attention's width is 6, no multiple of 4: rotary": lambda: nn.Attention(6, 2, rotary=True),
    r"sizes one after the other; write Reshape\(3, 2\)": lambda: nn.Reshape((3, 2)),
    r"Conv: size is 3.0; give a whole number": lambda: Model([nn.Conv(4, 3.0)], (8, 8, 2)),
    r"Conv: size is True; give a whole number": lambda: Model([nn.Conv(4, True)], (8, 8, 2)),
    r"Conv: padding is 'same'; give a whole number": lambda: Model([nn.Conv(4, 3, padding="same")], (8, 8, 2)),
    r"Dense would take the first values of 'weight' from 8; give a function": lambda: Model([Dense(4, 8)], (4,)),
    "TiedHead shares the table of an Embedding, got <": lambda: nn.TiedHead(Dense(4)),
    r"branch 1 is <class .*ReLU'>, not a layer; write ReLU\(": lambda: Model([nn.Parallel(ReLU(), ReLU)], (4,)),
    "the projection is 3, not a layer": lambda: Model([nn.Residual(ReLU(), projection=3)], (4,)),
    "block 0 is 1, not a layer": lambda: nn.Recompute(1, 2),
    r"layer 0 is \[<.*, not a layer; give the layers one after the other": lambda: Model([nn.Sequential([ReLU()])], (4,)),
    r"a model takes a list of layers, got <.*ReLU.*write \[layer": lambda: Model(ReLU(), (4,)),
    "a model's rows have the shape None, not a tuple": lambda: Model([ReLU()], None),
    r"rows have the shape \(True,\); each size is a whole number": lambda: Model([ReLU()], (True,)),
    "a model's device is 'gpu'; leave it out": lambda: Model([ReLU()], (4,), device="gpu"),
    "an mlp needs at least two sizes.*got 4": lambda: nn.mlp(4),
}


@pytest.mark.parametrize("message", MISFITS)
def test_what_does_not_fit_together_says_what_to_write(message):
    with pytest.raises(ShapeError, match=message):
        MISFITS[message]()


def test_a_layer_of_another_model_is_refused_and_that_model_stays_whole():
    layer = Dense(4)
    first = Model([layer], (4,))
    with pytest.raises(ShapeError, match=r"0\.dense is a layer of another model"):
        Model([layer, Dense(2)], (4,))
    assert layer.parameters["weight"] is first.arena.view("0.dense.weight")


ROWS = np.ones((2, 4), np.float32)
NO_ROWS = {
    "came as list; give an array": ROWS.tolist(),
    "came as NoneType": None,
    "came as int64; give floating-point numbers": ROWS.astype(int),
    "came as bool": ROWS > 0,
    "came as <U1": np.full((2, 4), "a"),
    "came as complex64": ROWS * 1j,
    "rows are float32, got float64; write x.astype": ROWS.astype(float),
    "rows are float32, got float16": ROWS.astype(np.float16),
    r"takes rows \(B, 4\), got an array of shape \(\)": np.float32(3),
    r"takes rows \(B, 4\), got an array of shape \(4,\)": ROWS[0],
    "masked numbers would count": np.ma.array(ROWS),
}


@pytest.mark.parametrize("message", NO_ROWS)
def test_a_model_takes_arrays_of_its_own_dtype_alone(message):
    model = Model([Dense(3)], (4,))
    with pytest.raises(ShapeError, match=message):
        model.forward(NO_ROWS[message])
    assert model.forward(ROWS[:0]).shape == (0, 3)


def test_tokens_are_whole_numbers_of_any_dtype():
    model = Model([nn.Sequential(nn.Embedding(5, 3))], (4,))
    expected = model.forward(ROWS).copy()
    for dtype in (np.uint8, np.int64, np.float64):
        np.testing.assert_array_equal(model.forward(ROWS.astype(dtype)), expected)
    with pytest.raises(DataError, match="tokens are whole numbers; a row holds another"):
        model.forward(ROWS * np.nan)
    with pytest.raises(ShapeError, match="rows came as <U1; give floating-point numbers or whole numbers"):
        model.forward(np.full((2, 4), "a"))


@pytest.mark.parametrize("slope", [np.ones((2, 2), np.float32), np.ones((3, 3), np.float32), np.ones((2, 3)), [[1.0] * 3] * 2])
def test_backward_takes_the_slope_of_the_last_predictions_alone(slope):
    model = Model([Dense(3)], (4,))
    with pytest.raises(ShapeError, match="none, since there was no forward yet"):
        model.backward(np.ones((2, 3), np.float32))
    model.forward(ROWS)
    with pytest.raises(ShapeError, match="the predictions' slope"):
        model.backward(slope)


def good(name):
    """Return a loss with predictions and targets that it takes."""
    loss = nn.LOSSES[name]
    shape = {"token-cross-entropy": (2, 4, 5), "contrastive": (2, 4)}.get(name, (2, 3))
    target = np.array([0, 1]) if loss.integer_target else np.ones(shape, np.float32)
    return loss, np.ones(shape, np.float32), np.ones((2, 4), int) if loss.each_position else target


@pytest.mark.parametrize("name", nn.LOSSES)
def test_a_loss_refuses_what_are_no_predictions_targets_or_weights(name):
    loss, prediction, target = good(name)
    whole = prediction.astype(int)
    refused = [
        ((prediction.tolist(), target), "predictions came as list"),
        ((whole, target), "predictions came as int64; give floating-point"),
        ((prediction[:, 0, ...] if loss.each_position else prediction[:, 0], target), "takes predictions"),
        ((prediction, target.tolist()), "targets came as list"),
        ((prediction, None), "targets came as NoneType"),
        ((prediction, np.full(target.shape, "a")), "targets came as <U1"),
        ((prediction, target[:1]), "targets of as many rows, got shapes"),
        ((prediction, target.flat[0]), "targets of as many rows, got shapes"),
        ((prediction, target, None, [1.0, 1.0]), "weights came as list"),
        ((prediction, target, None, np.ones(3)), r"a weight for each row, of shape \(2,\); got \(3,\)"),
        ((prediction, target, None, np.ones((2, 1))), "a weight for each row"),
        ((prediction, target, None, np.array([1.0, -2.0])), "row 1 weighs -2; weights are 0 or more"),
        ((prediction, target, None, np.array([NAN, 1.0])), "row 0 weighs nan"),
    ]
    for arguments, message in refused:
        with pytest.raises((ShapeError, DataError), match=message):
            loss(*arguments)
    assert float(loss(prediction[:0], target[:0])[0]) == 0


@pytest.mark.parametrize("name", ["squared-error", "huber"])
def test_a_target_that_is_no_number_is_named_with_its_row(name):
    loss, prediction, target = good(name)
    target[1, 2] = np.nan
    with pytest.raises(DataError, match=r"the target \[ 1\.  1\. nan\] is not finite; mend the data") as caught:
        loss(prediction, target)
    assert caught.value.row == 1
