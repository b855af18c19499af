"""Runs in 16 bits: what overflows is left out by all ranks at once, the scale follows PyTorch's rule, the bits are the same anywhere."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hpcml
from hpcml.comm import simulated
from hpcml.errors import CheckpointError, ConfigError, HpcmlError, NumericsError
from hpcml.nn import BFLOAT16, FLOAT16, BatchNorm, Dense, Dropout, Layer, Model, Recompute, ReLU, Residual, Scaling, Tail, Tanh
from hpcml.optim import Clipped
from hpcml.train import Recorder
from hpcml.train.checkpoint import sha256_of_weights
from hpcml.train.scaling import Scaler
from tests.nn.torching import torch
from tests.small import CLASSES, WIDTH, Stop, rows, write_shard

N, B, V = 61, 16, 4
HIGH = replace(FLOAT16, scaling=Scaling(first=2.0**19, patience=3))
"""A scale that overflows in the first steps, and grows again soon."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shard(folder / "train.h5", *rows(N))
    return str(folder / "train.h5")


LOWER = replace(FLOAT16, scaling=Scaling(first=2.0**15, patience=3))
"""One that comes down to where steps move within an epoch, for blocks whose slopes are larger."""

RULE = hpcml.SGD(0.1, momentum=0.9)


def trainer(comm, shards, precision=HIGH, layers=tuple, rule=RULE, **options):
    model = Model([Dense(8), BatchNorm(), ReLU(), *layers(), Dense(CLASSES)], (WIDTH,), seed=3)
    if precision is not None:
        model.round(precision)
    options = {"batch": B, "workers": V, "seed": 3, "hooks": [], "sync": hpcml.EveryStep(), **options}
    data = hpcml.open_shards(shards, features="x", target="y")
    return hpcml.Trainer(model, hpcml.nn.softmax_cross_entropy, rule, options.pop("sync"), data, comm=comm, **options)


def train(ranks, epochs, shards, *arguments, **options):
    """Return digest, metrics and the scaler's state, which all ranks must share."""

    def program(comm):
        it = trainer(comm, shards, *arguments, **options)
        metrics = it.run(epochs)
        return sha256_of_weights(it.model.arena.data), json.dumps(metrics), json.dumps(it.scaler and it.scaler.state())

    (result,) = set(simulated.run(ranks, program))
    return result


@pytest.mark.parametrize("precision", [BFLOAT16, FLOAT16, HIGH], ids=["bfloat16", "float16", "overflowing"])
@pytest.mark.parametrize("micro_batch", [0, 3])
def test_the_bits_are_the_same_on_any_ranks_and_learn_as_float32_does(shards, precision, micro_batch):
    whole = train(1, 6, shards, precision, micro_batch=micro_batch)
    for ranks in (2, 3, 4):
        assert train(ranks, 6, shards, precision, micro_batch=micro_batch) == whole
    exact = train(1, 6, shards, None, micro_batch=micro_batch)
    assert whole[0] != exact[0]
    if precision is HIGH:
        assert json.loads(whole[2])["skipped_steps"] > 0
        assert json.loads(whole[1])["train_loss"] < 0.9  # log(3) is that of guessing
    else:
        assert abs(json.loads(whole[1])["train_loss"] - json.loads(exact[1])["train_loss"]) < 0.05


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_a_run_stopped_between_overflows_goes_on_to_the_same_bits(shards, tmp_path, stop):
    with pytest.raises(InterruptedError):
        train(4, 2, shards, saving=hpcml.Saving(tmp_path, every=1), hooks=[Stop(stop)])
    assert train(3, 2, shards, saving=hpcml.Saving(tmp_path, resume=True)) == train(1, 2, shards)


def blocks():
    """Return two residual blocks with dropout inside."""
    return [Residual(Dense(8), Tanh(), Dropout(0.3)) for _ in range(2)]


@pytest.mark.parametrize("precision", [BFLOAT16, LOWER], ids=["bfloat16", "overflowing"])
def test_accumulation_clipping_and_recomputed_activations_together_have_the_same_bits_anywhere_resumed_or_not(shards, tmp_path, precision):
    """And what is left out changes them, but for recomputing, whose bits are the plain chain's."""
    together = {"layers": lambda: [Recompute(*blocks())], "rule": Clipped(RULE, 0.05), "micro_batch": 3}
    whole = train(1, 2, shards, precision, **together)
    for ranks in (2, 3):
        assert train(ranks, 2, shards, precision, **together) == whole
    assert train(2, 2, shards, precision, **together | {"layers": blocks}) == whole
    assert precision is BFLOAT16 or 0 < json.loads(whole[2])["skipped_steps"] < 6
    for key, other in (("rule", RULE), ("micro_batch", 0)):
        assert train(2, 2, shards, precision, **together | {key: other})[0] != whole[0]
    with pytest.raises(InterruptedError):
        train(3, 2, shards, precision, saving=hpcml.Saving(tmp_path, every=1), hooks=[Stop(6)], **together)
    assert train(2, 2, shards, precision, saving=hpcml.Saving(tmp_path, resume=True), **together) == whole


