"""Statistics are numpy's, the same bits on any number of ranks, and kept with the run."""

from __future__ import annotations

import os

import h5py
import numpy as np
import pytest

from hpcml.comm import simulated
from hpcml.data import ShardedDataset, open_shards
from hpcml.datasets.checking import statistics
from hpcml.datasets.dealing import open_all
from hpcml.errors import DataError
from hpcml.train.statistics import moments
from tests.datasets.conftest import quiet


def test_mean_and_deviation_are_those_of_all_rows_on_any_number_of_ranks(tmp_path):
    values = np.random.default_rng(0).normal(1e6, [1.0, 0.0, 50.0], (700, 3))
    values[:, 1] = 5
    for i, part in enumerate(np.array_split(values, 3)):
        with h5py.File(tmp_path / f"{i}.h5", "w") as file:
            file["x"] = part
    index = open_shards(tmp_path / "*.h5", target=None).index
    found = [simulated.run(ranks, lambda comm: moments(ShardedDataset(index), comm)) for ranks in (1, 2, 3)]
    assert len({mean.tobytes() + deviation.tobytes() for ranks in found for mean, deviation in ranks}) == 1
    np.testing.assert_allclose(found[0][0][0], values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found[0][0][1], values.std(axis=0), rtol=1e-9)


def test_a_row_that_is_not_finite_spoils_no_statistics(tmp_path):
    values = np.random.default_rng(0).normal(size=(40, 2))
    values[7, 1] = np.nan
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = values
    mean, deviation = simulated.run(2, lambda comm: moments(open_shards(tmp_path / "a.h5", target=None), comm))[1]
    np.testing.assert_allclose(mean, np.nanmean(values, axis=0), rtol=1e-12)
    np.testing.assert_allclose(deviation, np.nanstd(values, axis=0), rtol=1e-12)


def test_every_world_has_the_numbers_of_one_rank_and_of_the_tool_that_shows_them(shared_path, on_every_rank):
    # Every rank writes a file of its own; rank 0's is the one that is read.
    values = np.random.default_rng(1).normal(3, 2, (600, 4)).astype(np.float32)
    path = shared_path / f"{os.getpid()}.h5"
    with h5py.File(path, "w") as file:
        file["x"] = values

    def program(comm):
        name = comm.broadcast_bytes(str(path).encode()).decode()
        mean, deviation = moments(open_shards(name, target=None), comm)
        shown = statistics(open_all(name, None, comm), comm, quiet)["fields"]["x"]["columns"]
        return mean.tobytes(), deviation.tobytes(), shown

    (truth,) = simulated.run(1, program)
    assert all(found == truth for found in on_every_rank(program))
    np.testing.assert_allclose(np.frombuffer(truth[0]), truth[2]["mean"], rtol=1e-13)
    np.testing.assert_allclose(np.frombuffer(truth[1]), truth[2]["std"], rtol=1e-13)


def test_a_run_keeps_its_statistics_for_resume_evaluation_and_prediction(tmp_path, repository, mpirun):
    job = tmp_path / "job.toml"
    text = (repository / "jobs" / "digits.toml").read_text()
    steps = '\n[[data.transforms]]\nname = "standardise"\n[[data.transforms]]\nname = "noise"\ndeviation = 0.1\n'
    job.write_text(text + steps)
    run = tmp_path / "run"

    def hpcml(n, *words):
        return mpirun(n, *words, cwd=repository).check().stdout

    hpcml(2, "train", job, "--run", run, "--set", "train.epochs=2", "--set", "train.virtual_workers=2")
    kept = (run / "statistics.json").read_bytes()
    hpcml(1, "train", job, "--run", run, "--set", "train.epochs=4", "--set", "train.virtual_workers=2", "--resume")
    assert (run / "statistics.json").read_bytes() == kept
    assert "accuracy 0.9" in hpcml(1, "evaluate", run)
    hpcml(2, "predict", run, "--data", "data/digits/test-*.h5", "--out", tmp_path / "p.h5")
    with h5py.File(tmp_path / "p.h5") as found, open_shards(repository / "data/digits/test-*.h5") as test:
        y = np.empty(test.rows, np.int64)
        test.read(0, test.rows, np.empty((test.rows, 64), np.float32), y)
        assert (found["class"][()] == y).mean() > 0.9


def test_a_quarantine_leaves_out_the_rows_that_cannot_be_read_and_no_others(tmp_path):
    values = np.random.default_rng(3).random((96, 4)).astype("f4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=values, chunks=(8, 4), compression="gzip", fletcher32=True)
    index = open_shards(tmp_path / "a.h5", target=None).index
    with h5py.File(tmp_path / "a.h5") as file:
        info = file["x"].id.get_chunk_info(5)
    times = (tmp_path / "a.h5").stat()
    with (tmp_path / "a.h5").open("r+b") as file:
        file.seek(info.byte_offset + 20)
        file.write(bytes(8))
    os.utime(tmp_path / "a.h5", ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(DataError, match=r"rows .* cannot be read"):
        simulated.run(2, lambda comm: moments(ShardedDataset(index), comm))
    found = [one for ranks in (1, 2, 3) for one in simulated.run(ranks, lambda comm: moments(ShardedDataset(index), comm, True))]
    good = np.delete(values, range(40, 48), axis=0).astype(float)
    for mean, deviation in found:
        np.testing.assert_array_equal(mean, found[0][0])
        np.testing.assert_array_equal(deviation, found[0][1])
        np.testing.assert_allclose(mean, good.mean(axis=0))
        np.testing.assert_allclose(deviation, good.std(axis=0))
