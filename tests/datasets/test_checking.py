"""Verification and statistics say the same for any number of ranks; a manifest is written, and notices what changed."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from hpcml.data.verification import Range
from hpcml.datasets.checking import statistics, verify, write_manifest
from hpcml.datasets.dealing import open_all
from hpcml.errors import DataError
from tests.datasets.conftest import quiet


@pytest.fixture
def checked(world, shards):
    def run(ranks=1, pattern=shards, **options):
        reports = world(ranks, lambda comm: verify(pattern, comm, quiet, **options))
        assert all(report.problems == reports[0].problems for report in reports)
        return reports[0]

    return run


def test_good_shards_have_no_problem_with_and_without_a_manifest(checked, world, shards):
    assert checked().problems == []
    assert checked().manifest is None
    path = world(2, lambda comm: write_manifest(shards, None, comm, quiet))[0]
    assert checked(3).problems == []
    assert checked().manifest == str(path)


def test_every_rank_count_reports_the_same(checked, shards, tmp_path):
    with h5py.File(tmp_path / "in" / "a-0.h5", "r+") as file:
        file["x"][3, 2] = np.nan
    with h5py.File(tmp_path / "in" / "a-2.h5", "r+") as file:
        del file["y"]
    reports = [checked(ranks, ranges=[Range("deep/id", 0, 20)]).problems for ranks in (1, 2, 3)]
    assert reports[0] == reports[1] == reports[2]
    assert len(reports[0]) == 2
    assert "a-0.h5: field 'x' has NaN or infinity in 1 row: 3" in reports[0][0]
    assert "a-2.h5: field 'y' is absent" in reports[0][1]


def test_a_changed_file_a_lost_one_and_a_new_one_are_named(checked, world, shards, tmp_path):
    world(1, lambda comm: write_manifest(shards, None, comm, quiet))
    with h5py.File(tmp_path / "in" / "a-0.h5", "r+") as file:
        file["y"][5] = 99
    (tmp_path / "in" / "a-1.h5").rename(tmp_path / "in" / "a-9.h5")
    text = "\n".join(checked(2).problems)
    assert "a-0.h5: field 'y', rows 0:10 are not those of the manifest" in text
    assert "a-9.h5: is not in" in text
    assert "a-1.h5: is in" in text
    assert len(checked(2, pattern=str(tmp_path / "in" / "a-2.h5")).problems) == 0


def test_a_first_shard_that_cannot_be_read_is_a_problem_not_an_end(checked, tmp_path):
    (tmp_path / "in" / "a-0.h5").write_bytes(b"nothing")
    (text,) = checked(2).problems
    assert "a-0.h5: is not an HDF5 file" in text


def test_a_manifest_needs_one_folder(world, shards, tmp_path):
    (tmp_path / "in" / "b").mkdir()
    (tmp_path / "in" / "a-1.h5").rename(tmp_path / "in" / "b" / "a-1.h5")
    with pytest.raises(DataError, match="several folders"):
        world(2, lambda comm: write_manifest(str(tmp_path / "in" / "**" / "*.h5"), None, comm, quiet))


def test_statistics_are_numpys_with_the_same_bits_on_any_number_of_ranks(world, shards, rows_of):
    found = [world(ranks, lambda comm: statistics(open_all(shards, None, comm), comm, quiet))[0] for ranks in (1, 2, 3, 4)]
    assert len({repr(one) for one in found}) == 1
    (x,) = rows_of(shards, "x")
    np.testing.assert_allclose(found[0]["fields"]["x"]["columns"]["mean"], x.mean(axis=0, dtype=np.float64))
    np.testing.assert_allclose(found[0]["fields"]["x"]["columns"]["std"], x.std(axis=0, dtype=np.float64))
    assert found[0]["fields"]["y"]["classes"] == {str(k): 10 for k in range(10)}
    assert "name" not in found[0]["fields"]
