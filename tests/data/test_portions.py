"""Portions of own and other lanes hold the sampler's rows, whoever took what lies between; a window is not read again for each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcml.data import open_shards
from hpcml.data.portions import Portions
from hpcml.data.rings import Ring
from hpcml.data.sampler import Sampler
from tests.small import rows, write_shard

N = 157


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    path = tmp_path_factory.mktemp("portions") / "rows.h5"
    write_shard(path, *rows(N))
    return str(path)


@given(st.data())
def test_any_portions_in_any_order_of_lanes_hold_the_samplers_rows(shard, data):
    with open_shards(shard) as dataset:
        sampler = Sampler(dataset.shard_rows, 16, 3, 7, block=data.draw(st.integers(1, 5)), window=3)
        portions = Portions(dataset, sampler, [0])
        for epoch in range(2):
            portions.begin(epoch)
            front = 0  # an own lane goes forward; what others took of it is left out
            for _ in range(data.draw(st.integers(1, 12))):
                lane, step = data.draw(st.integers(0, 2)), data.draw(st.integers(0, sampler.steps - 1))
                if lane == 0 and step < front:
                    continue
                front = step + 1 if lane == 0 else front
                batch = portions.batch(0, lane, step)
                assert batch.error is None
                np.testing.assert_array_equal(batch.rows, sampler.rows_of(epoch, lane, step))
                np.testing.assert_array_equal(batch.x, rows(N)[0][batch.rows].astype(np.float32))
            portions.end()


def test_steps_of_one_window_of_another_lane_are_read_once(shard, monkeypatch):
    begun = []
    begin = Ring.begin
    with open_shards(shard) as dataset:
        sampler = Sampler(dataset.shard_rows, 6, 3, 7, block=4, window=4)  # 16 rows a window, 2 a step
        portions = Portions(dataset, sampler, [0])
        portions.begin(0)
        monkeypatch.setattr(Ring, "begin", lambda ring, *where: begun.append(where) or begin(ring, *where))
        for step in [0, 2, 3, 1, 5, 7, 8, 10, 9, 15]:
            portions.batch(0, 1, step)
        portions.end()
    assert begun == [(0, 0), (0, 8)]
