"""Rows that are read together: every piece in one group, every row in its place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcml.data.dataset import Lanes, open_shards
from hpcml.data.windows import PIECES_AT_ONCE, compact, group_pieces

GAPS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9), st.booleans()), max_size=40)
"""(rows between a piece and the one before, rows, whether it is dead)."""


@given(parts=GAPS, rows=st.integers(0, 20))
def test_each_piece_that_lives_is_in_one_group_in_order(parts, rows):
    starts = np.cumsum([0, *(gap + count for gap, count, _ in parts)])
    pieces = [(int(start) + gap, int(start) + gap + count) for start, (gap, count, _) in zip(starts, parts, strict=False)]
    gone = {start for (start, _), (_, _, dead) in zip(pieces, parts, strict=True) if dead}
    groups, dead = group_pieces(pieces, rows, gone.__contains__)
    places = np.cumsum([0, *(stop - start for start, stop in pieces)]).tolist()
    whole = [(*piece, at) for piece, at in zip(pieces, places, strict=False)]
    assert [piece for group in groups for piece in group] == [piece for piece in whole if piece[0] not in gone]
    assert dead == [(at, at + stop - start) for start, stop, at in whole if start in gone]
    for group in groups:
        assert 1 <= len(group) <= PIECES_AT_ONCE
        assert len(group) == 1 or sum(stop - start for start, stop, _ in group) <= rows
        assert group[-1][2] + group[-1][1] - group[-1][0] - group[0][2] == sum(stop - start for start, stop, _ in group)


@given(first=st.integers(0, 5), count=st.integers(1, 6), order=st.randoms())
def test_places_are_a_slice_only_where_they_follow_one_another(first, count, order):
    place = np.arange(first, first + count)
    assert compact(place) == slice(first, first + count)
    shuffled = order.sample(place.tolist(), count)
    found = compact(np.array(shuffled))
    assert np.arange(first + count)[found].tolist() == shuffled


@pytest.fixture(params=[{}, {"chunks": True}, {"chunks": True, "compression": "gzip"}, {"dtype": ">f8"}], ids=str)
def data(make_shards, request):
    with open_shards(make_shards([5, 1, 9, 3], width=300, **request.param)) as dataset:
        yield dataset


@given(cuts=st.lists(st.integers(0, 18), max_size=8, unique=True).map(sorted), seed=st.integers(0, 99), shuffled=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_several_runs_land_as_the_same_rows_one_by_one(data, truth, cuts, seed, shuffled):
    runs = list(zip(cuts[::2], cuts[1::2], strict=False))
    rows = np.array([row for run in runs for row in range(*run)], np.int64)
    place = np.random.default_rng(seed).permutation(len(rows)) if shuffled else np.arange(len(rows))
    x, y = np.full((len(rows), 300), -1, np.float32), np.full(len(rows), -1, np.int64)
    data.scatter(runs, Lanes([(data.x, x), (data.y, y)]), place if shuffled else slice(0, len(rows)))
    np.testing.assert_array_equal(x[place], truth(rows, 300))
    np.testing.assert_array_equal(y[place], rows)
