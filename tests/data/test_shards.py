"""Shards are found in the right order, and a file that breaks the layout is refused by name."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcml.data import open_shards
from hpcml.data.contents import read_contents
from hpcml.data.index import Field
from hpcml.data.inspection import look_into
from hpcml.data.shards import DTYPES, find_shards, index_shards
from hpcml.errors import ShardError


def refused(paths, *words, features="x", target="y"):
    with pytest.raises(ShardError) as caught:
        index_shards(paths, features, target)
    for word in map(str, words):
        assert word in str(caught.value), f"{word!r} is not in {caught.value}"


def rewrite(path, **fields):
    with h5py.File(path, "w") as file:
        for name, values in fields.items():
            file[name] = values


@pytest.fixture
def files(tmp_path):
    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return make


@given(numbers=st.sets(st.integers(0, 2000), min_size=1, max_size=12))
def test_parts_come_in_the_order_of_their_numbers(tmp_path_factory, numbers):
    folder = tmp_path_factory.mktemp("natural")
    for number in numbers:
        (folder / f"part-{number}.h5").touch()
    assert [path.name for path in find_shards(folder / "part-*.h5")] == [f"part-{number}.h5" for number in sorted(numbers)]


def test_patterns_keep_their_order_and_globs_reach_into_folders(files):
    folder = files("b/2.h5", "a/10.h5", "a/9.h5", "z.h5")
    found = find_shards([folder / "z.h5", str(folder / "**" / "[0-9]*.h5")])
    assert [path.relative_to(folder).as_posix() for path in found] == ["z.h5", "a/9.h5", "a/10.h5", "b/2.h5"]


def test_relative_patterns_give_absolute_paths_and_odd_names_are_paths(files, monkeypatch):
    folder = files("odd[1].h5")
    monkeypatch.chdir(folder)
    assert find_shards("odd[1].h5") == [folder / "odd[1].h5"]


def test_a_pattern_without_a_match_names_itself_and_the_folder(files):
    folder = files("other.txt")
    for pattern, words in (
        (folder / "train-*.h5", ["train-*.h5", f"looked in {folder}", "1 entries"]),
        (folder / "no" / "*.h5", ["no/*.h5", "does not exist"]),
        (folder / "gone.h5", ["gone.h5", "no such file"]),
        (folder, ["folder", "*.h5"]),
        ([], ["no shards"]),
    ):
        with pytest.raises(ShardError) as caught:
            find_shards(pattern)
        assert all(word in str(caught.value) for word in words)


def test_a_file_named_twice_is_refused(files):
    folder = files("1.h5", "2.h5")
    with pytest.raises(ShardError, match=r"2\.h5: named twice"):
        find_shards([folder / "*.h5", folder / "2.h5"])


def test_the_index_holds_what_the_files_hold(make_shards):
    paths = make_shards([5, 1, 9])
    index = index_shards(paths, "x", "y")
    assert (index.x, index.y) == (Field("x", (3,), "float32"), Field("y", (), "int64"))
    assert index.shard_rows == (5, 1, 9)
    assert index.rows == 15
    assert [(s.path, s.size, s.mtime_ns) for s in index.shards] == [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
    assert index_shards(paths, "x", None).y is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_type_of_either_byte_order_is_a_field(tmp_path, dtype):
    for i, order in enumerate("<>"):
        rewrite(tmp_path / f"{i}.h5", x=np.ones((2, 3), np.dtype(dtype).newbyteorder(order)))
    assert index_shards(sorted(tmp_path.iterdir()), "x", None).x == Field("x", (3,), dtype)


def test_fields_in_groups_are_found(tmp_path):
    rewrite(tmp_path / "a.h5", **{"in/x": np.ones((4, 2)), "out/y": np.ones(4)})
    assert index_shards([tmp_path / "a.h5"], "in/x", "/out/y").rows == 4


def test_files_that_cannot_be_opened_are_refused(make_shards):
    good, bad = make_shards([50, 50])
    whole = bad.read_bytes()
    bad.unlink()
    refused([good, bad], bad, "no such file")
    bad.mkdir()
    refused([good, bad], bad)
    bad.rmdir()
    for content, words in (
        (b"", ["empty (0 bytes)"]),
        (whole[:-100], ["truncated"]),
        (whole[: len(whole) // 2], ["truncated"]),
        (whole[:10], [bad]),
        (bytes([whole[0] ^ 0xFF]) + whole[1:], ["not an HDF5 file"]),
        (b"x,y\n1,2\n" * 100, ["not an HDF5 file", "x,y"]),
    ):
        bad.write_bytes(content)
        refused([good, bad], bad, "again", *words)


@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_but_never_anything_else(tmp_path_factory, data):
    """Flips bytes of the metadata, which lies first in a small file: only ShardError may come of it."""
    path = tmp_path_factory.mktemp("damaged") / "a.h5"
    rewrite(path, x=np.ones((2, 3)), y=np.ones(2))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(1023, len(content) - 1)))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(ShardError):
        index_shards([path], "x", "y")


def test_an_absent_field_lists_the_others_and_suggests_the_near_one(tmp_path):
    path = tmp_path / "a.h5"
    rewrite(path, **{"inputs": np.ones((4, 2)), "group/label": np.ones(4)})
    refused([path], path, "'imputs' is absent", "did you mean 'inputs'", "'group/label'", features="imputs")
    refused([path], path, "'group' is a group", "'group/label'", features="inputs", target="group")
    refused([path], path, features="")
    refused([path], path, "absent", features="inputs/deeper")


def test_shards_that_differ_from_the_first_are_refused(make_shards):
    first, second = make_shards([4, 4])
    rewrite(second, x=np.ones((4, 2), "f4"), y=np.ones(4, int))
    refused([first, second], second, first, "'x'", "row shape (2,)", "expected (3,)")
    rewrite(second, x=np.ones((4, 3), "f4"), y=np.ones(4))
    refused([first, second], second, first, "'y'", "dtype float64", "expected int64")
    rewrite(second, x=np.ones((4, 3), "f4"), y=np.ones(5, int))
    refused([first, second], second, "'y' has 5 rows", "'x' has 4;")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["text", "more"], ["dtype object"]),
        (np.array([b"ab", b"cd"]), ["dtype |S2"]),
        (np.zeros(2, [("a", "f4"), ("b", "i4")]), ["dtype"]),
        (np.ones(2, complex), ["complex128"]),
        (np.float32(1), ["rows on its first axis"]),
        (np.ones((0, 3)), ["is empty"]),
        (np.ones((3, 0)), ["is empty"]),
        (h5py.Empty("f4"), ["rows on its first axis"]),
    ],
)
def test_fields_that_are_not_rows_of_numbers_are_refused(tmp_path, values, words):
    path = tmp_path / "a.h5"
    rewrite(path, x=values)
    refused([path], path, "'x'", *words, target=None)


def test_an_unsigned_target_that_int64_cannot_hold_is_refused(tmp_path):
    rewrite(tmp_path / "a.h5", x=np.ones(2, "u8"), y=np.ones(2, "u8"))
    refused([tmp_path / "a.h5"], "'y' is uint64", "int64")


def test_rows_that_hdf5_would_make_up_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("never", (4, 2), "f4")
        file.create_dataset("outside", (4,), "f4", external=[("raw.bin", 0, 16)])
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource(tmp_path / "gone.h5", "x", (4,))
        file.create_virtual_dataset("virtual", layout)
    for field, word in (("never", "never written"), ("outside", "other files"), ("virtual", "other files")):
        refused([tmp_path / "a.h5"], field, word, features=field, target=None)


def test_a_filter_that_is_not_installed_is_named(make_shards, monkeypatch):
    paths = make_shards([4], compression="lzf")
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda code: False)
    refused(paths, "'x'", "filter 32000 (lzf)", "not installed")


def test_no_files_are_no_index():
    refused([], "no shards")


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("swmr", [False, True])
def test_a_file_that_another_program_writes_is_refused_and_read_when_it_is_done(tmp_path, libver, swmr):
    path = tmp_path / "a.h5"
    program = (
        "import h5py, sys\n"
        f"with h5py.File({str(path)!r}, 'w', libver='latest' if {swmr} else {libver!r}) as file:\n"
        "    file['x'] = [1.0, 2.0]\n"
        f"    if {swmr}: file.swmr_mode = True\n"
        "    file.flush(); print('open', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"open\n"
        with pytest.raises(ShardError, match=r"a\.h5: is open for writing in another program"):
            index_shards([path], "x", None)
        writer.communicate(timeout=30)
    assert index_shards([path], "x", None).rows == 2


def test_a_type_that_numpy_lacks_is_refused_by_name_and_shown_by_inspect(tmp_path):
    kind = h5py.h5t.STD_I32LE.copy()
    kind.set_precision(24)
    kind.set_size(3)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        h5py.h5d.create(file.id, b"x", kind, h5py.h5s.create_simple((4, 2)))
    with pytest.raises(ShardError, match="field 'x' has a type that numpy lacks"):
        open_shards(tmp_path / "a.h5", target=None)
    with pytest.raises(ShardError, match="field 'x' has a type that numpy lacks"):
        read_contents(tmp_path / "a.h5")
    (found,) = look_into(tmp_path / "a.h5")
    assert (found.dtype, found.shape, found.nbytes, found.is_usable) == ("unknown", (4, 2), 24, False)
