"""Rows that the tests of this folder share."""

from __future__ import annotations

import pytest

from tests.small import write_shards
from tests.sync.server.runs import N


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A pattern of two shards of 61 rows."""
    return write_shards(tmp_path_factory.mktemp("shards"), 20, N - 20)
