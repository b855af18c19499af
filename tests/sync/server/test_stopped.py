"""A worker that is stopped (SIGSTOP) over real MPI: without a bound the others work on, under ssp they stop exactly at it."""

from __future__ import annotations

import json

import pytest

from tests.mpirun import start
from tests.small import rows, write_shard

PROGRAM = """
import json, os, signal, subprocess, sys, time
import hpcml
from hpcml.sync.server import SSP, TAP, GossipLearning, ParameterServer

class Stopping(hpcml.Hook):
    times = []
    def after_gradient(self, trainer, worker):
        time.sleep(0.02)
        self.times.append(time.time())
        if worker == 2 and len(self.times) == 5:
            subprocess.Popen(["sh", "-c", f"sleep {sys.argv[2]}; kill -CONT {os.getpid()}"])
            os.kill(os.getpid(), signal.SIGSTOP)
            self.times.append(time.time())

comm, hook = hpcml.init(), Stopping()
server = lambda consistency: ParameterServer(consistency, servers=1)
sync = {"tap": server(TAP()), "ssp": server(SSP(3)), "gossip": GossipLearning()}[sys.argv[1]]
data = hpcml.open_shards("train.h5")
model, loss = hpcml.nn.mlp([4, 5, 3]), hpcml.nn.softmax_cross_entropy
trainer = hpcml.Trainer(model, loss, hpcml.SGD(0.01), sync, data, batch=12, comm=comm, hooks=[hook])
trainer.run(1)
with open(f"times-{comm.rank}.json", "w") as file:
    json.dump(hook.times, file)
"""
STEPS = 30
SECONDS = [2, pytest.param(10, marks=pytest.mark.stopped)]


@pytest.fixture
def stopped(tmp_path):
    """Run a model of consistency with three workers, the last of which stops for some seconds in its fifth gradient; return all times."""
    write_shard(tmp_path / "train.h5", *rows(12 * STEPS))

    def run(model, seconds):
        ranks = 3 if model == "gossip" else 4
        start(ranks, "-c", PROGRAM, model, str(seconds), cwd=tmp_path, env={"OMP_NUM_THREADS": "1"}).wait(50).check()
        return [json.loads((tmp_path / f"times-{rank}.json").read_text()) for rank in range(ranks - 3, ranks)]

    return run


def during(times, begin, end):
    return sum(begin < moment < end for moment in times)


@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.parametrize("model", ["tap", "gossip"])
def test_without_a_bound_the_others_finish_meanwhile(stopped, model, seconds):
    *others, mine = stopped(model, seconds)
    begin, end = mine[4], mine[5]
    assert end - begin > seconds - 0.5
    assert len(mine) == STEPS + 1
    for times in others:
        assert len(times) == STEPS
        assert max(times) < end


@pytest.mark.parametrize("seconds", SECONDS)
def test_under_ssp_the_others_stop_at_the_bound_and_go_on(stopped, seconds):
    *others, mine = stopped("ssp", seconds)
    begin, end = mine[4], mine[5]
    assert end - begin > seconds - 0.5
    for times in others:
        # Four writes of the stopped worker were taken: others read at clocks up to 4 + 3, and so compute 8 gradients.
        assert sum(moment < end for moment in times) == 4 + 3 + 1
        assert during(times, begin + 0.5, end) == 0
        assert len(times) == STEPS
