"""Every row goes to one part; shares, classes and groups are kept as far as whole rows allow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hpcml.data.splitting import assign, parse_parts
from hpcml.errors import ConfigError, DataError

SHARES = st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.5), (0.9, 0.1), (1 / 3, 1 / 3, 1 / 3), (0.7, 0.2, 0.05, 0.05)])


@given(rows=st.integers(40, 400), shares=SHARES, seed=st.integers(0, 99))
def test_shares_are_met_to_the_row(rows, shares, seed):
    counts = np.bincount(assign(rows, shares, seed), minlength=len(shares))
    assert counts.sum() == rows
    assert (abs(counts - np.asarray(shares) * rows) < 1).all()


@given(shares=SHARES, seed=st.integers(0, 99), sizes=st.lists(st.integers(1, 60), min_size=1, max_size=8))
def test_every_class_has_its_share_in_every_part(shares, seed, sizes):
    assume(sum(sizes) >= 40)
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)) * 3 - 4, sizes))
    parts = assign(len(labels), shares, seed, labels)
    for label in np.unique(labels):
        inside = parts[labels == label]
        assert (abs(np.bincount(inside, minlength=len(shares)) - np.asarray(shares) * len(inside)) < 1 + 1e-9).all()
    # Rounding never piles up: what one class gives too much, the next gives less.
    assert (abs(np.bincount(parts, minlength=len(shares)) - np.asarray(shares) * len(labels)) < len(shares)).all()


@given(seed=st.integers(0, 99), sizes=st.lists(st.integers(1, 12), min_size=30, max_size=60))
def test_groups_are_never_cut_and_shares_are_near(seed, sizes):
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    shares = (0.6, 0.2, 0.2)
    parts = assign(len(groups), shares, seed, None, groups)
    assert all(len(set(parts[groups == group])) == 1 for group in range(len(sizes)))
    assert (abs(np.bincount(parts, minlength=3) - np.asarray(shares) * len(groups)) <= max(sizes)).all()


def test_groups_with_classes_keep_both_where_they_can():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(100), 10)
    labels = np.repeat(rng.integers(0, 4, 100), 10)
    parts = assign(1000, (0.8, 0.2), 0, labels, groups)
    for label in range(4):
        share = (parts[labels == label] == 1).mean()
        assert abs(share - 0.2) < 0.08
    assert all(len(set(parts[groups == group])) == 1 for group in range(100))


def test_the_seed_alone_decides():
    labels = np.arange(300) % 3
    np.testing.assert_array_equal(assign(300, (0.5, 0.5), 7, labels), assign(300, (0.5, 0.5), 7, labels))
    assert (assign(300, (0.5, 0.5), 7, labels) != assign(300, (0.5, 0.5), 8, labels)).any()


def test_a_part_without_rows_is_refused():
    with pytest.raises(DataError, match="would have no rows"):
        assign(3, (0.98, 0.01, 0.01), 0)
    with pytest.raises(DataError, match="too few groups"):
        assign(30, (0.5, 0.5), 0, None, np.zeros(30, np.int64))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("0.8,0.1,0.1", {"train": 0.8, "validation": 0.1, "test": 0.1}),
        ("0.9, 0.1", {"train": 0.9, "test": 0.1}),
        ("a=0.25,b=0.25,c=0.5", {"a": 0.25, "b": 0.25, "c": 0.5}),
    ],
)
def test_parts_are_read(text, parts):
    assert parse_parts(text) == parts


@pytest.mark.parametrize("text", ["1", "0.5,0.6", "a=0.5,a=0.5", "0.5,0.5,0,0", "a=x,b=1", "a/b=0.5,c=0.5", "1.5,-0.5", "a=0.5,0.5"])
def test_other_parts_are_refused(text):
    with pytest.raises(ConfigError, match="parts"):
        parse_parts(text)
