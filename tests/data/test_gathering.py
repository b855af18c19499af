"""New files hold the rows that the order says, read directly or by way of spills."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcml.data.gathering import (
    block_rows,
    cut,
    cut_evenly,
    invert,
    needs_spills,
    read_spills,
    shuffled,
    take_ascending,
    units,
    write_spill,
)
from hpcml.data.layout import Layout


class Memory:
    """A source of rows in memory, which remembers what was read."""

    def __init__(self, rows):
        self.rows, self.runs = rows, []
        self.x = np.arange(rows, dtype=np.float32)[:, None] + np.arange(3, dtype=np.float32) / 8

    def read(self, start, stop):
        self.runs.append((start, stop))
        return {"x": self.x[start:stop], "y": np.arange(start, stop)}


@given(rows=st.integers(1, 90), seed=st.integers(0, 50), block=st.integers(1, 40), share=st.floats(0.05, 1))
def test_ascending_rows_are_taken_and_no_row_is_read_twice(rows, seed, block, share):
    source = Memory(rows)
    wanted = np.flatnonzero(np.random.default_rng(seed).random(rows) < share)
    out = [found for _, found in take_ascending(source, wanted, block)]
    np.testing.assert_array_equal(np.concatenate([found["y"] for found in out] or [[]]), wanted)
    read = [row for start, stop in source.runs for row in range(start, stop)]
    assert len(read) == len(set(read))
    assert all(start // block == (stop - 1) // block for start, stop in source.runs)


@settings(max_examples=30)
@given(rows=st.integers(1, 80), size=st.integers(3, 30), files=st.integers(1, 9), seed=st.integers(0, 50))
def test_spills_give_every_file_its_rows_in_order(tmp_path_factory, rows, size, files, seed):
    folder = tmp_path_factory.mktemp("spills")
    source, order = Memory(rows), shuffled(rows, seed)
    fields, cuts, inverse = {"x": ((3,), "<f4"), "y": ((), "<i8")}, units(rows, size), invert(order)
    paths = [folder / f"{i}.h5" for i in range(len(cuts))]
    for path, unit in zip(paths, cuts, strict=True):
        write_spill(source, unit, inverse, fields, path)
    assert sorted(source.runs) == cuts
    for output in cut_evenly("part", 0, rows, min(files, rows)):
        made = read_spills(paths, cuts, inverse, output, fields)
        np.testing.assert_array_equal(made["y"], order[output.start : output.stop])
        np.testing.assert_array_equal(made["x"], source.x[order[output.start : output.stop]])


@given(rows=st.integers(1, 100), each=st.integers(1, 40))
def test_cuts_cover_every_row_once(rows, each):
    for outputs in (
        cut("part", 5, 5 + rows, each),
        cut_evenly("part", 5, 5 + rows, min(each, rows)),
    ):
        assert [row for output in outputs for row in range(output.start, output.stop)] == list(range(5, 5 + rows))
        assert [output.name for output in outputs] == sorted({output.name for output in outputs})
        assert all(output.start < output.stop for output in outputs)


def test_only_an_order_that_does_not_ascend_needs_spills():
    outputs = cut("part", 0, 6, 3)
    assert not needs_spills(np.array([3, 4, 5, 0, 1, 2]), outputs)
    assert needs_spills(np.array([0, 2, 1, 3, 4, 5]), outputs)


def test_a_shuffle_is_a_pure_function_of_its_seed():
    np.testing.assert_array_equal(shuffled(50, 3), shuffled(50, 3))
    assert (shuffled(50, 3) != shuffled(50, 4)).any()
    assert sorted(shuffled(50, 3)) == list(range(50))


@pytest.mark.parametrize("chunk", [0, 1, 7, 100_000])
def test_blocks_are_whole_chunks(chunk):
    assert block_rows(1000, Layout(chunk)) % (chunk or 32) == 0
