"""The step benchmark at tiny size: steps move the model, and PyTorch's contestant is the same model."""

from __future__ import annotations

import numpy as np
import pytest

import hpcml
from hpcml.bench.step import make_shard, slowest_seconds, training_step
from hpcml.comm import simulated

MODELS = {
    "mlp": (lambda: hpcml.nn.mlp([6, 5, 3]), 6, 3, False),
    "transformer": (lambda: hpcml.nn.transformer(7, layers=1, width=8, heads=2), 7, 256, True),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_step_moves_the_model_and_takes_time(name, tmp_path):
    make, shape, classes, tokens = MODELS[name]
    make_shard(tmp_path / "rows.h5", 8, shape, classes, tokens)

    def program(comm):
        model = make()
        step = training_step(comm, tmp_path / "rows.h5", model, 8, hpcml.EveryStep())
        before = model.arena.data.copy()
        seconds = slowest_seconds(comm, step, 2)
        assert (model.arena.data != before).any()
        return seconds

    first, second = simulated.run(2, program)
    assert first == second > 0


def test_pytorchs_transformer_is_the_same_model(repository, monkeypatch):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; pip install torch==2.13.0 to compare with it")
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    from peers import Language

    ours, theirs = hpcml.nn.transformer(7, layers=2, width=8, heads=2, dtype="float64"), Language(2, 8, 2, 6).double()
    order = ["table.weight", "places"]
    for k in range(2):
        order += [
            f"blocks.{k}.{name}.{kind}" for name in ("before", "three", "back", "between", "wide", "narrow") for kind in ("weight", "bias")
        ]
    names = dict(theirs.named_parameters())
    for p, name in zip(ours.arena, [*order, "last.weight", "last.bias"], strict=True):
        linear = any(part in name for part in ("three", "back", "wide", "narrow"))
        value = names[name].detach().numpy()
        p.data[...] = value.T if linear and value.ndim == 2 else value
    x = np.random.default_rng(0).integers(0, 256, (3, 7))
    expected = theirs(torch.tensor(x[:, :-1])).detach().numpy()
    np.testing.assert_allclose(ours.forward(x.astype(np.float64)), expected, rtol=1e-9, atol=1e-11)
