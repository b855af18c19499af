"""Batch norm over the rows of all workers: one big batch's numbers, the same bits on any ranks, and no worker waits in vain."""

from __future__ import annotations

import re

import numpy as np
import pytest

import hpcml
from hpcml.comm import simulated
from hpcml.errors import CheckpointError, ConfigError, DataError, NumericsError, ShapeError
from hpcml.nn import BatchNorm, Conv, Dense, Flatten, Layer, Model, Recompute, ReLU, Reshape, Residual, Tail
from hpcml.sync.server import ParameterServer
from hpcml.train.checkpoint import sha256_of_weights
from tests.small import CLASSES, WIDTH, Job, explained, rows, write_shard

N, B = 41, 16
"""The last batch of an epoch has 9 rows, and the workers of every batch unequal numbers of them."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shard(folder / "train.h5", *rows(N))
    return str(folder / "train.h5")


def norm():
    return BatchNorm(synchronised=True)


def layers():
    inside = Residual(Conv(3, 1, bias=False), norm(), ReLU())
    return [Reshape(2, 2, 1), Conv(3, 3, padding=1, bias=False), norm(), ReLU(), inside, norm(), Flatten(), Dense(CLASSES)]


def trainer(comm, shards, workers=3, made=layers, sync=None, **options):
    model = Model(made(), (WIDTH,), seed=3, dtype=options.pop("dtype", "float32"))
    data = hpcml.open_shards(shards, features="x", target="y")
    options = {"batch": B, "seed": 3, "hooks": [], **options}
    rule = hpcml.SGD(0.05, momentum=0.9)
    return hpcml.Trainer(
        model, hpcml.nn.softmax_cross_entropy, rule, sync or hpcml.EveryStep(), data, comm=comm, workers=workers, **options
    )


def train(ranks, shards, epochs=2, **options):
    def program(comm):
        it = trainer(comm, shards, **options)
        metrics = str(it.run(epochs))
        return sha256_of_weights(it.model.arena.data), metrics

    (result,) = set(simulated.run(ranks, program))
    return result


@pytest.mark.parametrize("workers", [3, 4, 5])
def test_one_to_four_ranks_have_the_same_bits(shards, workers):
    whole = train(1, shards, workers=workers)
    for ranks in range(2, min(workers, 4) + 1):
        assert train(ranks, shards, workers=workers) == whole


def test_workers_without_rows_and_late_workers_keep_nobody_waiting(shards):
    alone = train(1, shards, workers=4, batch=5)
    assert train(3, shards, workers=4, batch=5) == alone
    spare = hpcml.EveryStep(spare=1)
    assert train(3, shards, workers=4, sync=spare) == train(1, shards, workers=4, sync=spare)


def test_stopped_on_three_ranks_it_goes_on_on_two_to_the_same_bits(shards, tmp_path):
    train(3, shards, 1, saving=hpcml.Saving(tmp_path))
    assert train(2, shards, saving=hpcml.Saving(tmp_path, resume=True)) == train(1, shards)


@pytest.mark.parametrize("first", [True, False])
def test_with_and_without_are_two_runs(shards, tmp_path, first):
    made = {s: lambda s=s: [Dense(3), BatchNorm(synchronised=s), Dense(CLASSES)] for s in (True, False)}
    train(1, shards, 1, made=made[first], saving=hpcml.Saving(tmp_path))
    with pytest.raises(CheckpointError, match=r"batch statistics \(model.synchronised\)"):
        train(1, shards, 2, made=made[not first], saving=hpcml.Saving(tmp_path, resume=True))


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_gradients_and_statistics_are_those_of_one_big_batch(shards, workers):
    """In float64 workers differ from one plain batch by rounding alone."""

    def program(comm):
        it = trainer(comm, shards, workers, dtype="float64")
        batches = next(it.loader.batches(0, 0))
        found = it._together(batches, it.lockstep)
        return np.sum(found, axis=0), np.concatenate([b.x for b in batches]), np.concatenate([b.y for b in batches])

    (total, x, y) = simulated.run(1, program)[0]
    plain = Model(layers(), (WIDTH,), seed=3, dtype="float64")
    plain.context.train(seed=3, step=0, worker=0)
    value, slope = hpcml.nn.softmax_cross_entropy(plain.forward(x), y)
    plain.backward(slope)
    n = plain.arena.n
    np.testing.assert_allclose(total[:n], plain.arena.grad[:n], rtol=1e-9, atol=1e-12)
    assert total[n + Tail.LOSS] == pytest.approx(float(value))


def test_alone_it_is_plain_batch_norm():
    x = np.random.default_rng(0).normal(5, 3, (64, 7)).astype(np.float32)
    found = []
    for synchronised in (False, True):
        model = Model([BatchNorm(synchronised=synchronised)], (7,))
        model.context.train(seed=0, step=0, worker=0)
        out = model.forward(x).copy()
        model.backward(np.cos(x))
        found.append((out, model.arena.grad.copy()))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)


def test_far_from_zero_no_digit_is_lost():
    """The squares of sums are subtracted, but in float64: a mean of ten thousand deviations leaves the variance whole."""
    x = (np.random.default_rng(0).standard_normal((512, 3)) + 1e4).astype(np.float32)
    model = Model([norm()], (3,))
    model.context.train(seed=0, step=0, worker=0)
    out = model.forward(x)
    np.testing.assert_allclose(out.std(axis=0), 1, rtol=1e-3)


class Burst(Layer):
    """Gives one worker's last row no number."""

    def __init__(self, worker):
        super().__init__()
        self.worker = worker

    def build(self, shape):
        return shape, {}

    def forward(self, x):
        if self.context.worker == self.worker and self.context.training:
            x[-1:] = np.nan
        return x

    def backward(self, slope):
        return slope


