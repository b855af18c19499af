"""Statistics are numpy's, and have the same bits however the leaves are dealt out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hpcml.arrays.spans import spans
from hpcml.data.contents import Contents
from hpcml.data.statistics import BLOCK_BYTES, LEAVES, MOST_CLASSES, fold, leaf, merge, moments, pack, summarise, unpack


class Memory:
    def __init__(self, **fields):
        self.fields = fields
        self.rows = len(next(iter(fields.values())))
        self.contents = Contents(self.rows, {name: (values.shape[1:], values.dtype) for name, values in fields.items()}, {}, {}, ())

    def read(self, start, stop):
        return {name: values[start:stop] for name, values in self.fields.items()}


def computed(source, ranks=1):
    whole = {}
    for part in spans(LEAVES, ranks):
        whole.update(
            unpack(pack(fold({(0, i): leaf(source, source.contents.block(BLOCK_BYTES), i) for i in range(part.start, part.stop)})))
        )
    (root,) = fold(whole).values()
    return summarise(root, source.rows, source.contents)


@given(x=arrays.arrays(np.float64, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.floats(-1e6, 1e6)))
def test_the_numbers_are_those_of_numpy(x):
    found = computed(Memory(x=x))["fields"]["x"]
    np.testing.assert_allclose(found["columns"]["mean"], x.mean(axis=0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found["columns"]["std"], x.std(axis=0), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(found["columns"]["min"], x.min(axis=0))
    np.testing.assert_array_equal(found["columns"]["max"], x.max(axis=0))
    assert found["mean"] == pytest.approx(x.mean(), rel=1e-9, abs=1e-9)
    assert found["std"] == pytest.approx(x.std(), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 255, 256, 1000])
def test_any_number_of_ranks_gives_the_same_bits(rows):
    rng = np.random.default_rng(rows)
    source = Memory(x=rng.normal(1e3, 1, (rows, 7)).astype(np.float32), y=rng.integers(0, 5, rows))
    assert len({repr(computed(source, ranks)) for ranks in (1, 2, 3, 4, 7)}) == 1


def test_values_that_are_not_finite_are_counted_and_left_out():
    x = np.array([[1, np.nan], [np.inf, np.nan], [3, np.nan]])
    found = computed(Memory(x=x))["fields"]["x"]
    assert found["columns"] == {"mean": [2.0, None], "std": [1.0, None], "min": [1.0, None], "max": [3.0, None], "not_finite": [1, 3]}
    assert (found["mean"], found["not_finite"]) == (2.0, 4)


def test_nothing_finite_has_no_numbers():
    found = computed(Memory(x=np.full((4, 1), np.nan)))["fields"]["x"]
    assert [found[key] for key in ("mean", "std", "min", "max", "not_finite")] == [None, None, None, None, 4]


def test_classes_are_counted_exactly():
    y = np.random.default_rng(0).integers(-3, 9, 5000)
    values, counts = np.unique(y, return_counts=True)
    assert computed(Memory(y=y), 3)["fields"]["y"]["classes"] == {str(v): int(c) for v, c in zip(values, counts, strict=True)}


def test_too_many_classes_are_not_counted_whatever_the_ranks():
    source = Memory(y=np.arange(MOST_CLASSES + 1))
    assert computed(source)["fields"]["y"]["classes"] is computed(source, 4)["fields"]["y"]["classes"] is None


def test_a_mean_far_from_zero_keeps_its_deviation():
    x = (1e8 + np.random.default_rng(0).normal(0, 1, 20000)).astype(np.float64)
    assert computed(Memory(x=x))["fields"]["x"]["std"] == pytest.approx(x.std(), rel=1e-6)


def test_rows_without_a_finite_value_change_no_mean():
    a = moments(np.arange(4.0))
    both = merge(a, moments(np.full(3, np.nan)))
    assert both.table[1, 0] == a.table[1, 0]
    assert both.count == 4


def test_text_has_no_statistics():
    assert computed(Memory(x=np.arange(3.0), name=np.array(["a", "b", "c"], object)))["fields"].keys() == {"x"}


@given(value=st.floats(-1e30, 1e30), rows=st.integers(1, 700), bad=st.sampled_from([None, np.nan, np.inf]))
def test_a_column_that_never_changes_has_its_own_mean_and_no_deviation(value, rows, bad):
    x = np.full(rows + 1, value)
    if bad is not None:
        x[0] = bad
    found = computed(Memory(x=x))["fields"]["x"]["columns"]
    assert (found["mean"], found["std"]) == ([value], [0.0])
