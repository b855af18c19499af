"""Spare workers that race: who counts is agreed, nothing counts twice or late, and the record is the run.

Letters: V workers, k spare ones, m = V - k that count.
"""

from __future__ import annotations

import json
import random

import pytest

import hpcml
from hpcml.comm import simulated
from hpcml.errors import CommError, ConfigError, DataError
from hpcml.sync.server import BSP, SSP, Downpour, ParameterServer
from hpcml.sync.server.gate import Act, RaceGate
from hpcml.sync.server.racing import Referee
from tests.small import rows, write_shard
from tests.sync.server.runs import N, V, train, trainer


class Race:
    """Workers, a referee and shards' gates, over links that keep the order of one sender's letters to one receiver, and of no others.

    A worker reads one clock at all shards, computes, claims, and writes if it counts. A link may deliver a write twice.
    """

    def __init__(self, workers, spare, shards, steps, seed):
        self.random, self.steps, self.counted = random.Random(seed), steps, workers - spare
        self.referee = Referee(self.counted)
        self.gates = [RaceGate(workers, self.counted) for _ in range(shards)]
        self.links = {}
        self.views = [dict.fromkeys(range(shards), 0) for _ in range(workers)]
        self.clocks, self.awaited = [0] * workers, [set() for _ in range(workers)]
        self.written = [[[] for _ in range(steps)] for _ in range(shards)]
        self.late, self.done = 0, set()
        for worker in range(workers):
            self.post(worker, "referee", ("claim", 0))

    def post(self, source, to, letter):
        self.links.setdefault((source, to), []).append(letter)

    def run(self):
        """Deliver everything, whichever comes first."""
        while waiting := [link for link, letters in self.links.items() if letters]:
            source, to = self.random.choice(waiting)
            kind, clock = self.links[source, to].pop(0)
            if to == "referee":
                counts = self.referee.claim(source, clock)
                self.post("referee", source, ("counts" if counts else "late", self.referee.open))
            elif isinstance(to, tuple):
                self.at_shard(to[1], source, kind, clock)
            else:
                self.at_worker(to, source, kind, clock)

    def at_shard(self, shard, worker, kind, clock):
        gate = self.gates[shard]
        if kind == "write":
            assert gate.push(worker, clock)
            for _ in range(self.random.random() < 0.1):
                assert not gate.push(worker, clock)
            gate.pull(worker)
        elif kind == "ask":
            gate.pull(worker, clock)
        else:
            gate.leave(worker)
        for act, who in gate.ready():
            if act is Act.PUSH:
                self.written[shard][gate.open].append(who)
            elif act is Act.PULL:
                self.post(("shard", shard), who, ("view", gate.open))

    def at_worker(self, worker, source, kind, clock):
        shards = range(len(self.gates))
        if kind == "counts":
            # The law: what counts was computed at one clock's parameters at all shards, its own.
            assert set(self.views[worker].values()) == {self.clocks[worker]}
            self.send(worker, shards, "write", self.clocks[worker])
        elif kind == "late":
            self.late += 1
            self.go(worker, clock)
        else:
            self.views[worker][source[1]] = clock
            self.awaited[worker].discard(source[1])
            if not self.awaited[worker]:
                self.go(worker, max(self.views[worker].values()))

    def go(self, worker, clock):
        behind = [shard for shard, found in self.views[worker].items() if found < clock]
        self.clocks[worker] = clock
        if clock == self.steps:
            self.done.add(worker)
            self.send(worker, range(len(self.gates)), "leave", 0)
        elif behind:
            self.send(worker, behind, "ask", clock)
        else:
            self.post(worker, "referee", ("claim", clock))

    def send(self, worker, shards, kind, clock):
        for shard in shards:
            self.post(worker, ("shard", shard), (kind, clock))
            if kind != "leave":
                self.awaited[worker].add(shard)


