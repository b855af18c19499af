"""Portions are dealt once each, whoever asks in whatever order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hpcml.sync.server.deal import Deal


@given(st.integers(1, 5), st.integers(0, 7), st.data())
def test_every_portion_is_dealt_exactly_once(lanes, steps, data):
    deal, taken, asking = Deal(lanes, steps, stealing=True), [], set(range(lanes))
    while asking:
        worker = data.draw(st.sampled_from(sorted(asking)))
        portion = deal.take(worker)
        if portion is None:
            asking.discard(worker)
        else:
            taken.append(portion)
    assert sorted(taken) == [(lane, step) for lane in range(lanes) for step in range(steps)]


@given(st.integers(1, 5), st.integers(0, 7), st.data())
def test_without_stealing_a_worker_has_its_own_lane_in_order(lanes, steps, data):
    deal = Deal(lanes, steps, stealing=False)
    worker = data.draw(st.integers(0, lanes - 1))
    assert [deal.take(worker) for _ in range(steps + 1)] == [*((worker, step) for step in range(steps)), None]


def test_a_fast_worker_takes_from_the_back_of_the_fullest_lane():
    deal = Deal(3, 4, stealing=True)
    for _ in range(4):
        deal.take(0)
    deal.take(1)
    assert [deal.take(0) for _ in range(4)] == [(2, 3), (1, 3), (2, 2), (1, 2)]
