"""A parameter server in simulated worlds: what it equals, what it records, and that the record is the run.

Letters: V virtual workers.
"""

from __future__ import annotations

import json
import time
from functools import partial

import numpy as np
import pytest

import hpcml
from hpcml.comm import simulated
from hpcml.errors import ConfigError, DataError, RunError
from hpcml.sync import COMBINES
from hpcml.sync.server import ASP, BAP, BSP, SSP, TAP, Downpour, ElasticWorker, GossipLearning, ParameterServer
from hpcml.train.evaluation import evaluate
from tests.small import rows, write_shard
from tests.sync.server.runs import STEPS, N, V, train, trainer

PLANS = {
    "tap": {},
    "tap, two servers": {"servers": 2},
    "tap, taking over": {"stealing": True},
    "tap, compensated": {"compensation": 0.04},
    "tap, warm": {"warm": 3},
    "bap": {"consistency": BAP()},
    "tap, groups": {"groups": 2},
    "ssp, groups, a server": {"groups": 3, "consistency": SSP(1), "servers": 1},
    "gossip learning": GossipLearning,
    "gossip learning, taking over": partial(GossipLearning, stealing=True),
    "elastic, groups": {"groups": 2, "worker": ElasticWorker(2)},
    "downpour, groups": {"groups": 2, "worker": Downpour(1, 2)},
    "ssp": {"consistency": SSP(1)},
    "ssp, a server, taking over": {"consistency": SSP(2), "servers": 1, "stealing": True},
    "ssp, compensated, taking over": {"consistency": SSP(1), "compensation": 0.04, "stealing": True},
    "asp": {"consistency": ASP(0.05, 2)},
    "asp, taking over": {"consistency": ASP(0.05, 2), "stealing": True},
    "asp, regions": {"consistency": ASP(0.05, 2, 2, 1)},
    "bsp": {"consistency": BSP()},
    "downpour": {"worker": Downpour(2, 3)},
    "downpour, warm": {"worker": Downpour(3, 1), "warm": 2, "consistency": BAP()},
    "elastic": {"worker": ElasticWorker(2)},
}


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("ranks", [1, 4])
def test_a_recorded_run_is_computed_again_bit_for_bit_on_any_number_of_ranks(shards, tmp_path, name, ranks):
    plan = PLANS[name]
    make = partial(ParameterServer, **plan) if isinstance(plan, dict) else plan
    first, measured = train(ranks, 2, shards, make(), saving=hpcml.Saving(tmp_path / "first"))
    assert measured["reads"] > 0
    if name == "bsp":
        assert not (tmp_path / "first" / "arrivals").exists()
        return
    for other in (1, 2, 3, 4):
        again, _ = train(other, 2, shards, make(replay=str(tmp_path / "first")))
        assert again == first


@pytest.mark.parametrize("consistency", [BSP(), SSP(0), ASP(0.0, 0)], ids=["bsp", "ssp(0)", "asp(0, 0)"])
@pytest.mark.parametrize("servers", [None, 1, 2])
def test_without_slack_and_filter_it_is_synchronous_sgd_to_the_bit(shards, consistency, servers):
    for rule in (hpcml.SGD(rate=0.1, momentum=0.9), hpcml.AdamW(rate=0.01)):
        expected, _ = train(2, 2, shards, hpcml.EveryStep(), rule=rule)
        for ranks in (1, 3):
            found, measured = train(ranks, 2, shards, ParameterServer(consistency, servers=servers), rule=rule)
            assert found[0] == expected[0]  # the training loss is added up in another order
        assert measured["clock_gaps"].keys() == {"0"}
        assert measured["writes_missed"].keys() == {"0"}


