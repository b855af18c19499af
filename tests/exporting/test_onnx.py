"""Exported graphs: onnxruntime says what the model says."""

from __future__ import annotations

import numpy as np
import pytest

from hpcml import nn
from hpcml.errors import ExportError
from hpcml.exporting import export_onnx
from hpcml.nn.layers.chain import numbered, walk
from hpcml.nn.layers.layer import Layer
from hpcml.nn.layers.lookup import Lookup


def signed(model):
    """The model with numbers of both signs where all were zero."""
    model.arena.data[:] = np.random.default_rng(5).choice([-1, 1], model.arena.n)
    return model


MODELS = {
    "linear": lambda: nn.linear(5, 3),
    "mlp": lambda: nn.mlp([6, 16, 8, 4]),
    "mlp of images": lambda: nn.mlp([(3, 2), 8, 4]),
    "autoencoder": lambda: nn.autoencoder([6, 5, 2]),
    "lenet": lambda: nn.lenet((8, 8, 3), [4, 6], [10], 5),
    "lenet of flat rows": lambda: nn.lenet((8, 8, 1), [4, 6], [10], 5, (64,)),
    "resnet": lambda: nn.resnet((8, 8, 3), [4, 6], 1, 5),
    "lstm": lambda: nn.lstm((4, 3), [5, 6], 2),
    "lstm of flat rows": lambda: nn.lstm((4, 3), [5], 2, (12,)),
    "transformer": lambda: nn.transformer(9, layers=2, width=8, heads=2, context=7, vocabulary=11),
    "transformer as in jobs/text.toml": lambda: nn.transformer(
        *(70,), layers=1, width=24, heads=2, vocabulary=5, rotary=True, recompute=True, ngrams=[2, 3, 90], buckets=50, recall=[1, 2, 4]
    ),
    "one token": lambda: nn.transformer(2, layers=1, width=4, heads=1, vocabulary=5, ngrams=[2], recall=[2]),
    "som": lambda: nn.som(5, [3, 2]),
    "rbm": lambda: nn.rbm((2, 3), 4, highest=4.0),
    "hopfield": lambda: signed(nn.hopfield(7, sweeps=3, highest=4.0)),
    "recomputed": lambda: nn.Model([nn.Recompute(nn.Dense(4), nn.Dense(4))], (4,)),
    "branches summed": lambda: nn.Model([nn.Parallel(nn.Dense(4), nn.Sequential(nn.Dense(3), nn.ReLU(), nn.Dense(4)))], (5,)),
    "branches joined": lambda: nn.Model([nn.Parallel(nn.Conv(2, 1), nn.Conv(3, 1), concatenate=True)], (4, 4, 2)),
    "residual": lambda: nn.Model([nn.Residual(nn.Dense(4), nn.GELU(), projection=nn.Dense(4))], (5,)),
}

LAYERS: dict[str, tuple[tuple[int, ...], list[Layer]]] = {
    "relu": ((7,), [nn.ReLU()]),
    "tanh": ((7,), [nn.Tanh()]),
    "sigmoid": ((2, 7), [nn.Sigmoid()]),
    "silu": ((7,), [nn.SiLU()]),
    "gelu": ((7,), [nn.GELU()]),
    "gelu, exact": ((7,), [nn.GELU(tanh=False)]),
    "softmax": ((3, 7), [nn.Softmax()]),
    "flatten": ((2, 3, 4), [nn.Flatten()]),
    "reshape": ((24,), [nn.Reshape(2, 3, 4)]),
    "dropout": ((7,), [nn.Dropout(0.5)]),
    "dense at positions": ((3, 5), [nn.Dense(4, positions=True)]),
    "bias": ((3, 5), [nn.Bias()]),
    "layer norm": ((3, 5), [nn.LayerNorm()]),
    "rms norm": ((3, 5), [nn.RMSNorm(1e-3)]),
    "rnn": ((4, 3), [nn.RNN(5)]),
    "rnn, all states": ((4, 3), [nn.RNN(5, sequence=True), nn.RNN(2, sequence=True)]),
    "lstm, all states": ((4, 3), [nn.LSTM(5, sequence=True)]),
    "gru": ((4, 3), [nn.GRU(5)]),
    "gru, all states": ((4, 3), [nn.GRU(5, sequence=True), nn.GRU(2, sequence=True)]),
    "positions": ((4, 3), [nn.Positions()]),
    "rotary": ((6, 24), [nn.Rotary(2)]),
    "attention": ((5, 8), [nn.Attention(8, 2)]),
    "attention, causal with angles": ((5, 8), [nn.Attention(8, 2, causal=True, rotary=True, dropout=0.1)]),
    "batch norm of rows": ((5,), [nn.BatchNorm()]),
    "batch norm of images": ((4, 4, 5), [nn.BatchNorm(epsilon=1e-3)]),
    "conv": ((7, 6, 3), [nn.Conv(4, 3)]),
    "conv, all options": ((7, 6, 4), [nn.Conv(6, (3, 2), stride=(2, 1), padding=(1, 0), groups=2)]),
    "conv without bias": ((5, 5, 2), [nn.Conv(3, 2, bias=False)]),
    "conv of sequences": ((9, 4), [nn.Conv(6, 3, stride=2, padding=1, groups=2)]),
    "max": ((6, 8, 3), [nn.MaxPool(2)]),
    "max, all options": ((7, 8, 3), [nn.MaxPool((3, 2), stride=2, padding=1)]),
    "max of sequences": ((9, 3), [nn.MaxPool(3, stride=2)]),
    "max of all": ((5, 4, 3), [nn.MaxPool()]),
    "mean": ((7, 8, 3), [nn.AveragePool(3, stride=2, padding=1)]),
    "mean of all": ((5, 4, 3), [nn.AveragePool()]),
    "mean of all of sequences": ((5, 3), [nn.AveragePool()]),
}
MADE = MODELS | {name: lambda shape=shape, row=row: nn.Model(row, shape) for name, (shape, row) in LAYERS.items()}


