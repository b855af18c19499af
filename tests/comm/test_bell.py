"""A bell wakes whoever waits for it, is never lost, and tells who cannot be reached."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from hpcml.comm.bell import Bell

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")


@pytest.fixture
def bells():
    pair = Bell(), Bell()
    yield pair
    for bell in pair:
        bell.close()
        bell.close()


def test_a_ring_before_the_wait_is_heard_once(bells):
    mine, other = bells
    assert other.ring(mine.name)
    assert mine.wait(10)
    assert not mine.wait(0)


def test_rings_that_nobody_hears_become_one_and_never_block(bells):
    mine, other = bells
    assert all(other.ring(mine.name) for _ in range(10_000))
    while mine.wait(0):
        pass
    assert other.ring(mine.name)
    assert mine.wait(0)


def test_a_ring_wakes_a_sleeper(bells):
    mine, other = bells
    timer = threading.Timer(0.1, other.ring, [mine.name])
    begin = time.monotonic()
    timer.start()
    assert mine.wait(30)
    assert time.monotonic() - begin < 20
    timer.join()


def test_a_deaf_thread_leaves_the_ring_to_the_main_one(bells):
    mine, other = bells
    mine.deafen(True)
    other.ring(mine.name)
    assert not mine.wait_beside(0)
    mine.deafen(False)
    assert mine.wait_beside(0)
    assert not mine.wait(0)


def test_nobody_is_reached_by_a_name_that_is_gone_or_never_was(bells):
    mine, other = bells
    other.close()
    assert not mine.ring(other.name)
    assert not mine.ring(b"\0nobody")
    assert not mine.ring(b"")