@pytest.mark.parametrize("consistency", [TAP(), BAP(), SSP(3), BSP()], ids=["tap", "bap", "ssp", "bsp"])
def test_one_group_is_synchronous_sgd_and_as_many_as_workers_are_none(shards, consistency):
    rule = hpcml.SGD(rate=0.1)
    expected, _ = train(2, 2, shards, hpcml.EveryStep(), rule=rule)
    for ranks in (1, 3):
        found, _ = train(ranks, 2, shards, ParameterServer(consistency, groups=1), rule=rule)
        assert found[1].partition("test_")[2] == expected[1].partition("test_")[2]
        assert consistency.whole is False or found[0] == expected[0]
    assert train(1, 2, shards, ParameterServer(consistency, groups=V))[0] == train(1, 2, shards, ParameterServer(consistency))[0]


def test_at_the_bound_and_not_beyond_it(shards):
    for bound, stealing in ((1, False), (2, False), (1, True)):
        _, measured = train(4, 2, shards, ParameterServer(SSP(bound), stealing=stealing))
        assert max(map(int, measured["clock_gaps"])) <= bound


def test_gossip_learning_learns_goes_on_and_needs_two(shards, tmp_path):
    train(3, 4, shards, GossipLearning(), saving=hpcml.Saving(tmp_path))
    resumed, measured = train(2, 8, shards, GossipLearning(), saving=hpcml.Saving(tmp_path, resume=True))
    assert json.loads(resumed[1])["test_accuracy"] > 0.8
    assert measured["largest_drift"] > 0
    assert resumed == train(1, 8, shards, GossipLearning(replay=str(tmp_path)))[0]
    with pytest.raises(ConfigError, match="somebody to talk to"):
        train(1, 1, shards, GossipLearning(), workers=1)


class Slow(hpcml.Hook):
    """Makes one worker's gradients take long."""

    def after_gradient(self, trainer, worker):
        time.sleep(0.1 if worker == 1 else 0.0)


def test_walkers_take_over_the_rows_of_a_slow_one_and_caches_know_who_made_how_many_models(shards, tmp_path):
    def program(comm):
        it = trainer(comm, shards, GossipLearning(stealing=True, cache=6), hooks=[Slow()], saving=hpcml.Saving(tmp_path))
        it.run(1)
        taken, weights = it.sync.record.portions, it.sync.members().weights.copy()
        it.close()
        return taken, weights

    taken, weights = simulated.run(2, program)[0]
    assert len(taken[1]) < STEPS < max(map(len, taken.values()))
    assert sorted(portion for mine in taken.values() for portion in mine) == [(lane, step) for lane in range(V) for step in range(STEPS)]
    made = np.arange(6) < [[len(taken[worker])] for worker in range(V)]
    np.testing.assert_allclose(weights.reshape(V, 6), made / made.sum())


def test_caches_vote_the_same_on_any_number_of_ranks_after_a_resume_and_from_the_checkpoint(shards, tmp_path):
    cached = {"cache": 3, "combine": COMBINES["vote"]}
    train(3, 1, shards, GossipLearning(**cached), saving=hpcml.Saving(tmp_path / "run"))
    resumed, _ = train(2, 3, shards, GossipLearning(**cached), saving=hpcml.Saving(tmp_path / "run", resume=True))
    for ranks in (1, 4):
        assert resumed == train(ranks, 3, shards, GossipLearning(**cached, replay=str(tmp_path / "run")))[0]

    def program(comm):
        it = trainer(comm, shards, GossipLearning(**cached), saving=hpcml.Saving(tmp_path / "run", resume=True))
        judged, state = it.evaluate(it.test), it.sync.walkers[0].cache.copy()
        it.close()
        return json.dumps(judged), state.shape, [bool((model == state[0]).all()) for model in state[1:]]

    (text, shape, same), *_ = simulated.run(1, program)
    assert shape == (3, shape[1])
    assert same == [False, False]  # three different models
    found = json.loads(resumed[1])
    assert json.loads(text) == {name: found[f"test_{name}"] for name in json.loads(text)}


