"""Batches are the sampler's rows, bit for bit, whoever is hosted and wherever the epoch starts."""

from __future__ import annotations

import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcml.data import rings
from hpcml.data.dataset import ShardedDataset, open_shards
from hpcml.data.loader import Loader
from hpcml.data.sampler import SHUFFLES, Sampler
from hpcml.errors import ConfigError
from tests.data.conftest import all_threads_end

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def copied(batches):
    """Return what the batches of some steps hold, in own memory: {(step, worker): (x, y, rows)}."""
    return {
        (step, batch.worker): (batch.x.tobytes(), batch.y.tobytes(), batch.rows.tolist())
        for step, parts in enumerate(batches)
        for batch in parts
    }


@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_batches_are_the_rows_of_the_sampler(data, truth, shuffle, dtype):
    sampler = Sampler(data.shard_rows, 16, 3, 7, shuffle, block=4, window=3)
    loader = Loader(data, sampler, range(3), dtype=dtype)
    for epoch in (0, 1):
        steps = 0
        for step, parts in enumerate(loader.batches(epoch)):
            for worker, batch in enumerate(parts):
                rows = sampler.rows_of(epoch, worker, step)
                assert batch.worker == worker
                assert batch.error is None
                np.testing.assert_array_equal(batch.rows, rows)
                np.testing.assert_array_equal(batch.x, truth(rows))
                np.testing.assert_array_equal(batch.y, rows)
                assert (batch.x.dtype, batch.y.dtype, batch.rows.dtype) == (dtype, np.int64, np.int64)
                assert batch.x.ctypes.data % 64 == 0
            steps += 1
        assert steps == sampler.steps


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(choice=st.data())
def test_the_bits_do_not_depend_on_who_else_is_hosted_nor_on_the_first_step(data, choice):
    batch = choice.draw(st.integers(1, data.rows))
    workers = choice.draw(st.integers(1, min(batch, 5)))
    shuffle, window = choice.draw(st.sampled_from(SHUFFLES)), choice.draw(st.integers(1, 5))
    sampler = Sampler(data.shard_rows, batch, workers, 7, shuffle, block=choice.draw(st.integers(1, 9)), window=window)
    whole = copied(Loader(data, sampler, range(workers)).batches(1))
    hosted = choice.draw(st.lists(st.integers(0, workers - 1), unique=True, min_size=1))
    first = choice.draw(st.integers(0, sampler.steps))
    part = copied(Loader(data, sampler, hosted, ahead=choice.draw(st.integers(1, 4))).batches(1, first))
    assert part == {(step - first, w): bits for (step, w), bits in whole.items() if step >= first and w in hosted}


def test_a_worker_without_rows_at_the_last_step_gets_an_empty_batch(data):
    sampler = Sampler(data.shard_rows, 23, 4, 7)
    *_, last = Loader(data, sampler, range(4)).batches(0)
    assert [batch.x.shape for batch in last] == [(0, 3), (0, 3), (0, 3), (1, 3)]


def test_rows_without_target_have_y_none(make_shards):
    with open_shards(make_shards([8]), target=None) as data:
        assert [b.y for parts in Loader(data, Sampler([8], 4, 1, 7), [0]).batches(0) for b in parts] == [None, None]


def test_real_targets_take_the_dtype_of_the_features(make_shards):
    with open_shards(make_shards([8], y_dtype=">f8")) as data:
        for dtype in (np.float32, np.float64):
            loader = Loader(data, Sampler([8], 4, 1, 7), [0], dtype=dtype)
            assert {batch.y.dtype for (batch,) in loader.batches(0)} == {np.dtype(dtype)}


def test_long_runs_are_read_in_pieces_to_the_same_bits(data, sampler, monkeypatch):
    whole = copied(Loader(data, sampler, range(4)).batches(0))
    monkeypatch.setattr(rings, "PIECE_BYTES", 24)
    assert copied(Loader(data, sampler, range(4)).batches(0)) == whole


def test_an_epoch_reads_each_row_once(data, sampler, monkeypatch):
    reads = []

    def read(runs, *out):
        reads.extend(row for run in runs for row in range(*run))
        ShardedDataset.scatter(data, runs, *out)

    monkeypatch.setattr(data, "scatter", read)
    list(Loader(data, sampler, range(4)).batches(0))
    assert sorted(reads) == list(range(data.rows))


