"""A residual network: its batch statistics are those of virtual workers, so no number of ranks and no resume changes a bit of it."""

from __future__ import annotations

import json

import numpy as np
import pytest

import hpcml
from hpcml.comm import simulated
from hpcml.train.checkpoint import sha256_of_weights
from tests.small import CLASSES, WIDTH, Job, Stop, rows, write_shard

RHYTHMS = {"every-step": hpcml.EveryStep(), "local-steps": hpcml.LocalSteps(3)}
N, B, V = 41, 16, 3
"""The last batch of an epoch has 9 rows, and the workers of every batch unequal numbers of them."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shard(folder / "train.h5", *rows(N))
    return str(folder / "train.h5")


def train(ranks, shards, rhythm, *, workers=V, **options):
    """Train two epochs in a simulated world; return all ranks' digest and metrics, and rank 0's running statistics."""

    def program(comm):
        model = hpcml.nn.resnet((2, 2, 1), [2, 3], 1, CLASSES, (WIDTH,), seed=3)
        data = hpcml.open_shards(shards, features="x", target="y")
        made = {"batch": B, "workers": workers, "seed": 3, "hooks": [], **options}
        it = hpcml.Trainer(model, hpcml.nn.softmax_cross_entropy, hpcml.SGD(0.05, momentum=0.9), RHYTHMS[rhythm], data, comm=comm, **made)
        metrics = json.dumps(it.run(2))
        statistics = it.model.arena.data[it.model.arena.trained :].tobytes()
        return sha256_of_weights(it.model.arena.data), metrics, statistics

    (result,) = set(simulated.run(ranks, program))
    return result


@pytest.mark.parametrize("rhythm", RHYTHMS)
def test_one_to_three_ranks_have_the_same_bits_running_statistics_included(shards, rhythm):
    whole = train(1, shards, rhythm)
    assert train(2, shards, rhythm) == train(3, shards, rhythm) == whole
    statistics = np.frombuffer(whole[2], np.float32)
    fresh = hpcml.nn.resnet((2, 2, 1), [2, 3], 1, CLASSES, (WIDTH,), seed=3).arena
    assert statistics.shape == (fresh.n - fresh.trained,)
    assert np.all(statistics != fresh.data[fresh.trained :]), "every channel's statistics have moved"


@pytest.mark.parametrize("rhythm", RHYTHMS)
def test_statistics_are_those_of_the_workers(shards, rhythm):
    assert train(1, shards, rhythm)[2] != train(1, shards, rhythm, workers=1)[2]


@pytest.mark.parametrize("stop", [1, 5], ids=["in the first epoch", "in the second"])
@pytest.mark.parametrize("rhythm", RHYTHMS)
def test_stopped_inside_an_epoch_on_3_it_goes_on_on_2_to_the_same_bits(shards, tmp_path, rhythm, stop):
    with pytest.raises(InterruptedError):
        train(3, shards, rhythm, saving=hpcml.Saving(tmp_path, every=1), hooks=[Stop(stop)])
    assert train(2, shards, rhythm, saving=hpcml.Saving(tmp_path, resume=True)) == train(1, shards, rhythm)


def test_real_worlds_of_one_to_three_ranks_and_a_resumed_run_agree(tmp_path):
    job = Job(tmp_path)
    model = ["model.name=resnet", "model.shape=[2, 2, 1]", "model.channels=[2, 3]", "model.blocks=1"]
    text = job.config.read_text().replace("hidden = [5]\n", "").replace("virtual_workers = 4", "virtual_workers = 3")
    job.config.write_text(text)
    for ranks in (1, 2, 3):
        job.train(ranks, f"R{ranks}", *model).check()
    job.train(3, "stopped", *model, "train.epochs=1").check()
    job.train(2, "stopped", *model, options=("--resume",)).check()
    found = {run: (job.digest(run), json.dumps(job.summary(run)["metrics"])) for run in ("R1", "R2", "R3", "stopped")}
    assert len(set(found.values())) == 1, found
    assert job.summary("stopped")["resumed_from"] > 0
