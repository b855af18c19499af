"""Sparse and ragged rows: what scipy and numpy make of them, by every road, for any workers; offsets that lie are refused."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import scipy.sparse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcml.data import Loader, Sampler, open_shards
from hpcml.data.cache import CachedDataset
from hpcml.data.dataset import ShardedDataset
from hpcml.data.index import Index
from hpcml.data.sizing import choose_block, file_row_bytes
from hpcml.data.variable import Packing
from hpcml.errors import ShardError

ROADS = {"contiguous": {}, "gzip": {"chunks": (7,), "compression": "gzip", "shuffle": True}, "lzf": {"chunks": (7,), "compression": "lzf"}}


def matrix(rows, columns, seed=0, density=0.2):
    return scipy.sparse.random(rows, columns, density, format="csr", dtype=np.float32, random_state=seed)


def write_csr(path, csr, name="X", shape="attribute", dtype=None, **layout):
    with h5py.File(path, "a") as file:
        group = file.create_group(name)
        for key in ("data", "indices", "indptr"):
            values = getattr(csr, key)
            values = values.astype(dtype) if dtype and key == "data" else values
            group.create_dataset(key, data=values, **(layout if len(values) > 6 else {}))
        if shape == "attribute":
            group.attrs["shape"] = csr.shape
        elif shape == "data set":
            group["shape"] = np.array(csr.shape)
        file["y"] = np.arange(csr.shape[0])
    return csr.toarray() if dtype is None else csr.toarray().astype(dtype)


def write_ragged(path, rows, dtype="<f4", **layout):
    with h5py.File(path, "a") as file:
        values = np.concatenate([np.asarray(row, dtype) for row in rows])
        file.create_dataset("hits/values", data=values, **(layout if len(values) else {}))
        file["hits/offsets"] = np.cumsum([0, *map(len, rows)])
        file["y"] = np.arange(len(rows))


def padded(rows, width, pad=0.0):
    out = np.full((len(rows), width, *np.shape(rows[0])[1:]), pad, np.float32)
    for row, values in zip(out, rows, strict=True):
        row[: len(values)] = values[:width]
    return out


def everything(data, dtype=np.float32):
    out = np.full((data.rows, *data.x.shape), -7, dtype)
    data.read(0, data.rows, out)
    return out


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i2", "?"])
@pytest.mark.parametrize("road", ROADS)
def test_sparse_rows_are_what_scipy_makes_dense(tmp_path, road, dtype):
    truth = [write_csr(tmp_path / f"{i}.h5", matrix(30 + i, 11, i) * 50, dtype=dtype, **ROADS[road]) for i in range(2)]
    with open_shards(tmp_path / "*.h5", features="X") as data:
        assert data.x.shape == (11,)
        np.testing.assert_array_equal(everything(data), np.concatenate(truth).astype(np.float32))
        np.testing.assert_array_equal(everything(data, np.float64), np.concatenate(truth).astype(np.float64))
        twin = ShardedDataset(Index.from_json(data.index.to_json()))
        np.testing.assert_array_equal(everything(twin), everything(data))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(choice=st.data())
def test_the_loader_gives_each_sparse_row_once_for_any_workers(tmp_path_factory, choice):
    folder = tmp_path_factory.mktemp("s")
    road = ROADS[choice.draw(st.sampled_from(list(ROADS)))]
    density = choice.draw(st.sampled_from([0.0, 0.05, 0.6]))
    truth = np.concatenate([write_csr(folder / f"{i}.h5", matrix(25, 9, i, density), **road) for i in range(2)])
    with open_shards(folder / "*.h5", features="X") as data:
        batch, shuffle = choice.draw(st.integers(3, 50)), choice.draw(st.sampled_from(["none", "block", "window", "global"]))
        sampler = Sampler(data.shard_rows, batch, choice.draw(st.integers(1, 3)), 7, shuffle, choice.draw(st.integers(1, 9)), 3)
        for made in (data, CachedDataset(data.index)):
            for epoch in range(2):
                seen = []
                for parts in Loader(made, sampler, range(sampler.workers), threads=2).batches(epoch):
                    for part in parts:
                        np.testing.assert_array_equal(part.x, truth[part.rows])
                        seen += part.rows.tolist()
                assert sorted(seen) == list(range(50))
            made.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=40),
    road=st.sampled_from(list(ROADS)),
    tail=st.sampled_from([(), (2,), (2, 3)]),
)
def test_ragged_rows_are_padded_masked_and_counted(tmp_path_factory, lengths, road, tail):
    path, rng = tmp_path_factory.mktemp("r") / "a.h5", np.random.default_rng(0)
    rows = [rng.random((n, *tail)).astype(np.float32) for n in lengths]
    layout = dict(ROADS[road])
    if layout:
        layout["chunks"] = (max(1, min(7, sum(lengths))), *tail)
    write_ragged(path, rows, **layout)
    for width, truncate in ((6, False), (3, True)):
        packing = Packing(pad_to=width, pad_with=-1, truncate=truncate)
        with open_shards(path, features="hits", packing=packing) as data:
            np.testing.assert_array_equal(everything(data), padded(rows, width, -1))
        kept = np.minimum(lengths, width)
        with open_shards(path, features=["hits/mask", "hits/length"], target="hits/length", packing=packing) as data:
            mask = (np.arange(width) < kept[:, None]).astype(np.float32)
            np.testing.assert_array_equal(everything(data), np.column_stack([mask, kept]))
            assert data.y.dtype == "int64"


def test_values_and_their_mask_can_be_joined_into_one_row(tmp_path):
    rows = [[1, 2], [], [3, 4, 5]]
    write_ragged(tmp_path / "a.h5", rows)
    with open_shards(tmp_path / "a.h5", features=["hits", "hits/mask"], packing=Packing(pad_to=3)) as data:
        assert everything(data).tolist() == [[1, 2, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0], [3, 4, 5, 1, 1, 1]]


def test_other_names_and_data_sets_outside_a_group(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["pt"], file["first"] = np.arange(5.0), np.array([0, 2, 5], np.uint64)
        file["m/v"], file["m/c"], file["m/s"] = np.arange(3.0), [0, 3, 1], [0, 2, 3]
    with open_shards(tmp_path / "a.h5", "tracks", None, packing=Packing(ragged=("pt", "first"), pad_to=3)) as data:
        assert everything(data).tolist() == [[0, 1, 0], [2, 3, 4]]
    with open_shards(tmp_path / "a.h5", "m", None, packing=Packing(sparse=("v", "c", "s"), pad_to=4)) as data:
        assert everything(data).tolist() == [[0, 0, 0, 1], [0, 2, 0, 0]]


def test_a_misspelt_name_does_not_become_the_rows_at_the_root_in_silence(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["v"], file["c"], file["s"] = np.arange(3.0), [0, 3, 1], [0, 2, 3]
        file["label"], file["image"] = np.arange(2), np.ones((2, 5))
    keys = {"packing": Packing(sparse=("v", "c", "s"), pad_to=4)}
    with open_shards(tmp_path / "a.h5", "tracks", "label", **keys) as data:
        assert data.x.shape == (4,)
    for features, target in (("tracks", "lable"), ("image", "lable")):
        with pytest.raises(ShardError, match=r"a\.h5: field 'lable' is absent; did you mean 'label'"):
            open_shards(tmp_path / "a.h5", features, target, **keys)
    with pytest.raises(ShardError, match=r"'imag' is absent; did you mean 'image'.* are the field \"/\""):
        open_shards(tmp_path / "a.h5", "imag", "label", **keys)
    with open_shards(tmp_path / "a.h5", "/", "label", **keys) as data:
        assert data.x.shape == (4,)


def test_entries_of_one_column_are_added_as_scipy_does_in_any_order(tmp_path):
    csr = scipy.sparse.csr_matrix((np.arange(1.0, 7, dtype=np.float32), [4, 0, 4, 1, 0, 1], [0, 3, 3, 6]), shape=(3, 5))
    truth = write_csr(tmp_path / "a.h5", csr)
    assert truth[0, 4] == 4
    with open_shards(tmp_path / "a.h5", "X") as data:
        np.testing.assert_array_equal(everything(data), truth)


@pytest.mark.parametrize("shape", ["attribute", "data set"])
def test_the_shape_is_found_where_it_is_kept(tmp_path, shape):
    truth = write_csr(tmp_path / "a.h5", matrix(8, 5), shape=shape)
    with open_shards(tmp_path / "a.h5", "X") as data:
        np.testing.assert_array_equal(everything(data), truth)


def test_blocks_are_chosen_by_the_bytes_in_the_file_not_in_memory(tmp_path):
    write_csr(tmp_path / "a.h5", matrix(2000, 5000, density=0.001))
    with open_shards(tmp_path / "a.h5", "X") as data:
        assert file_row_bytes(data.index) < 60
        assert choose_block(data.index) == 32


def test_cf_scales_the_entries_and_not_the_padding(tmp_path):
    write_ragged(tmp_path / "a.h5", [[1, 2], [3]], "<i2")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["hits/values"].attrs["scale_factor"] = 0.5
    with open_shards(tmp_path / "a.h5", "hits", cf=True, packing=Packing(pad_to=2)) as data:
        assert everything(data).tolist() == [[0.5, 1], [1.5, 0]]


def test_anndata_files_are_read_as_they_are(tmp_path):
    anndata = pytest.importorskip("anndata", reason="AnnData, whose files these are, is not installed")
    csr = matrix(40, 30)
    made = anndata.AnnData(csr, layers={"counts": (csr * 4).astype(np.int32)})
    made.obs["kind"] = np.array(["b", "a"] * 20)
    made.write_h5ad(tmp_path / "a.h5ad", compression="gzip")
    with open_shards(tmp_path / "a.h5ad", features="X", target="obs/kind/codes") as data:
        np.testing.assert_array_equal(everything(data), csr.toarray())
    with open_shards(tmp_path / "a.h5ad", features="layers/counts", target=None) as data:
        np.testing.assert_array_equal(everything(data), (csr * 4).astype(np.int32).toarray())


def refused(path, text, packing=None, features="X"):
    with pytest.raises(ShardError, match=text):
        open_shards(path, features, "y", packing=packing)


def test_files_that_lie_are_refused_before_any_row_is_read(tmp_path):
    path = tmp_path / "a.h5"
    lies = {
        "indptr": [
            ([0, 2, 1, 4], "falls behind row 1"),
            ([1, 2, 3, 4], "starts at 1"),
            ([0, 2, 3, 9], "ends at 9.*has 4 entries"),
            ([0, 4], "says 3 rows of 5 columns, its offsets are of 1 rows"),
            ([0.0, 1, 2, 4], "expected whole numbers"),
        ],
        "indices": [([0, 1, 2], "one column number for each value")],
    }
    for key, cases in lies.items():
        for values, text in cases:
            path.unlink(missing_ok=True)
            write_csr(path, scipy.sparse.csr_matrix(([1.0, 2, 3, 4], [0, 1, 2, 3], [0, 2, 3, 4]), shape=(3, 5)))
            with h5py.File(path, "r+") as file:
                del file[f"X/{key}"]
                file[f"X/{key}"] = values
            refused(path, text)


def test_what_cannot_be_made_dense_says_how_it_could(tmp_path):
    write_csr(tmp_path / "a.h5", matrix(4, 5), shape="none")
    refused(tmp_path / "a.h5", "without a shape; say how many columns")
    write_csr(tmp_path / "b.h5", matrix(4, 5).tocsc())
    with h5py.File(tmp_path / "b.h5", "r+") as file:
        file["X"].attrs["encoding-type"] = "csc_matrix"
    refused(tmp_path / "b.h5", r"csc_matrix matrix.*tocsr")
    write_ragged(tmp_path / "c.h5", [[1], [1, 2, 3], []])
    refused(tmp_path / "c.h5", r"ragged rows of up to 3 entries \(row 1\); set data.pad_to", features="hits")
    refused(tmp_path / "c.h5", "row 1 has 3 entries, data.pad_to is 2; make it 3", Packing(pad_to=2), "hits")
    write_csr(tmp_path / "d.h5", matrix(4, 5))
    refused(tmp_path / "d.h5", "has no mask", features="X/mask")


def test_a_column_outside_the_row_is_an_error_of_its_row(tmp_path):
    write_csr(tmp_path / "a.h5", matrix(40, 6, density=0.5))
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        at = int(file["X/indptr"][21])
        file["X/indices"][at] = 6
    with open_shards(tmp_path / "a.h5", "X") as data:
        with pytest.raises(ShardError, match=r"field 'X', rows 0:40 .*row 21 has an entry in column 6, rows have columns 0 to 5"):
            everything(data)
        errors = [part.error for parts in Loader(data, Sampler([40], 8, 1, 7, "none", block=8), [0]).batches(0) for part in parts]
        assert [error is not None for error in errors] == [False, False, True, False, False]


def test_kept_rows_hold_padding_and_sums_that_the_dtype_of_the_file_does_not(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.update({"hits/values": np.array([250, 10, 3], "u1"), "hits/offsets": [0, 1, 3]})
        file.update({"X/data": np.array([200, 100, 1], "u1"), "X/indices": [1, 1, 0], "X/indptr": [0, 2, 3], "X/shape": [2, 3]})
    for name, expected in (("hits", [[250, -1], [10, 3]]), ("X", [[0, 300, 0], [1, 0, 0]])):
        packing = Packing(pad_to=2 if name == "hits" else 0, pad_with=-1.0)
        with CachedDataset(open_shards(tmp_path / "a.h5", name, None, packing=packing).index) as data:
            out = np.empty((2, *data.x.shape), np.float32)
            data.read(0, 2, out)
            assert out.tolist() == expected


def test_padding_that_whole_numbers_cannot_hold_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.update({"hits/values": np.arange(3), "hits/offsets": [0, 1, 3]})
    data = open_shards(tmp_path / "a.h5", "hits", "hits", packing=Packing(pad_to=2, pad_with=0.5))
    with data, pytest.raises(ShardError, match=r"pad_with is 0\.5, which rows of whole numbers cannot hold"):
        data.read(0, 2, np.empty((2, 2), np.float32), np.empty((2, 2), np.int64))
