"""The digits in the repository are what their README says, and can be made again byte for byte."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hpcml.data import open_shards

FOLDER = Path(__file__).resolve().parents[2] / "data" / "digits"


def rows_of(pattern):
    with open_shards(FOLDER / pattern) as data:
        assert (data.x.dtype, data.x.shape, data.y.dtype, data.y.shape) == ("float32", (64,), "uint8", ())
        x, y = np.empty((data.rows, 64), np.float32), np.empty(data.rows, np.int64)
        data.read(0, data.rows, x, y)
        return x, y, data.shard_rows


def test_both_parts_are_as_their_readme_says():
    for pattern, lengths in (("train-*.h5", (401, 350, 287, 222, 178)), ("test-*.h5", (211, 148))):
        x, y, shard_rows = rows_of(pattern)
        assert shard_rows == lengths
        np.testing.assert_array_equal(x * 4, np.round(x * 4))
        assert (x.min(), x.max(), y.min(), y.max()) == (0, 4, 0, 9)


def test_the_parts_have_every_digit_in_the_same_share():
    train, test = (np.bincount(rows_of(f"{part}-*.h5")[1]) for part in ("train", "test"))
    np.testing.assert_allclose(test / (train + test), 0.2, atol=0.003)


def test_the_parts_are_the_rows_of_scikit_learn_each_once():
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn, where the digits come from, is not installed")
    pixels, labels = datasets.load_digits(return_X_y=True)
    (x, y, _), (more_x, more_y, _) = rows_of("train-*.h5"), rows_of("test-*.h5")
    here = np.column_stack([np.concatenate([x, more_x]) * 4, np.concatenate([y, more_y])])
    there = np.column_stack([pixels, labels])
    np.testing.assert_array_equal(here[np.lexsort(here.T)], there[np.lexsort(there.T)])


def test_the_shards_can_be_made_again_byte_for_byte(tmp_path):
    pytest.importorskip("sklearn.datasets", reason="scikit-learn, where the digits come from, is not installed")
    subprocess.run([sys.executable, FOLDER / "make.py", tmp_path], check=True, timeout=60)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {path.name: path.read_bytes() for path in FOLDER.glob("*.h5")}