def test_the_memory_of_a_batch_comes_round_again(data, sampler):
    loader = Loader(data, Sampler(data.shard_rows, 4, 1, 7, block=2, window=2), [0], ahead=1)
    addresses = [parts[0].x.ctypes.data for parts in loader.batches(0)]
    assert len(set(addresses)) < len(addresses)
    assert loader.nbytes > 0


@pytest.mark.parametrize("leave", ["break", "close", "error", "drop"])
def test_leaving_early_ends_the_thread_and_the_loader_goes_on(data, sampler, leave):
    loader = Loader(data, sampler, range(4))
    batches = loader.batches(0)
    for step, _ in enumerate(batches):
        if step == 1 and leave == "break":
            break
        if step == 1 and leave == "close":
            batches.close()
        if step == 1 and leave == "error":
            with pytest.raises(KeyError):
                batches.throw(KeyError("the step failed"))
            break
        if step == 1:
            break
    del batches
    assert all_threads_end()
    assert len(list(loader.batches(0))) == sampler.steps
    data.close()
    assert data.open_files == 0


def test_leaving_does_not_wait_for_the_whole_window(data, sampler, monkeypatch):
    read = []
    monkeypatch.setattr(rings, "PIECE_BYTES", 1)
    monkeypatch.setattr(data, "scatter", lambda *out: (read.append(1), time.sleep(0.01), ShardedDataset.scatter(data, *out)))
    batches = Loader(data, sampler, [0], threads=1).batches(0)
    next(batches)
    before = len(read)
    batches.close()
    assert len(read) <= before + 2


def test_a_second_epoch_at_once_is_refused(data, sampler):
    loader = Loader(data, sampler, [0])
    first = loader.batches(0)
    next(first)
    with pytest.raises(ConfigError, match="share memory"):
        next(loader.batches(1))
    assert len(list(first)) == sampler.steps - 1


def test_two_loaders_may_share_a_data_set(data, sampler):
    alone = copied(Loader(data, sampler, range(4)).batches(0))
    pairs = zip(Loader(data, sampler, range(4)).batches(0), Loader(data, sampler, range(4)).batches(0), strict=True)
    assert copied(one if step % 2 else two for step, (one, two) in enumerate(pairs)) == alone


def test_waiting_is_counted(data, sampler, monkeypatch):
    loader = Loader(data, sampler, [0])
    monkeypatch.setattr(data, "scatter", lambda *out: (time.sleep(0.02), ShardedDataset.scatter(data, *out)))
    assert loader.waited == 0
    next(loader.batches(0))
    assert loader.waited >= 0.02


def test_a_program_that_ends_in_mid_epoch_ends(make_shards):
    (path,) = make_shards([400])
    program = f"""
from hpcml.data import Loader, Sampler, open_shards
data = open_shards({str(path)!r})
batches = Loader(data, Sampler(data.shard_rows, 8, 2, 7), [0, 1]).batches(0)
next(batches)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], timeout=30, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_after_the_first_epoch_nothing_big_is_allocated(make_shards):
    with open_shards(make_shards([1500, 500], width=2048, dtype=">f8")) as data:
        loader = Loader(data, Sampler(data.shard_rows, 128, 2, 7, block=16, window=16), [0, 1], threads=1)
        list(loader.batches(0))
        tracemalloc.start()
        for _ in loader.batches(1):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    one_batch = 64 * 2048 * 4
    assert peak < one_batch < loader.nbytes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"workers": [0, 4]}, "0 to 3"),
        ({"workers": [1, 1]}, "at most once"),
        ({"ahead": 0}, "ahead is 0"),
        ({"dtype": np.float16}, "float16"),
        ({"sampler": Sampler([10], 4, 4, 7)}, "10 rows, the data set has 70"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(data, sampler, changes, words):
    with pytest.raises(ConfigError, match=words):
        Loader(**({"dataset": data, "sampler": sampler, "workers": [0]} | changes))


def test_steps_and_epochs_that_do_not_exist_are_refused_at_once(data, sampler):
    loader = Loader(data, sampler, [0])
    for epoch, step in ((-1, 0), (0, -1), (0, sampler.steps + 1)):
        with pytest.raises(ConfigError, match="expected epoch"):
            loader.batches(epoch, step)
    assert list(loader.batches(0, sampler.steps)) == []
