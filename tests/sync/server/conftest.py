"""Rows that the tests of this folder share."""

from __future__ import annotations

import pytest

from tests.small import rows, write_shard
from tests.sync.server.runs import N


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A pattern of two shards of 61 rows."""
    folder = tmp_path_factory.mktemp("shards")
    x, y = rows(N)
    for number, (first, last) in enumerate([(0, 20), (20, N)]):
        write_shard(folder / f"train-{number}.h5", x[first:last], y[first:last])
    return str(folder / "train-*.h5")
