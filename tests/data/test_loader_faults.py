"""Rows that cannot be read or used mark the batches that hold them, and no others."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from hpcml.data import rings
from hpcml.data.dataset import ShardedDataset, open_shards
from hpcml.data.loader import Loader
from hpcml.data.sampler import Sampler
from hpcml.errors import DataError, ShardError
from tests.data.conftest import LENGTHS

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def poison(path, row, value=np.nan, field="x"):
    with h5py.File(path, "r+") as file:
        file[field][row] = value


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_mark_their_batch_and_no_other(make_shards, value):
    paths = make_shards(LENGTHS)
    poison(paths[2], 5, value)
    with open_shards(paths) as data:
        sampler = Sampler(data.shard_rows, 16, 4, 7, block=4, window=3)
        found = {(s, b.worker): b.error for s, parts in enumerate(Loader(data, sampler, range(4)).batches(0)) for b in parts if b.error}
        (where,) = found
        assert 23 + 4 + 5 in sampler.rows_of(0, where[1], where[0])
        assert isinstance(found[where], DataError)
        for words in (f"epoch 0, step {where[0]}, worker {where[1]}", "'x'", "1 of 4 rows", f"{paths[2]} row 5"):
            assert words in str(found[where])


def test_many_bad_rows_are_counted_and_the_first_named(make_shards):
    (path,) = make_shards([20], dtype="<f8", y_dtype="<f4")
    poison(path, slice(2, 9), 1e300)
    with open_shards(path) as data:
        ((batch,),) = Loader(data, Sampler([20], 20, 1, 7), [0]).batches(0)
        assert all(words in str(batch.error) for words in ("7 of 20", "row 2", "row 3", "row 4", "and 4 more", "float32"))
        ((batch,),) = Loader(data, Sampler([20], 20, 1, 7), [0], dtype=np.float64).batches(0)
        assert batch.error is None
    poison(path, slice(2, 9), 1)
    poison(path, 3, field="y")
    with open_shards(path) as data:
        ((batch,),) = Loader(data, Sampler([20], 20, 1, 7), [0]).batches(0)
        assert "field 'y'" in str(batch.error)
        assert "row 3" in str(batch.error)


@pytest.mark.parametrize("first", [0, 2])
def test_a_failed_read_marks_the_batches_that_hold_its_rows_from_whichever_step(data, sampler, monkeypatch, first):
    monkeypatch.setattr(rings, "PIECE_BYTES", 24)
    broken = {30, 31, 50}

    def read(runs, *out):
        if broken & {row for run in runs for row in range(*run)}:
            raise ShardError(f"rows {runs[0][0]}:{runs[-1][1]} are broken")
        ShardedDataset.scatter(data, runs, *out)

    whole = {}
    for begin in (0, first):
        monkeypatch.setattr(data, "scatter", read)
        batches = Loader(data, sampler, range(4)).batches(0, begin)
        found = {(step, batch.worker): str(batch.error) for step, parts in enumerate(batches, begin) for batch in parts}
        whole = whole or found
        assert found == {key: error for key, error in whole.items() if key[0] >= begin}
    for (step, worker), error in whole.items():
        if broken & set(sampler.rows_of(0, worker, step).tolist()):
            assert error.startswith(f"epoch 0, step {step}, worker {worker}: rows")
    assert "None" in whole.values()


def test_a_file_that_vanishes_between_epochs_marks_its_batches(make_shards):
    paths = make_shards([8, 8])
    with open_shards(paths) as data:
        loader = Loader(data, Sampler([8, 8], 4, 1, 7, "none"), [0])
        assert [b.error for (b,) in loader.batches(0)] == [None] * 4
        data.close()
        paths[1].unlink()
        errors = [b.error for (b,) in loader.batches(1)]
    assert "part-1.h5: was indexed but cannot be found" in str(errors[-1])
    assert isinstance(errors[-1], ShardError)


def test_what_goes_wrong_on_the_thread_reaches_the_consumer(data, sampler, monkeypatch):
    def read(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(data, "scatter", read)
    with pytest.raises(MemoryError, match="no room"):
        next(Loader(data, sampler, [0]).batches(0))