BEFORE = {
    "before all sums": lambda w: [Dense(3), Burst(w), norm(), Dense(3), norm(), Dense(CLASSES)],
    "between two": lambda w: [Dense(3), norm(), Residual(Dense(3), Burst(w)), norm(), Dense(CLASSES)],
    "after the last": lambda w: [Dense(3), norm(), ReLU(), Dense(4), Burst(w), Dense(CLASSES)],
}


@pytest.mark.parametrize("place", BEFORE)
@pytest.mark.parametrize("worker", [0, 2, 3])
def test_the_worker_whose_rows_made_what_is_no_number_is_named_though_the_sums_spread_it(shards, worker, place):
    """With the sums every worker's loss is none; the error names the one that made it, alike on any number of ranks."""
    said = set()
    for ranks in (1, 2, 3, 4):
        with pytest.raises(NumericsError) as caught:
            train(ranks, shards, workers=4, made=lambda: BEFORE[place](worker))
        said.add(re.sub(r"^rank \d: ", "", str(caught.value)))
    (text,) = said
    assert re.fullmatch(rf"epoch 0, step 0, worker {worker}: the loss is nan over 4 rows, .*first in the output of .*burst; .*", text)


def test_the_first_in_the_model_is_told_where_two_workers_fail(shards):
    made = lambda: [Dense(3), Burst(2), norm(), Burst(1), norm(), Dense(CLASSES)]  # noqa: E731
    for ranks in (1, 2, 3):
        with pytest.raises(NumericsError, match=r"^(rank \d: )?epoch 0, step 0, worker 2: [^\n]*first in the output of 1\.burst[^\n]*$"):
            train(ranks, shards, made=made)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_bad_target_of_one_worker_is_named_on_all_ranks(tmp_path, ranks):
    x, y = rows(N)
    y[7] = CLASSES
    write_shard(tmp_path / "train.h5", x, y)
    with pytest.raises(DataError, match="row 7"):
        train(ranks, str(tmp_path / "train.h5"))


def test_an_unexpected_error_in_a_worker_is_raised_as_it_is(shards):
    class Broken(Layer):
        def build(self, shape):
            return shape, {}

        def forward(self, x):
            if self.context.worker == 0:
                raise ZeroDivisionError("worker 0 broke")
            return x

        def backward(self, slope):
            return slope

    with pytest.raises(ZeroDivisionError, match="worker 0 broke"):
        train(1, shards, made=lambda: [Dense(3), norm(), Broken(), Dense(CLASSES)])


REFUSED = {
    "local-steps": (
        ConfigError,
        'step together; set sync.name = "every-step", or model.synchronised = false',
        {"sync": hpcml.LocalSteps(3)},
    ),
    "own pace": (ConfigError, 'step together; set sync.name = "every-step", or model.synchronised = false', {"sync": ParameterServer()}),
    "micro-batches": (ConfigError, "train.micro_batch is 3; set it to 0", {"micro_batch": 3}),
    "recomputed": (ShapeError, "0.recompute would make", {"made": lambda: [Recompute(norm()), Dense(CLASSES)]}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_meet_is_refused(shards, name):
    kind, text, options = REFUSED[name]
    with pytest.raises(kind, match=text):
        train(2, shards, **options)


def test_it_follows_torchs_synchronised_batch_norm(shards):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(1).normal(2, 3, (12, 5)).astype(np.float32)
    slope = np.random.default_rng(2).standard_normal((12, 5)).astype(np.float32)
    twin = torch.nn.BatchNorm1d(5)  # of one big batch: what SyncBatchNorm is defined to equal, which itself runs on GPUs alone
    there = torch.tensor(x, requires_grad=True)
    out = twin(there)
    out.backward(torch.tensor(slope))
    model = Model([norm()], (5,))
    model.context.train(seed=0, step=0, worker=0)
    np.testing.assert_allclose(model.forward(x), out.detach().numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(model.layers[0].backward(slope.copy()), there.grad.numpy(), rtol=1e-4, atol=1e-5)


def test_real_worlds_of_one_to_three_ranks_agree_and_refuse_by_name(tmp_path):
    job = Job(tmp_path)
    model = ["model.name=resnet", "model.shape=[2, 2, 1]", "model.channels=[2]", "model.blocks=1", "model.synchronised=true"]
    job.config.write_text(job.config.read_text().replace("hidden = [5]\n", ""))
    for ranks in (1, 2, 3):
        job.train(ranks, f"R{ranks}", *model).check()
    assert len({job.digest(f"R{ranks}") for ranks in (1, 2, 3)}) == 1
    explained(job.train(3, "local", *model, "sync.name=local-steps"), "model.synchronised", "every-step")