def test_another_precision_is_another_run(shards, tmp_path):
    train(1, 1, shards, BFLOAT16, saving=hpcml.Saving(tmp_path))
    with pytest.raises(CheckpointError, match=r"precision \(train\.precision\) is float32, the checkpoint's is .*bfloat16"):
        train(1, 2, shards, None, saving=hpcml.Saving(tmp_path, resume=True))


class Spike(Layer):
    """Passes its input on; the slope of one worker at one step is too large for float16, however it is scaled."""

    def __init__(self, always=False, slope=1e30):
        super().__init__()
        self.always, self.slope = always, slope

    def build(self, shape):
        return shape, {}

    def forward(self, x):
        return x

    def backward(self, slope):
        if self.always or (self.context.step, self.context.worker) == (2, 1):
            slope[:1] = self.slope
        return slope


def test_one_workers_overflow_leaves_out_the_step_of_all_and_says_so(shards, tmp_path):
    def program(comm):
        it = trainer(comm, shards, FLOAT16, lambda: [Spike()], hooks=[Watch(), Recorder(tmp_path)])
        it.run(1)
        return it.scaler.state(), it.notes, it.meter.seen[Tail.ROWS], it.meter.seen[Tail.FAULTS], it.hooks[0].seen

    for state, notes, counted, faults, seen in simulated.run(3, program):
        assert state == {"scale": 2048.0, "good_steps": 1, "skipped_steps": 1}
        assert notes[-1] == "epoch 0, step 2: left out, since a gradient overflowed float16; the loss scale is now 2048"
        assert (counted, faults) == (N, 0)
        assert [a == b for a, b in pairwise(seen)] == [False, True, False]
    assert json.loads((tmp_path / "summary.json").read_text())["loss_scale"]["skipped_steps"] == 1
    events = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert next(e for e in events if e["event"] == "epoch")["loss_scale"]["scale"] == 2048
    assert any(e["event"] == "note" and "step 2: left out" in e["text"] for e in events)


class Watch(hpcml.Hook):
    """Keeps the digest of the weights after each step."""

    def __init__(self):
        self.seen = []

    def after_step(self, trainer):
        self.seen.append(trainer.model.arena.data.tobytes())


def test_what_overflows_at_any_scale_ends_all_ranks(shards):
    def program(comm):
        with pytest.raises(NumericsError, match=r"not finite in float16, though the loss scale is down to 0\.5; lower") as caught:
            trainer(comm, shards, FLOAT16, lambda: [Spike(always=True, slope=np.inf)]).run(9)
        return str(caught.value)

    assert len(set(simulated.run(2, program))) == 1


def test_an_error_beside_an_overflow_is_told_as_an_error(shards, tmp_path):
    path = tmp_path / "bad.h5"
    x, y = rows(N)
    y[7] = 99
    write_shard(path, x, y)
    with pytest.raises(HpcmlError, match=r"targets \[99\] are outside the classes"):
        train(2, 1, str(path))


@pytest.mark.parametrize("sync", [hpcml.LocalSteps(2), hpcml.Delayed()], ids=["local-steps", "delayed"])
def test_float16_is_refused_where_workers_move_alone(shards, sync):
    with pytest.raises(ConfigError, match=r"only every-step can; set train\.precision = \"bfloat16\""):
        train(1, 1, shards, FLOAT16, sync=sync)
    assert train(2, 1, shards, BFLOAT16, sync=sync) == train(1, 1, shards, BFLOAT16, sync=sync)


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 5))
def test_the_scale_follows_torchs_rule(overflows, patience):
    torch_ = torch()
    scaler = Scaler(Scaling(first=2.0**30, patience=patience))
    scale, tracker = torch_.tensor(2.0**30), torch_.tensor(0, dtype=torch_.int32)
    for found in overflows:
        sums = np.ones(len(Tail))
        sums[Tail.FAULTS] = found
        moved = scaler.follow(sums, "here", [])
        assert bool(moved[Tail.WEIGHT]) is not found
        assert sums[Tail.FAULTS] == 0
        torch_._amp_update_scale_(scale, tracker, torch_.tensor(float(found)), 2.0, 0.5, patience)
        assert (scaler.scale, scaler.good) == (float(scale), int(tracker))
    assert scaler.skipped == sum(overflows)


def test_a_restored_scaler_is_the_same():
    one, other = Scaler(Scaling()), Scaler(Scaling())
    one.scale, one.good, one.skipped = 8.0, 5, 2
    other.restore(json.loads(json.dumps(one.state())))
    assert other.state() == one.state()
