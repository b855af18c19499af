"""The loop in simulated worlds: the same bits wherever it runs, stops and goes on; the true weight of every row.

Letters: B rows of the global batch, V virtual workers, P ranks.
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpcml
from hpcml.comm import simulated
from hpcml.errors import ConfigError, DisagreementError, RunError, ShapeError, ShardError
from hpcml.train import Recorder
from hpcml.train.checkpoint import sha256_of_weights
from hpcml.train.prediction import predict_to_file
from tests.small import CLASSES, WIDTH, Stop, rows, write_shard

RHYTHMS = {"every-step": hpcml.EveryStep(), "local-steps": hpcml.LocalSteps(3)}
N, B, V = 61, 16, 4
STEPS = 4


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A pattern of three shards of 61 rows."""
    folder = tmp_path_factory.mktemp("shards")
    x, y = rows(N)
    for number, (first, last) in enumerate([(0, 20), (20, 45), (45, N)]):
        write_shard(folder / f"train-{number}.h5", x[first:last], y[first:last])
    return str(folder / "train-*.h5")


def trainer(comm, shards, rhythm="every-step", **options):
    """A trainer of the small model on this rank."""
    options = {"batch": B, "workers": V, "seed": 3, "hooks": [], **options}
    model = hpcml.nn.mlp([WIDTH, 5, CLASSES], seed=3, dtype=options.pop("dtype", "float32"))
    rule = options.pop("rule", hpcml.SGD(rate=0.1, momentum=0.9))
    data = hpcml.open_shards(shards, features="x", target="y")
    return hpcml.Trainer(model, hpcml.nn.softmax_cross_entropy, rule, RHYTHMS[rhythm], data, comm=comm, **options)


def train(ranks, epochs, shards, *arguments, **options):
    """Train in a simulated world; return the digest and the metrics, which all ranks must share."""

    def program(comm):
        it = trainer(comm, shards, *arguments, **options)
        metrics = it.run(epochs)
        return sha256_of_weights(it.model.arena.data), json.dumps(metrics)

    (result,) = set(simulated.run(ranks, program))
    return result


@pytest.mark.parametrize("rhythm", RHYTHMS)
def test_any_number_of_ranks_gives_the_same_bits(shards, rhythm):
    assert len({train(ranks, 3, shards, rhythm) for ranks in (1, 2, 3, 4)}) == 1


