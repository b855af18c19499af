"""The sum of row hashes is the same for any order and any blocks, and another one for any other rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcml.data.rowsum import RowSum, row_hashes

DTYPES = ("u1", "<i2", ">i4", "<f4", ">f8", "?", "S3", "<c16")


def summed(*blocks):
    total = RowSum()
    for block in blocks:
        total.add(block)
    return total.plain()


def rows(n, seed=0, width=5, dtype="<f4"):
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (n, width * np.dtype(dtype).itemsize), np.uint8)
    x = raw.view(dtype) if dtype != "?" else (raw > 128)
    return {"x": x.reshape(n, -1), "y": rng.integers(0, 9, n)}


@given(n=st.integers(1, 60), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 99), data=st.data())
def test_order_and_blocks_do_not_matter(n, dtype, seed, data):
    block = rows(n, seed, dtype=dtype)
    order = np.random.default_rng(seed).permutation(n)
    cut = data.draw(st.integers(0, n))
    parts = [{name: values[order][piece] for name, values in block.items()} for piece in (slice(0, cut), slice(cut, n))]
    assert summed(*parts) == summed(block)


@given(n=st.integers(2, 60), seed=st.integers(0, 99), data=st.data())
def test_one_flipped_bit_is_noticed_and_the_field_named(n, seed, data):
    block = rows(n, seed)
    changed = {name: values.copy() for name, values in block.items()}
    raw = changed["x"].view(np.uint8).reshape(-1)
    raw[data.draw(st.integers(0, raw.size - 1))] ^= 1 << data.draw(st.integers(0, 7))
    before, after = summed(block), summed(changed)
    assert before["row_hash"] != after["row_hash"]
    assert before["fields"]["x"] != after["fields"]["x"]
    assert before["fields"]["y"] == after["fields"]["y"]


def test_a_row_twice_and_another_lost_is_noticed():
    block = rows(20)
    other = {name: values[[0, 0, *range(2, 20)]] for name, values in block.items()}
    assert summed(block)["row_hash"] != summed(other)["row_hash"]


def test_the_same_pair_twice_does_not_cancel():
    block = rows(4)
    pair = {name: np.concatenate([values[:1]] * 2) for name, values in block.items()}
    assert int(summed(pair)["row_hash"], 16) != 0


def test_targets_given_to_other_rows_are_noticed_though_each_field_is_the_same():
    block = rows(20)
    mixed = {"x": block["x"], "y": np.roll(block["y"], 1)}
    before, after = summed(block), summed(mixed)
    assert before["fields"] == after["fields"]
    assert before["row_hash"] != after["row_hash"]


def test_byte_order_in_the_file_does_not_matter_but_the_dtype_does():
    x = np.arange(12, dtype="<f4").reshape(4, 3)
    np.testing.assert_array_equal(row_hashes("x", x), row_hashes("x", x.astype(">f4")))
    assert not (row_hashes("x", x) == row_hashes("x", x.astype("<f8"))).any()


def test_two_fields_of_one_value_have_different_hashes():
    x = np.arange(4.0)
    assert not (row_hashes("x", x) == row_hashes("y", x)).any()


def test_hashes_do_not_collide_where_values_are_alike():
    grid = np.arange(1 << 16, dtype=np.int32)
    assert len(np.unique(row_hashes("x", grid))) == len(grid)
    assert len(np.unique(row_hashes("x", np.eye(300, dtype=np.float32)))) == 300


def test_rows_wider_than_a_block_and_rows_of_nothing():
    wide = np.random.default_rng(0).random((3, 200_000))
    assert len(np.unique(row_hashes("x", wide))) == 3
    assert len(row_hashes("x", np.empty((3, 0)))) == 3


@pytest.mark.parametrize("texts", [["a", "bc"], [b"a", b"bc"]])
def test_texts_of_any_length_have_hashes(texts):
    a = np.array(texts, object)
    b = np.array([texts[0] + texts[1], texts[0][:0]], object)
    assert summed({"t": a})["row_hash"] != summed({"t": b})["row_hash"]


def test_the_plain_form_is_read_back():
    total = RowSum()
    total.add(rows(7))
    again = RowSum.from_plain(total.plain())
    again.merge(RowSum())
    assert again.plain() == total.plain()
