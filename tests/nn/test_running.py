"""Running statistics and the context of a pass: moved by mean batch statistics, not by rules; the same on any ranks, resumed or not."""

from __future__ import annotations

import numpy as np
import pytest

import hpcml
from hpcml.comm import simulated
from hpcml.errors import ShapeError
from hpcml.nn import Arena, Dense, Layer, Model, ReLU, Running
from hpcml.nn.layers import zeros
from hpcml.optim import LARS, SGD, AdamW, Clipped, Scratch, apply_whole
from hpcml.train.checkpoint import sha256_of_weights
from tests.small import CLASSES, WIDTH, rows, write_shards

KEEP = 0.75
N, B, V = 61, 16, 4


class Mean(Layer):
    """Passes rows on and keeps a running mean of them."""

    def build(self, shape):
        return shape, {"mean": Running(shape, zeros)}

    def forward(self, x):
        if self.context.training:
            mean = self.parameters["mean"]
            mean.grad[...] = self.context.weigh(len(x)) * (1 - KEEP) * (mean.data - x.mean(axis=0))
        return x

    def backward(self, slope):
        return slope


class Noise(Layer):
    """Adds seeded numbers in training."""

    def build(self, shape):
        return shape, {}

    def forward(self, x):
        return x + self.random("noise").random(x.shape, np.float32) if self.context.training else x

    def backward(self, slope):
        return slope


def model(seed=3):
    return Model([Mean(), Dense(5), ReLU(), Noise(), Mean(), Dense(CLASSES)], (WIDTH,), seed=seed)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("shards"), 20, N - 20)


RULES = {
    "sgd": SGD(0.1, momentum=0.9, decay=0.1),
    "adamw": AdamW(0.01, decay=0.1),
    "lars": LARS(0.1, decay=0.1),
    "clipped": Clipped(SGD(0.1), 0.01),
}


def test_statistics_stand_behind_all_parameters():
    arena = model().arena
    assert [p.name for p in arena][-2:] == ["0.mean.mean", "4.mean.mean"]
    assert arena.n - arena.trained == WIDTH + 5
    assert arena.parts()[-1].stop == arena.trained
    assert arena.fingerprint() != Arena(dict(arena.layout())).fingerprint()


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("trained", [0, 3, 50_000, 70_000])
def test_no_rule_moves_a_statistic(name, trained):
    n = 70_001
    random = np.random.default_rng(2)
    data, grad = random.standard_normal((2, n))
    expected, alone = data[trained:] - grad[trained:], data[:trained].copy()
    parts = [slice(0, trained)] if trained else []
    state, other = np.zeros((RULES[name].slots, n)), np.zeros((RULES[name].slots, trained))
    apply_whole(RULES[name], alone, grad[:trained].copy(), other, 0, Scratch(alone, parts))
    apply_whole(RULES[name], data, grad.copy(), state, 0, Scratch(data, parts, trained))
    np.testing.assert_array_equal(data[trained:], expected)
    np.testing.assert_array_equal(data[:trained], alone)
    assert (state[:, trained:] == 0).all()


def train(ranks, epochs, shards, rhythm, rule=RULES["sgd"], **options):
    def program(comm):
        data = hpcml.open_shards(shards, features="x", target="y")
        options.setdefault("hooks", [])
        it = hpcml.Trainer(
            model(), hpcml.nn.softmax_cross_entropy, rule, rhythm, data, batch=B, workers=V, seed=3, comm=comm, test=data, **options
        )
        metrics = it.run(epochs)
        return sha256_of_weights(it.model.arena.data), str(metrics), it.model.arena.view("0.mean.mean").data.copy().tobytes()

    (result,) = set(simulated.run(ranks, program))
    return result


@pytest.mark.parametrize("rhythm", [hpcml.EveryStep(), hpcml.LocalSteps(3)], ids=["every-step", "local-steps"])
@pytest.mark.parametrize("name", RULES)
def test_statistics_and_noise_are_the_same_on_any_ranks_and_after_a_resume(shards, rhythm, name, tmp_path):
    rule = RULES[name]
    whole = train(1, 2, shards, rhythm, rule)
    assert train(3, 2, shards, rhythm, rule) == whole
    train(4, 1, shards, rhythm, rule, saving=hpcml.Saving(tmp_path))
    assert train(2, 2, shards, rhythm, rule, saving=hpcml.Saving(tmp_path, resume=True)) == whole


def test_the_running_mean_follows_the_mean_of_the_global_batch(shards):
    x, _ = rows(N)
    expected, seen = np.zeros(WIDTH), []

    class Steps(hpcml.Hook):
        def after_step(self, trainer):
            at = trainer.count - 1
            seen.append((np.concatenate([trainer.sampler.rows_of(0, worker, at) for worker in range(V)]), trainer.model.arena.data.copy()))

    train(1, 1, shards, hpcml.EveryStep(), hooks=[Steps()])
    span = model().arena.view("0.mean.mean").span
    for where, data in seen:
        expected = KEEP * expected + (1 - KEEP) * x[where].mean(axis=0)
        np.testing.assert_allclose(data[span], expected, rtol=1e-5, atol=1e-6)


def test_evaluation_is_neither_random_nor_does_it_move_a_statistic():
    it, x = model(), rows(9)[0].astype(np.float32)
    it.arena.grad.fill(7)
    first = it.forward(x).copy()
    np.testing.assert_array_equal(it.forward(x), first)
    assert (it.arena.grad == 7).all()
    it.context.train(seed=1, step=0, worker=0)
    assert (it.forward(x) != first).any()


def test_random_numbers_differ_by_seed_step_worker_part_and_layer_and_repeat_with_them():
    layers = [Noise(), Noise()]
    it = Model([*layers, Dense(2)], (3,))
    places = [(1, 0, 0, 0), (2, 0, 0, 0), (1, 1, 0, 0), (1, 0, 1, 0), (1, 0, 0, 1)]
    seen = set()
    for seed, step, worker, part in places * 2:
        it.context.train(seed=seed, step=step, worker=worker, part=part)
        seen |= {layer.random("noise").random(3).tobytes() for layer in layers}
    assert len(seen) == len(places) * 2


@pytest.mark.parametrize(("wrong", "near"), [("flaot32", "did you mean 'float32'"), ("int32", "float32"), (object, "choose one of")])
def test_an_unknown_dtype_is_refused_with_the_near_one(wrong, near):
    with pytest.raises(ShapeError, match=f"dtype cannot be .*{near}"):
        Model([Dense(2)], (3,), dtype=wrong)


def test_an_unknown_layer_is_refused_with_the_near_one():
    with pytest.raises(AttributeError, match="has no 'Dens'; did you mean 'Dense'"):
        _ = hpcml.nn.Dens
