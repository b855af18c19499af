"""The index is plain data: it travels as JSON and has one fingerprint wherever the files lie."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcml.data.index import Field, Index, Shard

names = st.text(min_size=1, max_size=8)
fields = st.builds(Field, names, st.lists(st.integers(1, 9), max_size=3).map(tuple), st.sampled_from(["float32", "uint8"]))
shards = st.lists(st.builds(Shard, names, st.integers(1, 10**12), st.integers(1), st.integers(0)), min_size=1, max_size=4).map(tuple)


@given(st.builds(Index, fields, st.none() | fields, shards))
def test_an_index_survives_the_broadcast(index):
    assert Index.from_json(index.to_json()) == index
    assert Index.from_json(index.to_json()).fingerprint() == index.fingerprint()
    assert index.rows == sum(index.shard_rows)


def test_a_path_that_is_not_unicode_survives_too():
    index = Index(Field("x", (), "float32"), None, (Shard("/d/a\udcff.h5", 1, 2, 3),))
    assert Index.from_json(index.to_json()) == index


def test_the_fingerprint_knows_fields_names_and_rows_but_not_folder_and_time():
    shard = Shard("/a/part-0.h5", 5, 100, 1)
    index = Index(Field("x", (3,), "float32"), Field("y", (), "int64"), (shard,))

    def changed(**changes):
        return dataclasses.replace(index, shards=(dataclasses.replace(shard, **changes),)).fingerprint()

    assert changed(path="/b/c/part-0.h5", mtime_ns=9, size=8) == index.fingerprint()
    assert len({index.fingerprint(), changed(path="/a/part-1.h5"), changed(rows=6), dataclasses.replace(index, y=None).fingerprint()}) == 4


def test_an_index_without_features_is_refused():
    with pytest.raises(ValueError, match="needs features"):
        Index.from_json(b'{"x": null, "y": null, "shards": []}')


@pytest.mark.parametrize(("dtype", "memory"), [("float16", "f8"), ("float64", "f8"), ("uint8", "i8"), ("bool", "i8")])
def test_targets_are_real_or_int64_in_memory(dtype, memory):
    assert Field("y", (), dtype).memory_dtype(np.float64) == np.dtype(memory)
