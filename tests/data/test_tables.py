"""Tables of chunks are HDF5's own, also after a journey as text."""

from __future__ import annotations

import h5py
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hpcml.data.tables import ChunkTable, table_text


@given(rows=st.integers(1, 40), columns=st.integers(1, 9), chunk=st.tuples(st.integers(1, 12), st.integers(1, 9)), seed=st.integers(0, 99))
def test_a_table_is_that_of_hdf5_and_survives_as_text(tmp_path_factory, rows, columns, chunk, seed):
    random = np.random.default_rng(seed)
    chunk = (min(chunk[0], rows), min(chunk[1], columns))
    with h5py.File(tmp_path_factory.mktemp("tables") / "a.h5", "w") as file:
        data = file.create_dataset("x", (rows, columns), "i4", chunks=chunk, compression="gzip")
        places = [(i, j) for i in range(0, rows, chunk[0]) for j in range(0, columns, chunk[1])]
        for i, j in random.permutation(places).tolist():
            data[i : i + chunk[0], j : j + chunk[1]] = random.integers(0, 3 + 50 * (i % 2))
            file.flush()
        table = ChunkTable.of(data)
        again = ChunkTable.from_text(table.to_text(), data.shape, data.chunks)
        for one in (table, again):
            assert one.grid == (-(-rows // chunk[0]), -(-columns // chunk[1]))
            for number, place in enumerate(places):
                info = data.id.get_chunk_info_by_coord(place)
                assert (one.offsets[number], one.sizes[number], one.masks[number]) == (info.byte_offset, info.size, info.filter_mask)
        assert again.of_band(0) == table.of_band(0)


def test_a_table_with_a_missing_chunk_is_none(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("x", (20,), "f4", chunks=(5,))
        data[:10] = 1
        assert table_text(data) == ""


def test_a_table_of_many_chunks_takes_a_few_bytes_each():
    sizes = np.random.default_rng(0).integers(900_000, 1_000_000, 2000)
    offsets = 4096 + np.concatenate([[0], np.cumsum(sizes)[:-1]])
    text = ChunkTable((2000,), (1,), offsets, sizes, np.zeros(2000, np.uint32)).to_text()
    assert len(text) < 6 * 2000
