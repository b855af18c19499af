"""The consistency models, model-checked: random schedules of arrivals, duplicates and departures, and what must hold in each."""

from __future__ import annotations

import random

import pytest

from hpcml.errors import CommError
from hpcml.sync.server import ASP, BAP, BSP, SSP, TAP
from hpcml.sync.server.gate import Act, LiveGate, ReplayGate

MODELS = {"bsp": BSP(), "ssp 1": SSP(1), "ssp 3": SSP(3), "asp": ASP(0.01, 2), "bap": BAP(), "tap": TAP()}


class Schedule:
    """Workers that each write and read in turn, over links that keep the order of one worker's letters and of nobody else's.

    A worker that must wait for its answers has one write on its way. A link may deliver a write twice.
    """

    def __init__(self, gate, workers, steps, seed, twice=0.1, warm=0):
        self.gate, self.random, self.twice = gate, random.Random(seed), twice
        self.steps = [steps if isinstance(steps, int) else steps[w] for w in range(workers)]
        self.links = [[] for _ in range(workers)]
        self.sent, self.answered = [0] * workers, [0] * workers
        self.asked = [0] * workers
        self.events, self.reads = [], []
        for worker in range(workers):
            if warm and worker:
                self.asked[worker] += 1
                self.links[worker].append(("ask", 0))
            else:
                self._go_on(worker)

    def _go_on(self, worker):
        if self.sent[worker] < self.steps[worker]:
            self.links[worker].append(("write", self.sent[worker]))
            self.sent[worker] += 1
            self.asked[worker] += 1
        else:
            self.links[worker].append(("leave", 0))

    def run(self):
        """Deliver everything in random order and return the events."""
        while any(self.links):
            worker = self.random.choice([w for w, link in enumerate(self.links) if link])
            kind, clock = self.links[worker].pop(0)
            if kind == "write":
                for copy in range(1 + (self.random.random() < self.twice)):
                    assert self.gate.push(worker, clock) is (copy == 0)
                self.gate.pull(worker)
            elif kind == "ask":
                self.gate.pull(worker)
            else:
                self.gate.leave(worker)
            for act, who in self.gate.ready():
                self.events.append((act, who))
                if act is Act.PULL:
                    self.reads.append((who, list(self.gate.clocks)))
                    self.answered[who] += 1
                    self._go_on(who)
        return self.events


def finished(schedule):
    return schedule.answered == schedule.asked and schedule.sent == schedule.steps


def written(events):
    return [who for act, who in events if act is Act.PUSH]


@pytest.mark.parametrize("name", MODELS)
def test_2000_schedules_each_end_and_take_every_write_once(name):
    for seed in range(2000):
        workers = 1 + seed % 4
        schedule = Schedule(LiveGate(MODELS[name], workers), workers, 4, seed)
        events = schedule.run()
        assert finished(schedule), (seed, events)
        assert sorted(written(events)) == sorted(list(range(workers)) * 4), seed
        if MODELS[name].bound is not None:
            for who, clocks in schedule.reads:
                # Who has left by now waits for nobody and nobody for him: here all have as many steps.
                assert clocks[who] - min(clocks) <= MODELS[name].bound, (seed, who, clocks)


def test_in_10000_schedules_ssp_reads_nothing_older_than_its_bound():
    for seed in range(10000):
        bound, workers = seed % 4, 2 + seed // 4 % 3
        schedule = Schedule(LiveGate(SSP(bound), workers), workers, 3 + seed % 3, seed)
        schedule.run()
        assert finished(schedule), seed
        assert all(clocks[who] - min(clocks) <= bound for who, clocks in schedule.reads), (seed, schedule.reads)


def test_a_stale_read_does_happen_up_to_the_bound_and_without_one_beyond_it():
    def widest(model):
        found = 0
        for seed in range(400):
            schedule = Schedule(LiveGate(model, 3), 3, 8, seed)
            schedule.run()
            found = max(found, *(clocks[who] - min(clocks) for who, clocks in schedule.reads))
        return found

    assert [widest(SSP(bound)) for bound in (0, 1, 2, 3)] == [0, 1, 2, 3]
    assert widest(TAP()) > 3


@pytest.mark.parametrize("seed", range(3))
def test_without_slack_every_read_sees_exactly_the_clocks_before_it_in_one_order_whatever_arrives_first(seed):
    orders = set()
    for schedule_seed in range(300):
        schedule = Schedule(LiveGate(SSP(0), 3), 3, [4, 2, 3], 1000 * seed + schedule_seed)
        events = schedule.run()
        assert finished(schedule)
        orders.add(tuple(event for event in events if event[0] in (Act.PUSH, Act.APPLY)))
        for who, clocks in schedule.reads:
            assert all(other == clocks[who] or steps <= other for other, steps in zip(clocks, [4, 2, 3], strict=True))
    assert len(orders) == 1
    assert BSP() == SSP(0) == ASP(0.0, 0)


def test_workers_with_unequal_work_leave_and_hold_nobody_back():
    for seed in range(1000):
        steps = [seed % 5, 3, 1 + seed % 2]
        for model in MODELS.values():
            schedule = Schedule(LiveGate(model, 3), 3, steps, seed)
            schedule.run()
            assert finished(schedule), (seed, model)


def test_a_recorded_order_is_followed_whatever_arrives_first():
    for seed in range(1500):
        model = list(MODELS.values())[seed % len(MODELS)]
        live = Schedule(LiveGate(model, 3), 3, [4, 2, 3], seed).run()
        gate = ReplayGate(live, 3)
        replayed = Schedule(gate, 3, [4, 2, 3], seed + 77_777)
        assert replayed.run() == live
        assert finished(replayed)
        assert gate.missing() == 0


def test_a_warm_start_lets_the_first_worker_work_alone():
    for seed in range(500):
        schedule = Schedule(LiveGate(TAP(), 3, warm=3), 3, 5, seed, warm=3)
        events = schedule.run()
        assert finished(schedule)
        assert written(events)[:3] == [0, 0, 0]


def test_a_worker_that_leaves_early_ends_a_warm_start():
    gate = LiveGate(TAP(), 2, warm=9)
    gate.pull(1)
    assert list(gate.ready()) == []
    gate.leave(0)
    assert list(gate.ready()) == [(Act.LEAVE, 0), (Act.PULL, 1)]


def test_an_announced_write_holds_the_reads_of_others_until_it_has_come():
    gate = LiveGate(ASP(0.01, 5), 2)
    gate.announce(0)
    gate.push(1, 0)
    gate.pull(1)
    assert list(gate.ready()) == [(Act.PUSH, 1)]
    gate.push(0, 0)
    assert list(gate.ready()) == [(Act.PUSH, 0), (Act.PULL, 1)]


def test_a_write_that_was_lost_is_named():
    gate = LiveGate(TAP(), 2)
    gate.push(1, 0)
    with pytest.raises(CommError, match="worker 1 wrote clock 2, expected 1"):
        gate.push(1, 2)


def test_a_write_that_comes_twice_is_counted_and_not_taken():
    gate = LiveGate(SSP(2), 2)
    assert gate.push(0, 0)
    assert not gate.push(0, 0)
    assert list(gate.ready()) == [(Act.PUSH, 0)]
    assert not gate.push(0, 0)
    assert list(gate.ready()) == []
    assert gate.refused == 2
