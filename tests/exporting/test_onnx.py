"""Exported graphs: onnxruntime says what the model says."""

from __future__ import annotations

import numpy as np
import pytest

from hpcml.errors import ExportError
from hpcml.exporting import export_onnx
from hpcml.nn import (
    GELU,
    AveragePool,
    BatchNorm,
    Bias,
    Conv,
    Dense,
    Dropout,
    Flatten,
    LayerNorm,
    MaxPool,
    Model,
    Parallel,
    Recompute,
    ReLU,
    Reshape,
    Residual,
    Sequential,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
    autoencoder,
    lenet,
    linear,
    lstm,
    mlp,
    resnet,
    transformer,
)
from hpcml.nn.layers.layer import Layer

MODELS = {
    "linear": lambda: linear(5, 3),
    "mlp": lambda: mlp([6, 16, 8, 4]),
    "mlp of images": lambda: mlp([(3, 2), 8, 4]),
    "autoencoder": lambda: autoencoder([6, 5, 2]),
    "lenet": lambda: lenet((8, 8, 3), [4, 6], [10], 5),
    "lenet of flat rows": lambda: lenet((8, 8, 1), [4, 6], [10], 5, (64,)),
    "resnet": lambda: resnet((8, 8, 3), [4, 6], 1, 5),
    "recomputed": lambda: Model([Recompute(Dense(4), Dense(4))], (4,)),
    "branches summed": lambda: Model([Parallel(Dense(4), Sequential(Dense(3), ReLU(), Dense(4)))], (5,)),
    "branches joined": lambda: Model([Parallel(Conv(2, 1), Conv(3, 1), concatenate=True)], (4, 4, 2)),
    "residual": lambda: Model([Residual(Dense(4), GELU(), projection=Dense(4))], (5,)),
}

LAYERS: dict[str, tuple[tuple[int, ...], list[Layer]]] = {
    "relu": ((7,), [ReLU()]),
    "tanh": ((7,), [Tanh()]),
    "sigmoid": ((2, 7), [Sigmoid()]),
    "silu": ((7,), [SiLU()]),
    "gelu": ((7,), [GELU()]),
    "gelu, exact": ((7,), [GELU(tanh=False)]),
    "softmax": ((3, 7), [Softmax()]),
    "flatten": ((2, 3, 4), [Flatten()]),
    "reshape": ((24,), [Reshape(2, 3, 4)]),
    "dropout": ((7,), [Dropout(0.5)]),
    "dense at positions": ((3, 5), [Dense(4, positions=True)]),
    "bias": ((3, 5), [Bias()]),
    "layer norm": ((3, 5), [LayerNorm()]),
    "batch norm of rows": ((5,), [BatchNorm()]),
    "batch norm of images": ((4, 4, 5), [BatchNorm(epsilon=1e-3)]),
    "conv": ((7, 6, 3), [Conv(4, 3)]),
    "conv, all options": ((7, 6, 4), [Conv(6, (3, 2), stride=(2, 1), padding=(1, 0), groups=2)]),
    "conv without bias": ((5, 5, 2), [Conv(3, 2, bias=False)]),
    "conv of sequences": ((9, 4), [Conv(6, 3, stride=2, padding=1, groups=2)]),
    "max": ((6, 8, 3), [MaxPool(2)]),
    "max, all options": ((7, 8, 3), [MaxPool((3, 2), stride=2, padding=1)]),
    "max of sequences": ((9, 3), [MaxPool(3, stride=2)]),
    "max of all": ((5, 4, 3), [MaxPool()]),
    "mean": ((7, 8, 3), [AveragePool(3, stride=2, padding=1)]),
    "mean of all": ((5, 4, 3), [AveragePool()]),
    "mean of all of sequences": ((5, 3), [AveragePool()]),
}
MADE = MODELS | {name: lambda shape=shape, row=row: Model(row, shape) for name, (shape, row) in LAYERS.items()}


def ran(path, rows):
    """What onnxruntime makes of rows, or skip."""
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; pip install onnxruntime to run exported models")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(["outputs"], {"rows": rows})[0]


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
        rows = np.random.default_rng(count).standard_normal((count, *model.shape)).astype(np.float32)
        expected = model.forward(rows.copy()).copy()
        assert np.ptp(expected) > 0
        np.testing.assert_allclose(ran(tmp_path / "model.onnx", rows), expected, rtol=1e-5, atol=1e-5 * max(1, np.abs(expected).max()))
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_double_precision_stays_double(tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed; pip install onnx to export graphs")
    model = stirred(mlp([6, 8, 3], dtype=np.float64))
    export_onnx(model, tmp_path / "model.onnx")
    rows = np.random.default_rng(0).standard_normal((4, 6))
    np.testing.assert_allclose(ran(tmp_path / "model.onnx", rows), model.forward(rows), rtol=1e-12)


class Odd(ReLU):
    """A user's layer that is no ReLU."""


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: lstm((4, 3), [5], 2), "LSTM"),
        (lambda: transformer(9, layers=1, width=8, heads=2), "Embedding"),
        (lambda: Model([Residual(Dense(3), Odd())], (3,)), "Odd"),
    ],
)
def test_a_layer_without_operators_is_refused_by_name_and_nothing_is_written(make, name, tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed; pip install onnx to export graphs")
    with pytest.raises(ExportError, match=f"does not know the layer {name}; it knows .*Conv.*safetensors"):
        export_onnx(make(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_told(tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed; pip install onnx to export graphs")
    with pytest.raises(ExportError, match=r"nowhere.*cannot be written"):
        export_onnx(linear(2, 1), tmp_path / "nowhere" / "model.onnx")
