"""A CSV scanned range by range is the CSV scanned in one pass, wherever the cuts fall, or both are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st

from hpcml.data.importers import Assembly, Options, csvfile, find_parts, ranges, scan_part
from hpcml.data.importers.assembly import join_part
from hpcml.errors import HpcmlError
from tests.data.importers.reading import read


def by_ranges(spec, size, options):
    """Return the joined scan of a part, and that of each range."""
    cuts = ranges.cut(spec, size)
    placed = ranges.place(cuts, [ranges.count(spec["path"], *one) for one in cuts])
    scans = [scan_part({**spec, "range": one}, options) for one in placed]
    return join_part(spec, scans, options), scans


def outcome(scan, spec, options):
    """Return what a scan says and the rows that it leads to, or None where it is refused."""
    try:
        found = scan()
        made = Assembly([spec], [found], options)
        rows = read(made)
        assert all(np.array_equal(values, read(made, 1)[name]) for name, values in read(made, 1).items())
    except HpcmlError:
        return None
    told = {key: found[key] for key in ("rows", "columns", "kinds", "texts")}
    return told, {name: (values.dtype.str, values.tobytes()) for name, values in rows.items()}


NUMBER = st.sampled_from(["1", "-2.5", '"3"', ""])
CELL = st.sampled_from(["1", "2", '"a,""b"', '"x\n"', '"\n\n""y"', "red"])
ENDING = st.sampled_from(["\n", "\r\n", "\n\n"])
ROW = st.tuples(NUMBER, CELL, ENDING).map(lambda parts: f"{parts[0]},{parts[1]}{parts[2]}")
WRONG = st.sampled_from(['1,"\n', '1"\n', "1,2,3\n", 'x"y,1\n', '"""\n"', '"'])
TEXT = st.tuples(st.lists(ROW, max_size=20), st.one_of(st.just(""), st.just(""), WRONG), st.lists(ROW, min_size=1, max_size=20)).map(
    lambda parts: "".join([*parts[0], parts[1], *parts[2]])
)


@given(text=TEXT, size=st.integers(2, 40), batch=st.integers(1, 5), header=st.sampled_from(["a,b\n", '"a\n","b"\n', "\ufeffa,b\r\n", None]))
@example(text='1,"\n"\n2,"\n"\n' * 5, size=2, batch=2, header="a,b\n")
def test_the_ranges_of_a_file_are_the_file(tmp_path_factory, text, size, batch, header):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes(((header or "") + text).encode())
    options = Options(label="b" if header else "column-2", missing=0.0, header=header is not None)
    (spec,), _, _ = find_parts([str(path)], options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csvfile, "BATCH", batch)
        patch.setattr(ranges, "RANGE_BYTES", size)
        whole = outcome(lambda: scan_part(spec, options), spec, options)
        event("refused" if whole is None else "read")
        assert outcome(lambda: by_ranges(spec, path.stat().st_size, options)[0], spec, options) == whole


def test_every_range_of_a_long_file_has_rows_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(ranges, "RANGE_BYTES", 100)
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "".join(f'{n},"{n}"\n' for n in range(500)))
    (spec,), _, _ = find_parts([str(path)], Options())
    joined, scans = by_ranges(spec, path.stat().st_size, Options())
    assert len(scans) == -(-path.stat().st_size // 100)
    assert min(scan["rows"] for scan in scans[:-1]) > 5
    assert sum(scan["rows"] for scan in scans) == joined["rows"] == 500


def test_what_is_compressed_or_no_text_is_not_cut():
    for path, kind in (("t.csv.gz", "csv"), ("t.npy", "npy")):
        assert ranges.cut({"kind": kind, "path": path}, 1 << 40) == [(0, None)]
