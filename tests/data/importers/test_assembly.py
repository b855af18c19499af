"""What a source is can be told by its name, and sources that are not rows of one data set are refused."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from hpcml.data.importers import Options, find_parts
from hpcml.data.importers.assembly import kind_of, text_decorator
from hpcml.errors import ConfigError, HpcmlError


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.csv", "csv"),
        ("a.tsv.gz", "csv"),
        ("train-images-idx3-ubyte", "idx"),
        ("t10k-labels-idx1-ubyte.gz", "idx"),
        ("a.npy", "npy"),
        ("a.NPZ", "npz"),
        ("a.parquet", "parquet"),
    ],
)
def test_a_name_tells_the_kind(name, kind):
    assert kind_of(Path(name)) == kind


def test_a_name_that_does_not_tell_needs_a_format(tmp_path):
    with pytest.raises(ConfigError, match="--format"):
        kind_of(Path("a.dat"))
    (tmp_path / "a.dat").write_text("a\n1\n")
    assert find_parts([str(tmp_path / "a.dat")], Options(format="csv"))[0][0]["kind"] == "csv"


def test_sources_of_different_kinds_and_misplaced_field_names_are_refused(tmp_path):
    for name in ("a.csv", "b.npy"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match="csv, npy"):
        find_parts([str(tmp_path / "a.csv"), str(tmp_path / "b.npy")], Options())
    with pytest.raises(ConfigError, match="arrays"):
        find_parts([f"x={tmp_path}/a.csv"], Options())
    with pytest.raises(HpcmlError, match="no such file"):
        find_parts([str(tmp_path / "gone.csv")], Options())


def test_a_file_is_named_once_a_field(tmp_path):
    for name in ("a.csv", "b.npy"):
        (tmp_path / name).touch()
    with pytest.raises(HpcmlError, match=r"a\.csv: named twice"):
        find_parts([str(tmp_path / "*.csv"), str(tmp_path / "a.csv")], Options())
    assert len(find_parts([f"x={tmp_path}/b.npy", f"z={tmp_path}/b.npy"], Options())[0]) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "xml"}, "xml"),
        ({"dtype": "int8"}, "int8"),
        ({"delimiter": "ab"}, "2 characters"),
        ({"label": "a", "keep": ("a",)}, "'a' is asked for twice"),
        ({"keep": ("x",)}, "may not be called x or y"),
    ],
)
def test_options_that_contradict_themselves_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        Options(**options)


@pytest.mark.parametrize("count", [3, 5000])
def test_texts_are_kept_however_many(tmp_path, count):
    texts = [f"klass ü {i}" for i in range(count)]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["y"] = np.arange(2)
        text_decorator({"y@classes": texts})(file)
        found = file["y"].attrs["classes"] if count == 3 else file["y_classes"].asstr()[:]
        assert list(found) == texts
