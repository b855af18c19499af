"""A CSV becomes the numbers that Python's csv module and numpy see in it, and whatever is wrong is named by line and column."""

from __future__ import annotations

import csv
import gzip
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcml.data.importers import csvfile as module
from hpcml.errors import DataError, HpcmlError
from tests.data.importers.reading import assembled, read

GOOD = "a,b,kind\n1,2.5,red\n3,-4e1,blue\n5,6,red\n"


def imported(tmp_path, *texts, name="t{}.csv", **options):
    paths = []
    for i, text in enumerate(texts):
        paths.append(tmp_path / name.format(i))
        raw = text if isinstance(text, bytes) else text.encode()
        paths[-1].write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    made = assembled(paths, **options)
    return read(made), made


def refused(tmp_path, text, *words, **options):
    with pytest.raises(HpcmlError) as caught:
        imported(tmp_path, text, **options)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in {caught.value}"


def test_columns_become_x_and_text_becomes_classes(tmp_path):
    found, made = imported(tmp_path, GOOD, label="kind")
    np.testing.assert_array_equal(found["x"], np.array([[1, 2.5], [3, -40], [5, 6]], np.float32))
    np.testing.assert_array_equal(found["y"], [1, 0, 1])
    assert made.attributes() == {"x@columns": ["a", "b"], "y@classes": ["blue", "red"]}


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (GOOD.replace("\n", "\r\n"), {}),
        ("\ufeff" + GOOD, {}),
        (GOOD.removesuffix("\n"), {}),
        (GOOD.replace("\n", "\n\n"), {}),
        (GOOD.replace(",", ";"), {"delimiter": ";"}),
        (GOOD.replace(",", " , "), {}),
        (GOOD.replace("red", '"red"'), {}),
    ],
)
def test_the_same_table_in_another_dress_is_the_same(tmp_path, text, options):
    found, made = imported(tmp_path, text, label="kind", **options)
    np.testing.assert_array_equal(found["x"], np.array([[1, 2.5], [3, -40], [5, 6]], np.float32))
    assert made.attributes()["y@classes"] == ["blue", "red"]


def test_tabs_and_gzip_are_told_by_the_name(tmp_path):
    found, _ = imported(tmp_path, GOOD.replace(",", "\t"), name="t{}.tsv.gz", label="kind")
    assert found["x"][1, 1] == -40


def test_whole_numbers_as_label_keep_their_values_and_kept_columns_are_fields(tmp_path):
    found, _ = imported(tmp_path, "id,v,y\n9007199254740993,0.5,-3\n2,1.5,7\n", label="y", keep=("id",), dtype="float64")
    assert found["id"].tolist() == [9007199254740993, 2]
    assert found["y"].tolist() == [-3, 7]
    assert found["x"].dtype == np.float64


def test_files_follow_each_other_and_share_their_classes(tmp_path):
    other = "a,b,kind\n7,8,green\n"
    found, made = imported(tmp_path, GOOD, other, label="kind")
    assert found["x"][:, 0].tolist() == [1, 3, 5, 7]
    assert [made.attributes()["y@classes"][code] for code in found["y"]] == ["red", "blue", "red", "green"]


def test_a_label_of_numbers_here_and_text_there_is_text(tmp_path):
    _, made = imported(tmp_path, "a,y\n1,1\n", "a,y\n1,n\n", label="y")
    assert made.attributes()["y@classes"] == ["1", "n"]


def test_without_a_header_columns_are_numbered(tmp_path):
    found, made = imported(tmp_path, "1,2\n3,4\n", header=False, label="column-2")
    assert found["y"].tolist() == [2, 4]
    assert made.rows == 2


def test_empty_cells_become_what_was_asked_for(tmp_path):
    found, _ = imported(tmp_path, "a,b\n1,\nNA,4\n", missing=float("nan"))
    np.testing.assert_array_equal(found["x"], np.array([[1, np.nan], [np.nan, 4]], np.float32))


