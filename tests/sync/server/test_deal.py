"""Portions are dealt once each, whoever asks in whatever order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hpcml.sync.server.deal import Deal


@given(st.integers(1, 5), st.integers(0, 7), st.data())
def test_every_portion_is_dealt_exactly_once_to_its_owner_or_a_helper(lanes, steps, data):
    deal, taken = Deal(lanes, steps), []
    for _ in range(lanes * steps):
        left = [lane for lane in range(lanes) if sum(owner == lane for owner, _ in taken) < steps]
        taken.append(deal.take(data.draw(st.sampled_from(left))) if data.draw(st.booleans()) else deal.help(steps))
    assert deal.help(steps) is None
    assert all(deal.take(lane) is None for lane in range(lanes))
    assert sorted(taken) == [(lane, step) for lane in range(lanes) for step in range(steps)]


@given(st.integers(1, 5), st.integers(0, 7), st.data())
def test_a_lane_is_dealt_in_order(lanes, steps, data):
    deal = Deal(lanes, steps)
    worker = data.draw(st.integers(0, lanes - 1))
    assert [deal.take(worker) for _ in range(steps + 1)] == [*((worker, step) for step in range(steps)), None]


@given(st.integers(1, 5), st.integers(0, 7), st.integers(0, 9), st.data())
def test_a_helper_gets_the_next_of_the_lane_with_fewest_dealt_and_nothing_ahead_of_its_own(lanes, steps, below, data):
    deal = Deal(lanes, steps)
    dealt = [data.draw(st.integers(0, steps)) for _ in range(lanes)]
    for lane, count in enumerate(dealt):
        for _ in range(count):
            deal.take(lane)
    fewest = min(dealt)
    expected = (dealt.index(fewest), fewest) if fewest < min(below, steps) else None
    assert deal.help(below) == expected
