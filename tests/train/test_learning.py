"""Whole models reach what a direct method finds: least squares by numpy, softmax regression by scikit-learn."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

import hpcml
from hpcml.comm import simulated
from tests.small import rows, write_shard


def train(shards, ranks, model, loss, rate, epochs):
    """Train on all rows at each step and return the final metrics."""

    def program(comm):
        data = hpcml.open_shards(shards, features="x", target="y")
        rule, sync = hpcml.SGD(rate=rate, momentum=0.9, nesterov=True), hpcml.EveryStep()
        trainer = hpcml.Trainer(model(), loss, rule, sync, data, batch=data.rows, workers=2, comm=comm, hooks=[])
        trainer.run(epochs)
        return trainer.evaluate(data)

    return simulated.run(ranks, program)[0]


@pytest.mark.parametrize("columns", [(), (2,)], ids=["one column", "two columns"])
def test_linear_regression_reaches_least_squares(tmp_path, columns):
    random = np.random.default_rng(5)
    x = random.normal(size=(80, 3))
    y = (x @ random.normal(size=(3, 2)) + 0.7 + random.normal(0, 0.3, (80, 2)))[:, : 2 if columns else 1].reshape(80, *columns)
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["x"], file["y"] = x, y
    targets = y.reshape(80, -1)
    inputs = np.column_stack([x, np.ones(80)])
    residual = targets - inputs @ np.linalg.lstsq(inputs, targets, rcond=None)[0]
    best = (residual**2).sum() / 2 / 80
    model = lambda: hpcml.nn.linear(3, targets.shape[1], dtype="float64")  # noqa: E731
    metrics = train(str(tmp_path / "s.h5"), 2, model, hpcml.nn.squared_error, 0.2, 150)
    assert metrics == {"loss": pytest.approx(best, rel=1e-8)}


def test_softmax_regression_reaches_the_optimum_of_scikit_learn(tmp_path):
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    x, y = rows(120)
    x = x + np.random.default_rng(6).normal(0, 1.0, x.shape).astype(np.float32)  # overlapping classes: a finite optimum
    write_shard(tmp_path / "s.h5", x, y)
    judge = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(x, y)
    best = log_loss(y, judge.predict_proba(x))
    metrics = train(str(tmp_path / "s.h5"), 2, lambda: hpcml.nn.linear(4, 3, dtype="float64"), hpcml.nn.softmax_cross_entropy, 0.5, 400)
    assert metrics["loss"] == pytest.approx(best, rel=1e-4)
