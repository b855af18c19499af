"""The measured numbers of a shuffle are those of orders whose quality is known, and the recommendation follows them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcml.data.planning import Assessment, amplify, assess, classes_of, recommend, relative_mixing, spread
from hpcml.data.sampler import SHUFFLES, Sampler

SORTED = np.arange(8192) // 1024


def sampler(shuffle, rows=(8192,), batch=128, workers=2, block=32, window=64):
    return Sampler(rows, batch, workers, 3, shuffle, block, window)


def assessed(shuffle, codes=SORTED, chunks=(0,), **options):
    made = sampler(shuffle, **options)
    return assess(made, options.get("rows", (8192,)), chunks, codes, 100)


def test_no_shuffle_has_no_displacement_and_the_worst_mixing():
    none = assessed("none", workers=1)
    assert none.displacement == 0
    assert none.labels > 8
    assert none.amplification == 1


def test_a_global_shuffle_is_perfect():
    found = assessed("global")
    assert found.displacement == pytest.approx(1, abs=0.1)
    assert found.labels == pytest.approx(1, abs=0.1)
    assert found.stretches == pytest.approx(1, abs=0.1)


def test_mixing_grows_better_from_none_to_global_on_sorted_files():
    labels = [assessed(shuffle).labels for shuffle in SHUFFLES]
    assert labels == sorted(labels, reverse=True)


def test_labels_already_mixed_are_mixed_by_anything():
    codes = np.random.default_rng(0).integers(0, 8, 8192)
    assert all(assessed(shuffle, codes).labels == pytest.approx(1, abs=0.15) for shuffle in SHUFFLES)


def test_one_class_is_mixed_by_anything():
    assert assessed("none", np.zeros(8192, np.int64)).labels == 1


@given(
    chunk=st.sampled_from([0, 1, 8, 32]), shuffle=st.sampled_from(SHUFFLES[:3]), shards=st.lists(st.integers(1, 8), min_size=1, max_size=4)
)
def test_chunks_that_blocks_do_not_cut_are_read_once(chunk, shuffle, shards):
    rows = [32 * n for n in shards]
    made = Sampler(rows, min(32, sum(rows)), 1, 0, shuffle, 32, 4)
    factor, reads = amplify(made, rows, [chunk] * len(rows))
    assert factor == 1
    assert reads >= 1


def test_chunks_longer_than_blocks_are_read_for_every_block():
    made = sampler("block", workers=1, window=1)
    assert amplify(made, (8192,), [320])[0] == pytest.approx(10, rel=0.05)
    assert amplify(sampler("none"), (8192,), [320])[0] == 1


def test_rows_one_by_one_read_a_chunk_each():
    made = sampler("global", rows=(200_000,), window=1)
    factor, reads = amplify(made, (200_000,), [32])
    assert factor == pytest.approx(32, rel=0.05)
    assert reads == pytest.approx(200_000, rel=0.05)


def test_the_cheapest_good_shuffle_is_recommended():
    found = [assessed(shuffle, np.random.default_rng(0).integers(0, 8, 8192), workers=1) for shuffle in SHUFFLES]
    assert recommend(found, 0, 32)[0] == "window"


def made(shuffle, amplification, labels, stretches=1.0):
    return Assessment(shuffle, amplification, 10, 10, 1.0, labels, stretches)


def test_remedies_are_told():
    found = [made("none", 1, 9), made("block", 9, 5), made("window", 9, 2), made("global", 32, 1)]
    best, texts = recommend(found, 1000, 32)
    assert best == "global"
    assert "data.block = 1000" in texts[-1]
    assert "reshard --shuffle" in texts[1]
    best, texts = recommend([made("none", 1, 1), made("block", 1, 1, 5), made("window", 1, 1.05), made("global", 1, 1)], 0, 32)
    assert (best, len(texts)) == ("window", 1)


def test_classes_are_labels_tenths_or_stretches():
    assert classes_of(np.array([7, 3, 7]), 3)[0].tolist() == [1, 0, 1]
    codes, what = classes_of(np.random.default_rng(0).normal(size=1000), 1000)
    assert np.bincount(codes).tolist() == [100] * 10
    assert "tenths" in what
    assert classes_of(None, 64)[0].tolist() == [i // 2 for i in range(64)]


@given(total=st.integers(1, 500), most=st.integers(1, 100))
def test_places_are_spread_and_different(total, most):
    found = spread(total, most)
    assert len(set(found)) == min(total, most)
    assert all(0 <= place < total for place in found)


def test_mixing_of_equal_batches_is_one():
    rows = [np.arange(8), np.arange(8, 16)]
    assert relative_mixing(np.arange(16) % 3, rows, rows) == 1
