"""Sparse and ragged shards train as the dense ones that they stand for, to the bit; the tools name them."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import scipy.sparse

from tests.small import LENGTHS, Job, explained


def make_sparse(job):
    for path in job.folder.glob("t*-*.h5"):
        with h5py.File(path, "r+") as file:
            csr = scipy.sparse.csr_matrix(file["x"][:])
            del file["x"]
            for name in ("data", "indices", "indptr"):
                file.create_dataset(f"x/{name}", data=getattr(csr, name), chunks=(len(csr.indptr) // 2,), compression="gzip")
            file["x"].attrs["shape"] = csr.shape


def make_ragged(job):
    for path in job.folder.glob("t*-*.h5"):
        with h5py.File(path, "r+") as file:
            x = file["x"][:]
            del file["x"]
            file["x/values"], file["x/offsets"] = x.ravel(), np.arange(len(x) + 1) * x.shape[1]


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_sparse_and_ragged_rows_train_to_the_bits_of_dense_ones_on_any_ranks(job, cache):
    for folder in ("dense", "sparse", "ragged"):
        (job.folder / folder).mkdir()
    dense = Job(job.folder / "dense")
    dense.train(1).check()
    for kind, make, changes in (("sparse", make_sparse, ()), ("ragged", make_ragged, ("data.pad_to=4",))):
        other = Job(job.folder / kind)
        make(other)
        for ranks in (1, 3):
            other.train(ranks, f"run-{ranks}", f"data.cache={cache}", *changes).check()
            assert other.digest(f"run-{ranks}") == dense.digest()
        said = other.hpcml(2, "evaluate", f"run-{ranks}").check().stdout
        assert "test loss" in said or "accuracy" in said


def test_the_tools_name_rows_of_variable_length(job):
    make_sparse(job)
    said = job.hpcml(1, "data", "inspect", "train-*.h5").check().stdout
    assert f'x: {LENGTHS[0]} sparse rows of 4 columns, 100.00% of them filled; data.features = "x"' in said
    assert "recommended" in job.hpcml(2, "data", "plan", job.config).check().stdout
    assert "3 files without a manifest: no problems" in job.hpcml(2, "data", "verify", "train-*.h5").check().stdout
    assert "x () sparse float32 of 4 columns" in job.hpcml(2, "data", "stats", "train-*.h5").check().stdout
    job.hpcml(2, "data", "reshard", "train-*.h5", "--out", "o").check()
    assert "no problems" in job.hpcml(2, "data", "verify", "o/*.h5").check().stdout
    with h5py.File(job.shard(1), "r+") as file:
        file["x/data"][3], file["x/indptr"][4] = np.nan, 0
    done = job.hpcml(2, "data", "verify", "train-*.h5")
    assert done.returncode == 1
    assert "field 'x/data' has NaN or infinity in 1 row: 3" in done.stdout
    assert "'/x/indptr' falls behind row 3" in done.stdout
    explained(job.train(3), "train-1.h5: field 'x': '/x/indptr' falls behind row 3")


def test_ragged_rows_need_a_length_and_names_come_in_threes_and_twos(job):
    make_ragged(job)
    explained(job.train(2), "holds ragged rows of up to 4 entries", "set data.pad_to")
    explained(job.train(2, "run", "data.pad_to=3"), "row 0 has 4 entries, data.pad_to is 3", "data.truncate = true")
    explained(job.train(1, "run", 'data.sparse=["a"]'), "name entries, columns and offsets")
    job.train(2, "run", "data.pad_to=3", "data.truncate=true").check()