def test_in_10000_races_all_shards_take_the_same_first_m_of_each_clock_and_all_workers_end():
    late = 0
    for seed in range(10000):
        workers, steps = 1 + seed % 4, 1 + seed // 4 % 3
        race = Race(workers, seed // 12 % workers, 1 + seed % 2, steps, seed)
        race.run()
        assert len(race.done) == workers, seed
        assert all(written == race.written[0] for written in race.written), seed
        assert all(len(set(who)) == len(who) == race.counted for who in race.written[0]), (seed, race.written)
        late += race.late
    assert late > 1000


def test_a_claim_of_a_closed_clock_and_a_second_one_do_not_count():
    referee = Referee(2)
    assert [referee.claim(worker, 0) for worker in (0, 0, 1, 2, 1)] == [True, False, True, False, False]
    assert referee.open == 1


def test_a_gate_takes_no_write_twice_none_of_a_closed_clock_and_names_one_of_the_future():
    gate = RaceGate(3, 2)
    assert [gate.push(0, 0), gate.push(0, 0), gate.push(2, 0)] == [True, False, True]
    assert list(gate.ready()) == [(Act.PUSH, 0), (Act.PUSH, 2), (Act.APPLY, 0)]
    assert not gate.push(1, 0)
    assert gate.refused == 2
    with pytest.raises(CommError, match="worker 1 wrote clock 2, open is 1"):
        gate.push(1, 2)


def test_a_clock_closes_with_all_who_are_left():
    gate = RaceGate(3, 2)
    gate.push(1, 0)
    assert list(gate.ready()) == []
    gate.leave(0)
    gate.leave(2)
    assert list(gate.ready()) == [(Act.LEAVE, 0), (Act.LEAVE, 2), (Act.PUSH, 1), (Act.APPLY, 0)]


@pytest.mark.parametrize("spare", [1, 3])
@pytest.mark.parametrize("servers", [None, 2])
def test_a_race_is_computed_again_bit_for_bit_on_any_number_of_ranks(shards, tmp_path, spare, servers):
    plan = {"consistency": BSP(), "spare": spare, "servers": servers}
    first, measured = train(4, 2, shards, ParameterServer(**plan), saving=hpcml.Saving(tmp_path / "first"))
    assert measured["clock_gaps"].keys() == measured["writes_missed"].keys() == {"0"}
    for ranks in (1, 2, 3, 4):
        again, _ = train(ranks, 2, shards, ParameterServer(**plan, replay=str(tmp_path / "first")))
        assert again == first


def test_without_spare_workers_it_is_bsp_and_with_some_it_goes_on_from_a_checkpoint(shards, tmp_path):
    assert ParameterServer(BSP(), spare=0) == ParameterServer(BSP())
    plan = {"consistency": BSP(), "spare": 1}
    train(3, 1, shards, ParameterServer(**plan), saving=hpcml.Saving(tmp_path))
    resumed, _ = train(2, 2, shards, ParameterServer(**plan), saving=hpcml.Saving(tmp_path, resume=True))
    assert resumed == train(1, 2, shards, ParameterServer(**plan, replay=str(tmp_path)))[0]


def test_every_row_is_used_or_too_late_and_each_clock_has_m_portions(shards, tmp_path):
    def program(comm):
        it = trainer(comm, shards, ParameterServer(BSP(), spare=1))
        it.run(2)
        found = it.audit.last, it.sync.record.portions, it.sampler.steps, it.sync.shards
        writes = [shard.table.writes for shard in found[3].values()]
        it.close()
        return *found[:3], writes

    results = simulated.run(4, program)
    for last, portions, steps, writes in results:
        taken = [portion for mine in portions.values() for portion in mine]
        assert len(set(taken)) == len(taken) == (V - 1) * steps
        assert last["rows_used"] + last["rows_too_late"] == N
        assert last["rows_too_late"] > 0
        assert set(writes) == {2 * steps}


def test_a_bad_row_ends_a_race_with_the_same_error_on_all_ranks(tmp_path):
    x, y = rows(N)
    x[30, 0] = float("nan")
    write_shard(tmp_path / "bad.h5", x, y)

    def program(comm):
        it = trainer(comm, str(tmp_path / "bad.h5"), ParameterServer(BSP(), spare=1), test=None)
        with pytest.raises(DataError, match="row 30") as caught:
            it.run(1)
        return str(caught.value), caught.value.everywhere

    (found,) = set(simulated.run(3, program))
    assert found[1]


REFUSED = {
    "less than none": ({"consistency": BSP(), "spare": -1}, "0 or more"),
    "where clocks are not shared": ({"consistency": SSP(1), "spare": 1}, 'server.consistency = "bsp"'),
    "with groups": ({"consistency": BSP(), "spare": 1, "groups": 2}, "server.groups = 0"),
    "with taking over": ({"consistency": BSP(), "spare": 1, "stealing": True}, "server.stealing = false"),
    "without gradients": ({"consistency": BSP(), "spare": 1, "worker": Downpour()}, "server.consistency to tap, bap or ssp"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_race_is_refused_with_the_nearest_choice(name):
    plan, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        ParameterServer(**plan)


def test_somebody_must_count(shards):
    with pytest.raises(ConfigError, match="give 3 or fewer"):
        simulated.run(2, lambda comm: trainer(comm, shards, ParameterServer(BSP(), spare=V)))


def test_the_last_epochs_metrics_are_those_of_the_rows_that_counted(shards):
    (_, metrics), _ = train(4, 3, shards, ParameterServer(BSP(), spare=1))
    assert 0 < json.loads(metrics)["train_loss"] < 3
