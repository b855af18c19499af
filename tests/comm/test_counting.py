"""Counted traffic: the laws of a communicator, true numbers, and the formulas of the strategies."""

from __future__ import annotations

import numpy as np
import pytest

from hpcml.comm.counting import Counted
from hpcml.comm.topologies import ONE_PEER, RING
from hpcml.optim import SGD
from hpcml.sync import Elastic, EveryStep, Gossip, LocalSteps
from tests.laws import CommunicatorLaws, Job

P = 4


class TestCounted(CommunicatorLaws):
    def make(self, comm):
        return Counted(comm)


def test_bytes_and_messages_are_those_sent(world):
    def program(comm):
        counted = Counted(comm)
        x, into = np.zeros(10), np.zeros(10)
        counted.exchange(x, (comm.rank + 1) % 3, into, (comm.rank - 1) % 3)
        counted.exchange(x, None, None, None)
        counted.split(comm.rank % 2).exchange(None, None, None, None)
        counted.barrier()
        return counted.traffic

    for traffic in world(3, program):
        assert (traffic.sent_bytes, traffic.messages) == (80, 1)
        assert traffic.waited > 0


def sent(world, plan, steps):
    """Bytes that P ranks of one worker each send in some steps, and those of a vector with its tail."""

    def program(comm):
        counted = Counted(comm, apart=True)
        job = Job(plan, counted, P, SGD(0.1))
        before = counted.traffic.sent_bytes
        job.steps(0, steps)
        return counted.traffic.sent_bytes - before, job.arena.length * 8

    found = world(P, program)
    return sum(count for count, _ in found), found[0][1]


@pytest.mark.parametrize("every", [1, 2, 4, 8])
def test_local_steps_send_one_part_in_h_of_synchronous_sgds_bytes(world, every):
    synchronous, vector = sent(world, EveryStep(), 8)
    assert synchronous == 8 * 2 * (P - 1) * vector  # up the tree and back
    assert sent(world, LocalSteps(every), 8)[0] * every == synchronous
    assert sent(world, Elastic(every), 8)[0] * every == synchronous


def test_gossip_sends_a_vector_to_each_neighbour(world):
    vector = sent(world, EveryStep(), 1)[1] - 5 * 8  # no tail
    assert sent(world, Gossip(RING), 6)[0] == 6 * 2 * P * vector
    assert sent(world, Gossip(ONE_PEER), 6)[0] == 6 * P * vector
    assert sent(world, Gossip(ONE_PEER, every=3), 6)[0] == 2 * P * vector


def test_groups_sum_inside_at_every_step_and_between_at_a_meeting(world):
    total, vector = sent(world, Elastic(4, groups=2), 8)
    inside, between = 2 * 2 * (2 - 1) * vector, (1 + P - 1) * vector
    assert total == 8 * inside + 2 * between
