"""Schedules are run here by an interpreter of a few lines: no communicator, whole numbers, every P from 1 to 17."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from dataclasses import dataclass, field

import numpy as np
import pytest

from hpcml.arrays import spans
from hpcml.comm.schedules import SCHEDULES, binary_tree, recursive_doubling, ring, ring_gather

SIZES = range(1, 18)
LENGTHS = [*range(20), 33, 40]


@dataclass
class Trace:
    """What a run of a schedule cost."""

    rounds: list[int]
    sent: list[int]
    messages: list[int]
    largest_wait: int = 0
    mail: dict = field(default_factory=lambda: defaultdict(deque))


def play(schedule, vectors):
    """Run the schedule on all ranks' vectors, overwriting them; every message must be received, in the size that was sent."""
    size, n = vectors.shape
    plans = [list(schedule(rank, size, n)) for rank in range(size)]
    trace = Trace([len(plan) for plan in plans], [0] * size, [0] * size)
    position, sent, clock = [0] * size, [False] * size, [0] * size
    moved = True
    while moved:
        moved = False
        for rank, plan in enumerate(plans):
            while position[rank] < len(plan):
                t = plan[position[rank]]
                if not sent[rank]:
                    sent[rank] = moved = True
                    if t.to is not None:
                        assert t.to != rank
                        trace.mail[rank, t.to].append((clock[rank] + 1, vectors[rank, t.send].copy()))
                        trace.sent[rank] += t.send.stop - t.send.start
                        trace.messages[rank] += 1
                if t.source is not None and not trace.mail[t.source, rank]:
                    break
                arrival = clock[rank] + 1
                if t.source is not None:
                    arrived, came = trace.mail[t.source, rank].popleft()
                    arrival = max(arrival, arrived)
                    assert len(came) == t.receive.stop - t.receive.start
                    vectors[rank, t.receive] = vectors[rank, t.receive] + came if t.add else came
                clock[rank], sent[rank], moved = arrival, False, True
                position[rank] += 1
    assert position == trace.rounds, "ranks wait for messages that nobody sends"
    assert not any(trace.mail.values()), "messages that nobody receives"
    trace.largest_wait = max(clock)
    return trace


def some(size, n):
    return np.random.default_rng([size, n]).integers(-1000, 1000, (size, n))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("size", SIZES)
def test_every_rank_ends_with_the_sum(name, size):
    for n in LENGTHS:
        vectors = some(size, n)
        expected = vectors.sum(axis=0)
        play(SCHEDULES[name], vectors)
        assert (vectors == expected).all()


@pytest.mark.parametrize("size", SIZES)
def test_a_ring_gather_completes_what_each_rank_holds_its_chunk_of(size):
    for n in LENGTHS:
        truth = np.arange(n)
        vectors = np.full((size, n), -1)
        for rank, chunk in enumerate(spans(n, size)):
            vectors[rank, chunk] = truth[chunk]
        trace = play(ring_gather, vectors)
        assert (vectors == truth).all()
        assert trace.messages == [size - 1] * size


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("size", SIZES)
def test_the_bits_of_a_sum_of_fractions_are_the_same_on_all_ranks(name, size):
    vectors = np.random.default_rng(size).standard_normal((size, 40)).astype(np.float32)
    play(SCHEDULES[name], vectors)
    assert (vectors == vectors[0]).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n", [0, 1, 17, 40])
def test_a_ring_sends_every_element_about_twice(size, n):
    trace = play(ring, some(size, n))
    assert trace.messages == trace.rounds == [2 * (size - 1)] * size
    assert trace.largest_wait == 2 * (size - 1)
    chunk = math.ceil(n / size)
    for sent in trace.sent:
        assert 0 <= 2 * n - sent <= 2 * chunk or size == 1
    assert sum(trace.sent) == 2 * n * (size - 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n", [0, 1, 40])
def test_a_binary_tree_sends_at_most_three_vectors_from_any_rank(size, n):
    trace = play(binary_tree, some(size, n))
    assert max(trace.sent) <= 3 * n
    assert max(trace.messages) <= 3
    assert sum(trace.messages) == 2 * (size - 1)
    assert trace.largest_wait <= 4 * math.floor(math.log2(size)) + 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n", [0, 1, 40])
def test_recursive_doubling_takes_a_logarithm_of_rounds_and_two_more_beside_powers_of_two(size, n):
    trace = play(recursive_doubling, some(size, n))
    beside = 0 if size & (size - 1) == 0 else 2
    assert max(trace.rounds) == math.floor(math.log2(size)) + beside
    assert trace.largest_wait <= math.floor(math.log2(size)) + beside
    assert max(trace.sent) <= n * math.ceil(math.log2(size))


@pytest.mark.parametrize("schedule", [ring, ring_gather, binary_tree, recursive_doubling])
def test_a_rank_alone_has_nothing_to_do(schedule):
    assert list(schedule(0, 1, 10)) == []