RULES = {
    "adamw": hpcml.AdamW(rate=0.01, decay=0.1),
    "lars": hpcml.LARS(rate=1.0, momentum=0.9),
    "nesterov": hpcml.SGD(rate=0.1, momentum=0.9, nesterov=True, decay=0.01),
    "clipped": hpcml.Clipped(hpcml.SGD(rate=0.1), 0.1),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("rhythm", RHYTHMS)
def test_every_rule_gives_the_same_bits_on_any_ranks_and_after_a_resume(shards, rhythm, name, tmp_path):
    whole = train(1, 2, shards, rhythm, rule=RULES[name])
    assert train(3, 2, shards, rhythm, rule=RULES[name]) == whole
    train(4, 1, shards, rhythm, rule=RULES[name], saving=hpcml.Saving(tmp_path))
    assert train(3, 2, shards, rhythm, rule=RULES[name], saving=hpcml.Saving(tmp_path, resume=True)) == whole


@pytest.mark.parametrize("stop", range(1, 2 * STEPS))
@pytest.mark.parametrize("rhythm", RHYTHMS)
def test_stopped_after_any_step_on_4_it_goes_on_on_3_to_the_same_bits(shards, tmp_path, rhythm, stop):
    """A checkpoint each step; the period of 3 and the epoch of 4 steps are cut at every place."""
    with pytest.raises(InterruptedError):
        train(4, 2, shards, rhythm, saving=hpcml.Saving(tmp_path, every=1), hooks=[Stop(stop)])
    assert train(3, 2, shards, rhythm, saving=hpcml.Saving(tmp_path, resume=True)) == train(1, 2, shards, rhythm)


def test_a_resume_where_an_earlier_run_of_the_process_fused_steps_is_told_nothing_of_them(shards, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "hpcml.arrays.fast", raising=False)
    train(1, 1, shards, saving=hpcml.Saving(tmp_path))
    monkeypatch.setitem(sys.modules, "hpcml.arrays.fast", SimpleNamespace(NAME="numba"))
    (notes,) = simulated.run(1, lambda comm: trainer(comm, shards, saving=hpcml.Saving(tmp_path, resume=True)).notes)
    assert not any("conditions" in note for note in notes)


@given(batch=st.integers(4, N), workers=st.integers(1, 4), ranks=st.integers(1, 4))
@settings(max_examples=12)
def test_any_batch_and_workers_give_the_same_bits_on_any_ranks(shards, batch, workers, ranks):
    options = {"batch": batch, "workers": workers}
    assert train(min(ranks, workers), 1, shards, **options) == train(1, 1, shards, **options)


class Steps(hpcml.Hook):
    """Keeps the parameters after each step."""

    def __init__(self):
        self.seen = []

    def before_run(self, trainer, epochs):
        self.seen.append(trainer.model.arena.data.copy())

    def after_step(self, trainer):
        self.seen.append(trainer.model.arena.data.copy())


@pytest.mark.parametrize("ranks", [1, 3])
def test_every_batch_the_last_smaller_one_too_moves_by_its_plain_mean_gradient(shards, ranks):
    """With rate 1 a step is the mean gradient over that step's rows: softmax regression, gradient by numpy in float64."""
    x, y = rows(N)

    def program(comm):
        kept = Steps()
        model = hpcml.nn.linear(WIDTH, CLASSES, dtype="float64")
        data = hpcml.open_shards(shards, features="x", target="y")
        it = hpcml.Trainer(
            model, hpcml.nn.softmax_cross_entropy, hpcml.SGD(rate=1.0), hpcml.EveryStep(), data, batch=B, workers=V, comm=comm, hooks=[kept]
        )
        it.run(1)
        counts = [sum(it.sampler.count(step, worker) for worker in range(V)) for step in range(STEPS)]
        chosen = [np.concatenate([it.sampler.rows_of(0, worker, step) for worker in range(V)]) for step in range(STEPS)]
        return kept.seen, counts, chosen

    kept, counts, chosen = simulated.run(ranks, program)[0]
    assert counts == [16, 16, 16, 13]
    assert sorted(np.concatenate(chosen)) == list(range(N))
    for step, where in enumerate(chosen):
        weight, bias = _split(kept[step])
        logits = x[where].astype(np.float64) @ weight + bias
        slope = np.exp(logits - logits.max(axis=1, keepdims=True))
        slope /= slope.sum(axis=1, keepdims=True)
        slope[np.arange(len(where)), y[where]] -= 1
        moved_weight, moved_bias = _split(kept[step] - kept[step + 1])
        np.testing.assert_allclose(moved_weight, x[where].astype(np.float64).T @ slope / len(where), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(moved_bias, slope.mean(axis=0), rtol=1e-9, atol=1e-12)


def _split(data):
    """Weight (WIDTH, CLASSES) and bias (CLASSES,) of a flat vector."""
    return data[: WIDTH * CLASSES].reshape(WIDTH, CLASSES), data[-CLASSES:]


@pytest.mark.parametrize("rhythm", RHYTHMS)
def test_loss_so_far_is_of_this_epoch_alone(shards, tmp_path, rhythm):
    """Under local steps an epoch may end before its last exchange; the rest must not count again in the next."""

    def program(comm):
        (tmp_path / str(comm.rank)).mkdir()
        trainer(comm, shards, rhythm, hooks=[Recorder(tmp_path / str(comm.rank), log_every=1)]).run(4)

    simulated.run(2, program)
    events = [json.loads(line) for line in (tmp_path / "0" / "metrics.jsonl").read_text().splitlines()]
    assert not (tmp_path / "1" / "metrics.jsonl").exists()
    for epoch in range(4):
        losses = [row["loss_so_far"] for row in events if row["event"] == "step" and row["epoch"] == epoch]
        end = next(row["train_loss"] for row in events if row["event"] == "epoch" and row["epoch"] == epoch + 1)
        assert len(losses) == STEPS
        assert all(loss is None or 0 < loss < 3 for loss in losses)
        if rhythm == "every-step":
            assert losses[-1] == end


def test_a_folder_with_checkpoints_is_not_mixed_with_a_new_run(shards, tmp_path):
    train(2, 1, shards, saving=hpcml.Saving(tmp_path))
    with pytest.raises(RunError, match="already holds checkpoints"):
        train(2, 1, shards, saving=hpcml.Saving(tmp_path))


@pytest.mark.parametrize(
    "options",
    [
        lambda rank: {"workers": 1 + rank},
        lambda rank: {"threads": 1 + rank},
        lambda rank: {"batch": 16 + rank},
        lambda rank: {"seed": rank},
    ],
)
def test_ranks_with_different_settings_all_raise(shards, options):
    with pytest.raises(DisagreementError, match=r"on rank 0, .* on rank 1"):
        simulated.run(2, lambda comm: trainer(comm, shards, **options(comm.rank)))


def test_ranks_with_different_synchronisers_all_raise(shards):
    with pytest.raises(DisagreementError, match="synchroniser"):
        simulated.run(2, lambda comm: trainer(comm, shards, list(RHYTHMS)[comm.rank]))


def test_more_ranks_than_workers_is_refused_with_both_numbers(shards):
    with pytest.raises(ConfigError, match="5 ranks for 4 virtual workers"):
        train(5, 1, shards)


def test_evaluation_is_the_same_on_any_ranks_and_equals_numpy(shards):
    x, y = rows(N)

    def program(comm):
        it = trainer(comm, shards, dtype="float64")
        it.run(1)
        metrics = it.evaluate(it.data)
        logits = it.model.forward(x.astype(np.float64)).copy()
        return json.dumps(metrics), logits

    results = [simulated.run(ranks, program)[0] for ranks in (1, 2, 3, 4)]
    assert len({text for text, _ in results}) == 1
    metrics, logits = json.loads(results[0][0]), results[0][1]
    shifted = logits - logits.max(axis=1, keepdims=True)
    chances = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    assert metrics["loss"] == pytest.approx(-np.log(chances[np.arange(N), y]).mean(), rel=1e-9)
    assert metrics["accuracy"] == pytest.approx((logits.argmax(axis=1) == y).mean())


def test_predictions_that_cannot_get_their_name_fail_on_every_rank(shards, tmp_path):
    def program(comm):
        data = hpcml.open_shards(shards, features="x", target="y")
        model = hpcml.nn.mlp([WIDTH, 5, CLASSES], seed=1)
        with pytest.raises(ShardError, match=r"cannot be finished.*give another name") as caught:
            predict_to_file(model, hpcml.nn.softmax_cross_entropy, data, comm, tmp_path)
        return caught.value.everywhere

    assert simulated.run(3, program) == [True] * 3


def test_a_model_of_sixteen_bits_is_refused_since_its_sums_would_be_rounded(shards):
    with pytest.raises(ShapeError, match="float16, whose sums over workers would be rounded"):
        simulated.run(2, lambda comm: trainer(comm, shards, dtype="float16"))
