"""A worker's rows in micro-batches: the same sums but for rounding, the same bits on any ranks; and who made a loss that is no number."""

from __future__ import annotations

import numpy as np
import pytest

import hpcml
from hpcml.comm import simulated
from hpcml.errors import CheckpointError, NumericsError
from hpcml.nn import BatchNorm, Dense, Dropout, Layer, Model, ReLU, Residual, Tail
from hpcml.train.checkpoint import sha256_of_weights
from tests.small import CLASSES, WIDTH, rows, write_shard

N, B, V = 61, 16, 2


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    x, y = rows(N)
    write_shard(folder / "train.h5", x, y)
    return str(folder / "train.h5")


def trainer(comm, shards, layers=None, **options):
    layers = layers() if layers else [Dense(5), ReLU(), Dense(CLASSES)]
    model = Model(layers, (WIDTH,), seed=3, dtype=options.pop("dtype", "float64"))
    data = hpcml.open_shards(shards, features="x", target="y")
    rule = hpcml.SGD(0.1, momentum=0.9)
    options = {"batch": B, "workers": V, "seed": 3, "hooks": [], "sync": hpcml.EveryStep(), **options}
    return hpcml.Trainer(model, hpcml.nn.softmax_cross_entropy, rule, options.pop("sync"), data, comm=comm, **options)


def gradient(shards, micro_batch, layers=None):
    def program(comm):
        it = trainer(comm, shards, layers, micro_batch=micro_batch)
        batches = next(it.loader.batches(0, 0))
        told = []
        found = []
        for batch in batches:
            fault = it.differentiator.run(batch, 0, "here", told.append, lambda batch: None)
            assert fault is None
            found.append(it.model.arena.grad.copy())
        return found, told

    return simulated.run(1, program)[0]


@pytest.mark.parametrize("micro_batch", [1, 3, 7, 8, 100])
def test_the_gradient_and_the_tail_are_those_of_all_rows_at_once(shards, micro_batch):
    whole, told = gradient(shards, 0)
    parts, told_again = gradient(shards, micro_batch)
    assert told == told_again
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-10, atol=1e-13)
        assert other[-len(Tail) :][Tail.ROWS] == B / V


def test_dropout_draws_other_numbers_in_each_micro_batch(shards):
    drawn = []

    class Watched(Dropout):
        def forward(self, x):
            out = super().forward(x)
            drawn.append((self._kept > 0).copy())
            return out

    gradient(shards, 4, lambda: [Dense(50), Watched(0.5), Dense(CLASSES)])
    assert len({mask.tobytes() for mask in drawn}) == len(drawn) == 4


def train(ranks, epochs, shards, **options):
    def program(comm):
        it = trainer(comm, shards, lambda: [Dense(8), BatchNorm(), ReLU(), Dropout(0.2), Dense(CLASSES)], dtype="float32", **options)
        metrics = str(it.run(epochs))
        return sha256_of_weights(it.model.arena.data), metrics

    (result,) = set(simulated.run(ranks, program))
    return result


@pytest.mark.parametrize("sync", [hpcml.EveryStep(), hpcml.LocalSteps(3)], ids=["every-step", "local-steps"])
def test_micro_batches_have_the_same_bits_on_any_ranks_and_after_a_resume(shards, sync, tmp_path):
    whole = train(1, 2, shards, sync=sync, micro_batch=3)
    assert train(2, 2, shards, sync=sync, micro_batch=3) == whole
    assert train(1, 2, shards, sync=sync) != whole
    train(2, 1, shards, sync=sync, micro_batch=3, saving=hpcml.Saving(tmp_path))
    assert train(1, 2, shards, sync=sync, micro_batch=3, saving=hpcml.Saving(tmp_path, resume=True)) == whole


def test_another_micro_batch_is_another_run(shards, tmp_path):
    train(1, 1, shards, micro_batch=3, saving=hpcml.Saving(tmp_path))
    with pytest.raises(CheckpointError, match="micro-batch"):
        train(1, 2, shards, micro_batch=4, saving=hpcml.Saving(tmp_path, resume=True))


@pytest.mark.parametrize(("before", "after"), [(0.1, 0.2), (0.0, 0.2), (0.2, 0.0)])
def test_another_dropout_is_another_run(shards, tmp_path, before, after):
    def program(comm, probability, resume):
        layers = [Dense(5), ReLU(), Dropout(probability), Dense(CLASSES)]
        return trainer(comm, shards, lambda: layers, saving=hpcml.Saving(tmp_path, resume=resume)).run(1)

    simulated.run(1, lambda comm: program(comm, before, False))
    with pytest.raises(CheckpointError, match="dropout"):
        simulated.run(1, lambda comm: program(comm, after, True))


class Burst(Layer):
    """Gives no numbers for rows that begin with a positive one."""

    def build(self, shape):
        return shape, {}

    def forward(self, x):
        return np.where(x[:, :1] > 0, np.nan, x)

    def backward(self, slope):
        return slope


@pytest.mark.parametrize("micro_batch", [0, 3])
def test_a_loss_that_is_no_number_names_the_layer_where_it_began(shards, micro_batch):
    def program(comm):
        it = trainer(comm, shards, lambda: [Dense(5), Residual(ReLU(), Burst(), Dense(5)), Dense(CLASSES)], micro_batch=micro_batch)
        it.run(1)

    with pytest.raises(NumericsError, match=r"step 0, worker 0: the loss is nan .*first in the output of 1\.residual\.1\.burst"):
        simulated.run(2, program)
