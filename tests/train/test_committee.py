"""Members together: what they predict, how they are weighed, and whether their rows are alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import hpcml
from hpcml.comm import simulated
from hpcml.nn import mlp, softmax_cross_entropy, squared_error
from hpcml.nn.losses.binary import binary_cross_entropy
from hpcml.sync import COMBINES, Ensemble
from hpcml.sync.ensemble import Judgement
from hpcml.train import committee
from hpcml.train.committee import Committee
from hpcml.train.splits import diagnose, label_distances
from tests.small import CLASSES, WIDTH, rows, write_shard

V = 4


def softmax(x):
    raised = np.exp(x - x.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def members(outputs=3, dtype="float64"):
    """A model and three members' parameters, drawn at random; what each puts out for 7 rows; the rows."""
    model = mlp([5, outputs], dtype=dtype)
    found = [np.random.default_rng(m).standard_normal(model.arena.n).astype(dtype) for m in range(3)]
    x = np.random.default_rng(9).standard_normal((7, 5)).astype(dtype)
    said = []
    for parameters in found:
        model.arena.point(data=parameters.copy())
        said.append(model.forward(x).copy())
    return model, found, np.array(said), x


WEIGHTS = np.array([0.5, 0.2, 0.3])


def test_the_mean_is_that_of_probabilities():
    model, found, said, x = members()
    before = model.arena.data
    outputs = Committee(model, softmax_cross_entropy, found, WEIGHTS, COMBINES["mean"]).forward(x)
    np.testing.assert_allclose(softmax(outputs), np.tensordot(WEIGHTS, softmax(said), 1), rtol=1e-12)
    assert model.arena.data is before


def test_the_mean_of_numbers_is_that_of_numbers_and_of_odds_that_of_probabilities():
    model, found, said, x = members()
    outputs = Committee(model, squared_error, found, WEIGHTS, COMBINES["mean"]).forward(x)
    np.testing.assert_allclose(outputs, np.tensordot(WEIGHTS, said, 1), rtol=1e-12)
    outputs = Committee(model, binary_cross_entropy(), found, WEIGHTS, COMBINES["mean"]).forward(x)
    np.testing.assert_allclose(1 / (1 + np.exp(-outputs)), np.tensordot(WEIGHTS, 1 / (1 + np.exp(-said)), 1), rtol=1e-10)


def test_votes_are_counted_and_a_class_without_one_stays_possible():
    model, found, said, x = members()
    outputs = Committee(model, softmax_cross_entropy, found, np.full(3, 1 / 3), COMBINES["vote"]).forward(x)
    counts = np.array([[(said[:, row].argmax(axis=1) == k).sum() for k in range(3)] for row in range(7)])
    np.testing.assert_allclose(softmax(outputs), (counts + 1 / 3) / 4, rtol=1e-12)
    assert np.isfinite(outputs).all()


def test_a_committee_of_one_is_its_member():
    model, found, said, x = members(dtype="float32")
    outputs = Committee(model, softmax_cross_entropy, found[:1], np.ones(1), COMBINES["mean"]).forward(x)
    np.testing.assert_allclose(softmax(outputs), softmax(said[0]), rtol=1e-5)
    assert outputs.dtype == np.float32


def test_the_best_takes_all_and_stacking_solves_least_squares():
    random = np.random.default_rng(1)
    shares, target = random.random((3, 50)), random.random(50)
    judged = Judgement(np.array([0.3, 0.1, 0.2]), shares @ shares.T, shares @ target)
    np.testing.assert_array_equal(COMBINES["best"].weigh(judged), [0, 1, 0])
    expected = np.linalg.lstsq(shares.T, target, rcond=None)[0]
    np.testing.assert_allclose(COMBINES["stack"].weigh(judged), expected, atol=5e-3)


def test_stacking_finds_the_member_that_tells_the_truth_and_shares_among_equals():
    truth = np.random.default_rng(2).random(80)
    shares = np.array([truth, np.random.default_rng(3).random(80), truth])
    weights = COMBINES["stack"].weigh(Judgement(np.zeros(3), shares @ shares.T, shares @ truth))
    np.testing.assert_allclose(weights, [0.5, 0, 0.5], atol=0.01)


@given(arrays.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=st.integers(0, 50)))
def test_label_distances_are_total_variations(counts):
    distances = label_distances(counts)
    assert ((distances >= 0) & (distances <= 1)).all()
    np.testing.assert_allclose(label_distances(np.tile(counts[:1] + 1, (4, 1))), 0, atol=1e-12)
    np.testing.assert_allclose(label_distances(counts[:, ::-1]), distances, atol=1e-12)


def test_disjoint_splits_are_as_far_as_can_be():
    np.testing.assert_allclose(label_distances(np.diag([10.0, 10.0, 10.0, 10.0])), 0.75)


@pytest.fixture
def shards(tmp_path):
    """Rows in a random order, and the same sorted by class."""
    x, y = rows(240)
    order = {"mixed": np.random.default_rng(4).permutation(240), "sorted": np.argsort(y, kind="stable")}
    for name, where in order.items():
        write_shard(tmp_path / f"{name}.h5", x[where], y[where])
    return tmp_path


def trainer(comm, path, combine="mean", **sampling):
    model = mlp([WIDTH, 5, CLASSES], seed=3)
    data = hpcml.open_shards(str(path), features="x", target="y")
    rule, plan = hpcml.SGD(0.1, momentum=0.9), Ensemble(COMBINES[combine])
    sampling = {"own": True, "block": 4, **sampling}
    return hpcml.Trainer(model, softmax_cross_entropy, rule, plan, data, batch=24, workers=V, comm=comm, hooks=[], sampling=sampling)


@pytest.mark.parametrize("ranks", [1, 3])
def test_splits_are_diagnosed(shards, ranks):
    def program(comm):
        return diagnose(trainer(comm, shards / "mixed.h5")), diagnose(trainer(comm, shards / "sorted.h5", block=60, window=1))

    (mixed, biased), *others = simulated.run(ranks, program)
    assert all(other == (mixed, biased) for other in others)
    assert "as random splits do" in mixed
    assert "biased for worker 0" in biased
    assert "reshard --shuffle" in biased


@pytest.mark.parametrize("combine", ["best", "stack"])
def test_members_are_judged_on_rows_of_others_alike_on_any_number_of_ranks(shards, combine):
    def program(comm):
        run = trainer(comm, shards / "mixed.h5", combine)
        run.run(2)
        members = run.sync.members()
        together = Committee(run.model, run.loss, committee.gather(run, members.models, 1), members.weights, members.combine)
        said = committee.judge(together, run)
        return said.losses, said.products, said.targets, members.weights.copy()

    first = simulated.run(1, program)[0]
    for found in simulated.run(3, program):
        for mine, theirs in zip(found, first, strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert (first[0] < 1).all()
    assert first[3].sum() == pytest.approx(1, abs=0.1)
