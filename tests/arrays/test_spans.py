from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from hpcml.arrays import span, spans

LENGTHS = st.integers(0, 10**12)
PARTS = st.integers(1, 200)


@given(LENGTHS, PARTS)
def test_spans_are_consecutive_and_cover_the_range(n, parts):
    cut = spans(n, parts)
    assert len(cut) == parts
    assert cut[0].start == 0
    assert cut[-1].stop == n
    assert all(one.stop == other.start for one, other in itertools.pairwise(cut))


@given(LENGTHS, PARTS)
def test_lengths_differ_by_at_most_one(n, parts):
    lengths = [s.stop - s.start for s in spans(n, parts)]
    assert max(lengths) - min(lengths) <= 1
    assert min(lengths) >= 0


@given(LENGTHS, PARTS, st.data())
def test_one_span_is_found_without_the_list(n, parts, data):
    part = data.draw(st.integers(0, parts - 1))
    assert span(n, parts, part) == spans(n, parts)[part]


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 500))
def test_cutting_finer_refines_a_coarser_cut(parts, factor, n):
    edges = {s.start for s in spans(n, parts)}
    assert edges <= {s.start for s in spans(n, parts * factor)}