def test_a_cache_of_one_of_agreed_models_predicts_as_each_of_them(shards):
    def program(comm):
        it = trainer(comm, shards, GossipLearning(cache=4, combine=COMBINES["mean"]))
        judged, alone = it.evaluate(it.test), evaluate(it.model, it.loss, it.test, it.nodes.order, V)  # no step: all are the first model
        weights = it.sync.members().weights.copy()
        it.close()
        return judged, alone, weights

    judged, alone, weights = simulated.run(2, program)[0]
    assert judged["accuracy"] == alone["accuracy"]
    assert judged["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    np.testing.assert_array_equal(weights.reshape(V, 4), np.tile([0.25, 0, 0, 0], (V, 1)))


@pytest.mark.parametrize("consistency", [BSP(), TAP(), BAP()], ids=["bsp", "tap", "bap"])
def test_a_run_goes_on_from_its_checkpoint_and_its_record_covers_both_parts(shards, tmp_path, consistency):
    train(3, 1, shards, ParameterServer(consistency), saving=hpcml.Saving(tmp_path))
    resumed, _ = train(2, 2, shards, ParameterServer(consistency), saving=hpcml.Saving(tmp_path, resume=True))
    if consistency.whole:
        assert resumed == train(1, 2, shards, ParameterServer(consistency))[0]
    else:
        assert resumed == train(1, 2, shards, ParameterServer(consistency, replay=str(tmp_path)))[0]


def test_an_elastic_run_goes_on_with_each_workers_own_model(shards, tmp_path):
    plan = {"worker": ElasticWorker(2), "consistency": BAP()}
    train(3, 1, shards, ParameterServer(**plan), saving=hpcml.Saving(tmp_path))
    resumed, _ = train(2, 2, shards, ParameterServer(**plan), saving=hpcml.Saving(tmp_path, resume=True))
    assert resumed == train(1, 2, shards, ParameterServer(**plan, replay=str(tmp_path)))[0]


def test_one_worker_alone_is_plain_sgd_however_it_is_written(shards):
    rule = hpcml.SGD(rate=0.1)
    expected, _ = train(1, 2, shards, hpcml.EveryStep(), rule=rule, workers=1)
    for consistency in (BSP(), SSP(3), ASP(0.0, 3), BAP(), TAP()):
        found, _ = train(1, 2, shards, ParameterServer(consistency), rule=rule, workers=1)
        assert found[1] == expected[1]


def test_a_bad_row_ends_all_ranks_with_the_same_error_before_anything_is_saved(tmp_path):
    x, y = rows(N)
    x[30, 0] = np.nan
    write_shard(tmp_path / "bad.h5", x, y)

    def program(comm):
        it = trainer(comm, str(tmp_path / "bad.h5"), ParameterServer(), test=None, saving=hpcml.Saving(tmp_path / "run"))
        with pytest.raises(DataError, match="row 30") as caught:
            it.run(2)
        return str(caught.value), caught.value.everywhere

    (found,) = set(simulated.run(3, program))
    assert found[1]
    assert not (tmp_path / "run" / "checkpoints").exists()


REFUSED = {
    "groups that take over": (lambda: ParameterServer(groups=2, stealing=True), "groups = 0"),
    "downpour clock by clock": (lambda: ParameterServer(BSP(), Downpour()), "sync.name = .downpour. .* to tap, bap or ssp"),
    "a filter without gradients": (lambda: ParameterServer(ASP(), ElasticWorker()), "set server.consistency to tap, bap or ssp"),
    "compensation without delay": (lambda: ParameterServer(BSP(), compensation=0.1), "choose tap, bap or ssp"),
    "a warm start clock by clock": (lambda: ParameterServer(BSP(), warm=3), "leave server.warm out"),
    "a warm start beyond the bound": (lambda: ParameterServer(SSP(3), warm=5), "server.warm to 4 or less, server.bound to 4 or more"),
    "no server": (lambda: ParameterServer(servers=0), 'server.ranks is 0; .* 1 or more, or "all"'),
    "less than no warm start": (lambda: ParameterServer(warm=-1), "server.warm is -1; it is 0 or more"),
    "a bound below zero": (lambda: SSP(-1), "0 or more clocks"),
    "a threshold that is no number": (lambda: ASP(float("nan")), "server.threshold"),
    "a cache below none": (lambda: GossipLearning(cache=-1), "0 or more"),
    "caches weighed by rows": (lambda: GossipLearning(cache=2, combine=COMBINES["stack"]), 'choose "vote" or "mean"'),
    "no steps between reads": (lambda: Downpour(0, 1), "1 or more"),
    "an unstable pull": (lambda: ElasticWorker(4, 1.5), "0 < beta <= 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused_with_the_nearest_choice(name):
    make, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        make()


def test_checkpoints_and_records_know_the_default_placement_by_the_word_of_earlier_ones():
    assert "worker=Gradients(), servers=0, groups=0, spare=0, stealing=False" in repr(ParameterServer())
    assert repr(ParameterServer(servers=2)) == repr(ParameterServer()).replace("servers=0", "servers=2")


def test_more_ranks_than_workers_where_some_only_serve_judge_every_test_row(shards):
    one, _ = train(1, 2, shards, ParameterServer(BSP(), servers=2), workers=2)
    four, _ = train(4, 2, shards, ParameterServer(BSP(), servers=2), workers=2)
    assert "test_accuracy" in json.loads(one[1])
    assert four == one


@pytest.mark.parametrize("bound", [1, 3])
def test_the_longest_warm_start_that_a_bound_allows_ends(shards, bound):
    train(2, 1, shards, ParameterServer(SSP(bound), warm=bound + 1))


class Steps(hpcml.Hook):
    """Counts the steps that hooks are told of."""

    def __init__(self):
        self.counts = []

    def after_step(self, trainer):
        self.counts.append((trainer.position, trainer.sampler.step_rows(trainer.position - 1)))


@pytest.mark.parametrize("plan", [{"servers": 1}, {"stealing": True}, {"groups": 2}], ids=str)
def test_every_rank_hears_of_every_step_also_one_that_only_serves(shards, plan):
    def program(comm):
        steps = Steps()
        it = trainer(comm, shards, ParameterServer(**plan), hooks=[steps])
        it.run(2)
        it.close()
        return tuple(steps.counts), it.sampler.steps, it.count

    for counts, steps, done in simulated.run(3, program):
        assert [position for position, _ in counts] == list(range(1, steps + 1)) * 2
        assert sum(rows for _, rows in counts) == 2 * N
        assert done == 2 * steps


@pytest.mark.parametrize("rule", [hpcml.LARS(rate=1.0), hpcml.Clipped(hpcml.SGD(rate=0.1), 1.0)])
def test_a_rule_that_looks_at_whole_vectors_is_refused(shards, rule):
    with pytest.raises(ConfigError, match="look at whole vectors"):
        simulated.run(1, lambda comm: trainer(comm, shards, ParameterServer(), rule=rule))


def test_more_groups_than_workers_are_refused(shards):
    with pytest.raises(ConfigError, match="set it to 4 or fewer"):
        simulated.run(2, lambda comm: trainer(comm, shards, ParameterServer(groups=5)))


def test_quarantine_is_refused(shards):
    with pytest.raises(ConfigError, match="on_corrupt"):
        simulated.run(2, lambda comm: trainer(comm, shards, ParameterServer(), loading={"quarantine": True}))


def test_a_replay_needs_a_whole_record_of_the_same_run(shards, tmp_path):
    train(2, 1, shards, ParameterServer(), saving=hpcml.Saving(tmp_path))

    def replay(folder=tmp_path, **options):
        return train(2, 1, shards, ParameterServer(replay=str(folder)), **options)

    with pytest.raises(RunError, match=r"no arrival order to replay.*server\.replay takes"):
        replay(tmp_path / "nowhere")
    with pytest.raises(RunError, match="another seed"):
        replay(seed=4)
    path = tmp_path / "arrivals" / "epoch-00000.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match="not a record of an epoch"):
        replay()
