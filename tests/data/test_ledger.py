"""The ledger finds every way of not using each row exactly once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcml.arrays import span
from hpcml.data.ledger import MASK, Ledger, expected, mix, to_plain, verdict
from hpcml.errors import DataError


def entered(shares, rows):
    """Return the sum of the vectors of some processes, each of which used one of the shares."""
    total = np.zeros(9, np.uint64)
    for rank, share in enumerate(shares):
        own = span(rows, len(shares), rank)
        ledger = Ledger(own.start, own.stop)
        for part in np.array_split(np.asarray(share, np.int64), 3):
            ledger.add(int(mix(part).sum()), len(part))
        total += ledger.vector()
    return total


def test_the_ids_are_those_of_splitmix64():
    """The first outputs of the generator with seed 0, as its author publishes them."""
    assert [hex(int(x)) for x in mix(np.arange(3))] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]


@given(st.integers(1, 500), st.integers(1, 5), st.randoms())
def test_every_row_once_adds_up_whoever_used_it(rows, ranks, random):
    order = list(range(rows))
    random.shuffle(order)
    shares = [order[i::ranks] for i in range(ranks)]
    assert verdict(entered(shares, rows), rows, "epoch 3")["rows_used"] == rows


@given(st.integers(2, 200), st.data())
def test_a_skipped_a_doubled_and_a_swapped_row_are_found(rows, data):
    a, b = data.draw(st.lists(st.integers(0, rows - 1), min_size=2, max_size=2, unique=True))
    order = list(range(rows))
    for wrong, words in (
        ([r for r in order if r != a], f"{rows - 1:,} rows used, expected {rows:,}"),
        ([*order, a], f"{rows + 1:,} rows used"),
        ([a if r == b else r for r in order], "some were skipped and others used twice"),
    ):
        with pytest.raises(DataError, match="epoch 3: the ledger does not add up") as caught:
            verdict(entered([wrong], rows), rows, "epoch 3")
        assert words in str(caught.value)


def test_rows_left_out_by_a_quarantine_are_accounted_for():
    ledger = Ledger(0, 10)
    ledger.add(int(mix(np.arange(7)).sum()), 7, (int(mix(np.arange(7, 10)).sum()), 3))
    assert verdict(ledger.vector(), 10, "epoch 0") == {"rows_used": 7, "rows_left_out": 3, "ids": f"{int(mix(np.arange(7)).sum()):016x}"}


def test_the_sums_go_through_a_checkpoint_onto_another_number_of_processes():
    first = entered([range(4), range(4, 6)], 10)
    again = Ledger(0, 10)
    again.restore(to_plain(first))
    again.add(int(mix(np.arange(6, 10)).sum()), 4)
    assert verdict(again.vector(), 10, "epoch 0")["rows_used"] == 10
    again.restore(None)
    assert not again.vector()[:4].any()


def test_the_expected_sum_is_that_of_its_parts():
    assert (expected(0, 70_000) + expected(70_000, 200_001)) & MASK == expected(0, 200_001) == int(mix(np.arange(200_001)).sum())


def test_rows_that_came_too_late_are_accounted_for_but_not_used():
    ledger = Ledger(0, 10)
    ids = mix(np.arange(10))
    ledger.add(int(ids[:6].sum()), 6)
    ledger.add(0, 0, (int(ids[6]), 1), (int(ids[7:].sum()), 3))
    assert verdict(ledger.vector(), 10, "epoch 3") | {"ids": ""} == {"rows_used": 6, "rows_left_out": 1, "rows_too_late": 3, "ids": ""}
    ledger.add(0, 0, late=(int(ids[7]), 1))
    with pytest.raises(DataError, match="6 rows used and 1 left out and 4 too late, expected 10"):
        verdict(ledger.vector(), 10, "epoch 3")


def test_rows_of_workers_that_are_gone_are_accounted_for_as_lost():
    ledger = Ledger(0, 10)
    ids = mix(np.arange(10))
    ledger.add(int(ids[:6].sum()), 6)
    ledger.lose(int(ids[6:].sum()), 4)
    assert verdict(ledger.vector(), 10, "epoch 3") | {"ids": ""} == {"rows_used": 6, "rows_left_out": 0, "rows_lost": 4, "ids": ""}
    ledger.lose(int(ids[7]), 1)
    with pytest.raises(DataError, match="6 rows used and 5 lost, expected 10"):
        verdict(ledger.vector(), 10, "epoch 3")


def test_others_take_over_the_books_of_a_process_that_is_no_more():
    first, second, ids = Ledger(0, 5), Ledger(5, 10), mix(np.arange(10))
    first.add(int(ids[:4].sum()), 4)
    second.add(int(ids[4:].sum()), 6)
    second.share(0, 10)
    second.take(first.plain())
    assert verdict(second.vector(), 10, "epoch 0")["rows_used"] == 10


def test_a_checkpoint_of_before_rows_could_be_late_is_read():
    ledger = Ledger(0, 4)
    ledger.restore({"used": "a", "used_rows": "2", "left_out": "0", "left_out_rows": "0"})
    assert ledger.vector()[:2].tolist() == [10, 2]