def ran(path, rows):
    """What onnxruntime makes of rows, or skip."""
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; pip install onnxruntime to run exported models")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(["outputs"], {"rows": rows})[0]


def rows_for(model, count):
    """Tokens for a model of tokens, numbers for others."""
    random = np.random.default_rng(count)
    lookup = next((layer for _, layer in walk(numbered(model.layers)) if isinstance(layer, Lookup)), None)
    if lookup is not None:
        return random.integers(0, lookup.vocabulary, (count, *model.shape))
    if isinstance(model.layers[-1], (nn.Hopfield, nn.RestrictedBoltzmann)):
        return random.uniform(0, 4, (count, *model.shape)).astype(np.float32)
    return random.standard_normal((count, *model.shape)).astype(np.float32)


def stirred(model, seed=3):
    """The model with other numbers everywhere; variances stay positive."""
    random = np.random.default_rng(seed)
    model.arena.data += random.uniform(0.1, 0.6, model.arena.n).astype(model.arena.dtype) * np.sign(model.arena.data + 1e-6)
    return model


@pytest.mark.parametrize("name", MADE)
def test_the_runtime_predicts_what_the_model_predicts_for_any_number_of_rows(name, tmp_path):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed; pip install onnx to export graphs")
    model = stirred(MADE[name]())
    export_onnx(model, tmp_path / "model.onnx", {"step": "3"})
    made = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(made, full_check=True)
    assert {p.key: p.value for p in made.metadata_props} == {"step": "3"}
    for count in (1, 5):
        rows = rows_for(model, count)
        expected = model.forward(rows.copy()).copy()
        assert np.ptp(expected) > 0
        np.testing.assert_allclose(ran(tmp_path / "model.onnx", rows), expected, rtol=1e-5, atol=1e-5 * max(1, np.abs(expected).max()))
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_double_precision_stays_double(tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed; pip install onnx to export graphs")
    model = stirred(nn.mlp([6, 8, 3], dtype=np.float64))
    export_onnx(model, tmp_path / "model.onnx")
    rows = np.random.default_rng(0).standard_normal((4, 6))
    np.testing.assert_allclose(ran(tmp_path / "model.onnx", rows), model.forward(rows), rtol=1e-12)


class Odd(nn.ReLU):
    """A user's layer that is no ReLU."""


def test_a_layer_without_operators_is_refused_by_name_and_nothing_is_written(tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed; pip install onnx to export graphs")
    with pytest.raises(ExportError, match=r"does not know the layer Odd; it knows .*Conv.*safetensors"):
        export_onnx(nn.Model([nn.Residual(nn.Dense(3), Odd())], (3,)), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("causal", [False, True])
def test_padding_is_seen_by_nobody_and_who_sees_nothing_gets_zeros(causal, tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed; pip install onnx to export graphs")
    model = stirred(nn.Model([nn.Embedding(7, 24, padding=0), nn.DotProduct(2, causal=causal)], (6,)))
    export_onnx(model, tmp_path / "model.onnx")
    tokens = np.array([[1, 2, 3, 4, 5, 6], [3, 3, 1, 0, 0, 0], [0, 0, 2, 0, 5, 1], [0, 0, 0, 0, 0, 0]])
    found = ran(tmp_path / "model.onnx", tokens)
    np.testing.assert_allclose(found, model.forward(tokens), rtol=1e-5, atol=1e-6)
    assert not found[3].any()
    assert found[:3].any()


@pytest.mark.parametrize("wrong", [-1, 5])
@pytest.mark.parametrize(("kind", "options"), [(nn.Embedding, ()), (nn.NGrams, ([2], 7)), (nn.Recall, ([1],))])
def test_a_token_outside_the_vocabulary_is_an_error_in_the_runtime_too(kind, options, wrong, tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed; pip install onnx to export graphs")
    export_onnx(nn.Model([kind(5, 4, *options)], (3,)), tmp_path / "model.onnx")
    with pytest.raises(Exception, match="out of data bounds"):
        ran(tmp_path / "model.onnx", np.array([[0, 1, wrong]]))


@pytest.mark.parametrize("make", [nn.rbm, nn.hopfield])
def test_a_row_that_is_no_unit_between_off_and_on_gives_no_numbers(make, tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed; pip install onnx to export graphs")
    export_onnx(make(3, 1, highest=2.0), tmp_path / "model.onnx")
    found = ran(tmp_path / "model.onnx", np.array([[0, 2, 1], [0, 3, 1], [-1, 0, 0]], np.float32))
    np.testing.assert_array_equal(np.isnan(found).all(axis=1), [False, True, True])


def test_tokens_that_come_as_numbers_are_whole_or_an_error(tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed; pip install onnx to export graphs")
    model = nn.Model([nn.ReLU(), nn.Embedding(5, 4)], (3,))
    export_onnx(model, tmp_path / "model.onnx")
    rows = np.array([[0, 4, 2]], np.float32)
    np.testing.assert_array_equal(ran(tmp_path / "model.onnx", rows), model.forward(rows.copy()))
    with pytest.raises(Exception, match="out of data bounds"):
        ran(tmp_path / "model.onnx", rows + np.float32(0.25))


def test_a_folder_that_is_not_there_is_told(tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed; pip install onnx to export graphs")
    with pytest.raises(ExportError, match=r"nowhere.*cannot be written"):
        export_onnx(nn.linear(2, 1), tmp_path / "nowhere" / "model.onnx")
