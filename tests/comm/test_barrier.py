"""A barrier in shared memory: nobody leaves before all have come, and the last one's ring wakes who sleeps. Ranks are threads here."""

from __future__ import annotations

import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcml.arrays import aligned
from hpcml.comm import barrier as module
from hpcml.comm.barrier import Barrier
from hpcml.comm.bell import Bell

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")


def together(size, program):
    """Run program(rank, barrier) in a thread a rank; return what they returned."""
    memory, bells, found = aligned(Barrier.nbytes(size), np.uint8), [Bell() for _ in range(size)], {}
    names = [bell.name for bell in bells]

    def run(rank):
        mine = Barrier(memory, rank, bells[rank], names, lambda: None, lambda: None)
        found[rank] = program(rank, mine)
        mine.close()
        mine.close()

    threads = [threading.Thread(target=run, args=[rank], daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [found[rank] for rank in range(size)]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.0, 0.0, 1e-3, 4e-3]), min_size=6, max_size=6), min_size=1, max_size=4))
def test_nobody_leaves_before_all_have_come_however_late_each_is(pauses):
    came = [0] * len(pauses)

    def program(rank, barrier):
        seen = []
        for pause in pauses[rank]:
            time.sleep(pause)
            came[rank] += 1
            barrier.cross()
            seen.append(min(came) - came[rank])
        return seen

    for seen in together(len(pauses), program):
        assert min(seen) >= 0


def test_the_last_one_rings_so_that_nobody_waits_for_the_net(monkeypatch):
    monkeypatch.setattr(module, "NET", 20.0)
    begin = time.monotonic()

    def program(rank, barrier):
        for turn in range(9):
            if rank == turn % 3:
                time.sleep(0.03)  # long enough for the others to be asleep
            barrier.cross()
        return time.thread_time()

    spent = together(3, program)
    assert time.monotonic() - begin < 15
    assert max(spent) < 0.15


def test_a_ring_that_is_lost_is_found_by_looking(monkeypatch):
    monkeypatch.setattr(Bell, "ring", lambda self, name: True)
    looks = []

    def program(rank, barrier):
        barrier._look = lambda: looks.append(rank)
        if rank == 0:
            time.sleep(0.05)
        barrier.cross()

    together(2, program)
    assert set(looks) == {1}