@pytest.mark.parametrize(
    ("text", "words", "options"),
    [
        ("a,b\n1,2\n3\n", ("line 3 has 1 cells, expected 2",), {}),
        ("a,b\n1,2\n\n3,4,5\n", ("line 4 has 3 cells",), {}),
        ("a,b\n1,2\n3,x\n", ("line 3, column 'b'", "'x' is not a number"), {}),
        ("a,b\n1,2\n3,\n", ("line 3, column 'b': is empty",), {}),
        ("a,b\n1,nan\n", ("line 2, column 'b'", "--missing"), {}),
        ("a,b\n1,inf\n", ("line 2, column 'b'", "finite"), {}),
        ("a,b\n1,1e300\n", ("line 2", "1e300", "--dtype"), {}),
        ("a,b\n1,1_000\n", ("line 2", "1_000"), {}),
        ("a,b\n1,\u0663\n", ("line 2, column 'b'",), {}),
        ("a,b\n1,x\n2,\n", ("line 3, column 'b'", "class"), {"label": "b"}),
        ("a,b\n1,2\n2,\n", ("line 3, column 'b'",), {"label": "b"}),
        ("a,b\n1,2\n", ("'c' is absent", "'a', 'b'"), {"label": "c"}),
        ("height,b\n1,2\n", ("did you mean 'height'",), {"label": "hieght"}),
        ("a,a\n1,2\n", ("two columns are called 'a'",), {}),
        ("1,2\n3,4\n", ("line 1", "--no-header"), {}),
        ("a;b\n1;2\n", ("--delimiter ';'",), {}),
        (",a\n0,1\n", ("column 1 has no name",), {}),
        ('a,b\n1,"2\n3,4\n', ("line 2", "never closed"), {}),
        ('a,b\n1,2"3\n4,5"6\n', ("line 2",), {}),
        ("a,b\n", ("has no rows",), {}),
        ("", ("is empty",), {}),
        (b"a,b\n1,2\n\xff\xfe,3\n", ("line 3 is not UTF-8",), {}),
        ("a,b\n1,x\n1,y\0\n", ("'y\\x00' holds a NUL",), {"label": "b"}),
        ("a,b\0\n1,2\n", ("'b\\x00' holds a NUL",), {}),
        ("a,b\n1,9223372036854775807\n2,9223372036854775808\n", ("line 3, column 'b'", "int64"), {"label": "b"}),
        ("a,b\n1,0.5\n2,-9223372036854775809\n", ("line 3, column 'b'", "int64"), {"keep": ("b",)}),
        ("a,b\n1,2\n", ("no column is left",), {"label": "a", "keep": ("b",)}),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, words, options):
    refused(tmp_path, text, "t0.csv", *words, **options)


def test_tables_with_other_columns_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"t1\.csv.*\['c'\].*\['b'\]"):
        imported(tmp_path, "a,b\n1,2\n", "a,c\n1,2\n")
    with pytest.raises(DataError, match="another order"):
        imported(tmp_path, "a,b\n1,2\n", "b,a\n1,2\n")


def test_a_damaged_gzip_is_named(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(GOOD.encode() * 100)[:-20])
    with pytest.raises(DataError, match=r"t\.csv\.gz"):
        assembled([path], label="kind")


CELLS = st.one_of(st.integers(-(10**6), 10**6).map(str), st.floats(-(2.0**90), 2.0**90, width=32).map(repr))


@given(data=st.data(), rows=st.integers(1, 30), columns=st.integers(1, 4), ending=st.sampled_from(["\n", "\r\n"]), batch=st.integers(1, 7))
def test_any_run_of_any_table_is_what_the_csv_module_reads(tmp_path_factory, data, rows, columns, ending, batch):
    table = data.draw(st.lists(st.lists(CELLS, min_size=columns, max_size=columns), min_size=rows, max_size=rows))
    words = data.draw(st.lists(st.text("ab,\"\n '", min_size=1).filter(str.strip), min_size=rows, max_size=rows))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=ending)
    writer.writerow([*(f"c{i}" for i in range(columns)), "word"])
    writer.writerows([*cells, word] for cells, word in zip(table, words, strict=True))
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes(text.getvalue().encode())
    start = data.draw(st.integers(0, rows - 1))
    stop = data.draw(st.integers(start + 1, rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCH", batch)
        made = assembled([path], label="word")
        found = read(made, start, stop)
    np.testing.assert_array_equal(found["x"], np.array(table, np.float64).astype(np.float32)[start:stop])
    classes = made.attributes()["y@classes"]
    assert [classes[code] for code in found["y"]] == [word.strip() for word in words[start:stop]]


@given(raw=st.binary(max_size=300))
def test_no_bytes_crash_the_importer(tmp_path_factory, raw):
    path = tmp_path_factory.mktemp("fuzz") / "t.csv"
    path.write_bytes(raw)
    try:
        made = assembled([path], missing=0.0)
    except HpcmlError:
        return
    assert read(made)["x"].shape[0] == made.rows


@given(position=st.integers(0, 400), byte=st.integers(0, 255))
def test_a_changed_byte_gives_an_error_or_the_table_that_pandas_sees(tmp_path_factory, position, byte):
    pandas = pytest.importorskip("pandas", reason="pandas, the oracle, is not installed")
    raw = bytearray(("a,b,c\n" + "".join(f"{i},{i * 0.5},{i * i}\n" for i in range(30))).encode())
    raw[position % len(raw)] = byte
    path = tmp_path_factory.mktemp("fuzz") / "t.csv"
    path.write_bytes(raw)
    try:
        made = assembled([path], dtype="float64")
    except HpcmlError:
        return
    seen = pandas.read_csv(path, skip_blank_lines=True)
    np.testing.assert_allclose(read(made)["x"], seen.to_numpy(np.float64), rtol=1e-12)
