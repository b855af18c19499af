"""The text shards are what their README says: every byte once, files in one part each, the same bytes when made again."""

from __future__ import annotations

import runpy
import subprocess
import sys
import sysconfig
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpcml.data.shards import find_shards
from hpcml.data.verification import check_file

MAKER = Path(__file__).resolve().parents[2] / "data" / "text" / "make.py"
CONTEXT = 512


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("text")
    subprocess.run([sys.executable, MAKER, made], check=True, timeout=60, capture_output=True)
    return made


def part(folder, name):
    tokens, document, paths = [], [], []
    for path in find_shards(folder / f"{name}-*.h5"):
        with h5py.File(path) as file:
            tokens.append(file["tokens"][:])
            document.append(file["document"][:])
            paths = list(file["document"].attrs["paths"])
    return np.concatenate(tokens), np.concatenate(document), paths


def test_a_part_is_its_files_one_after_the_other(folder):
    root = Path(sysconfig.get_paths()["stdlib"])
    for name in ("validation", "test"):
        tokens, document, paths = part(folder, name)
        text = b"".join((root / path).read_bytes() + b"\0" for path in paths)
        assert tokens.shape[1] == CONTEXT + 1
        assert tokens[:, :-1].tobytes() == text[: len(tokens) * CONTEXT]
        np.testing.assert_array_equal(tokens[1:, 0], tokens[:-1, -1])
        assert len(text) - 1 - len(tokens) * CONTEXT < CONTEXT
        row = len(tokens) // 2
        begin = sum(len((root / path).read_bytes()) + 1 for path in paths[: document[row]])
        assert begin <= row * CONTEXT <= begin + len((root / paths[document[row]]).read_bytes())


def test_every_file_is_in_one_part_and_train_is_the_largest(folder):
    paths = [set(part(folder, name)[2]) for name in ("train", "validation", "test")]
    assert sum(map(len, paths)) == len(set.union(*paths)) > 300
    assert len(paths[0]) > 0.7 * len(set.union(*paths))


def test_shards_are_right_and_the_same_when_made_again(folder, tmp_path):
    assert all(check_file(path, None, None, along="tokens").problems == [] for path in find_shards(folder / "*.h5"))
    subprocess.run([sys.executable, MAKER, tmp_path], check=True, timeout=60, capture_output=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_windows_of_little_text():
    windows = runpy.run_path(str(MAKER), run_name="maker")["windows"]
    tokens, document = windows([b"a" * 100, b"b" * 411])
    assert tokens.shape == (1, CONTEXT + 1)
    assert bytes(tokens[0]) == b"a" * 100 + b"\0" + b"b" * 411 + b"\0"
    assert document.tolist() == [0]
    assert windows([b"a"])[0].shape == (0, CONTEXT + 1)
