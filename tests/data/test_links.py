"""Links inside HDF5 files: rows in another file are that file's rows, and a link that leads nowhere is named."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import h5py
import numpy as np
import pytest

from hpcml.data import open_shards
from hpcml.data.contents import read_contents
from hpcml.data.inspection import look_into
from hpcml.data.shards import open_file
from hpcml.data.walking import walk
from hpcml.errors import ShardError


@pytest.mark.parametrize("chunks", [None, (8, 3)])
def test_rows_behind_an_external_link_are_never_sought_at_the_same_address_of_the_file_with_the_link(tmp_path, chunks):
    # Both files have the same layout and the same first rows, so that the first bytes do not tell them apart.
    right = np.random.default_rng(1).random((40, 3), np.float32)
    stale = np.vstack([right[:8], np.zeros((32, 3), np.float32)])
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file.create_dataset("x", data=right, chunks=chunks)
    with h5py.File(tmp_path / "shard.h5", "w") as file:
        file.create_dataset("x", data=stale, chunks=chunks)
        file["group/x"] = h5py.ExternalLink("../" + tmp_path.name + "/rows.h5", "x")
    out = np.empty((40, 3), np.float32)
    with open_shards(tmp_path / "shard.h5", "group/x", None) as data:
        data.read(0, 40, out)
        np.testing.assert_array_equal(out, right)
        os.utime(tmp_path / "rows.h5", ns=(1, 1))
        with pytest.raises(ShardError, match=r"rows\.h5: changed since it was indexed"):
            data.refuse_changed()


def test_a_link_to_external_or_virtual_rows_is_followed_to_the_end(tmp_path):
    (tmp_path / "there").mkdir()
    rows = np.arange(12, dtype="<f4").reshape(6, 2)
    (tmp_path / "there/rows.bin").write_bytes(rows.tobytes())
    with h5py.File(tmp_path / "there/a.h5", "w") as file:
        file.create_dataset("outside", (6, 2), "<f4", external=[("rows.bin", 0, 48)])
        file["plain"] = rows
        layout = h5py.VirtualLayout((6, 2), "<f4")
        layout[:] = h5py.VirtualSource("a.h5", "plain", (6, 2))
        file.create_virtual_dataset("virtual", layout)
    with h5py.File(tmp_path / "shard.h5", "w") as file:
        for name in ("outside", "virtual"):
            file[name] = h5py.ExternalLink("there/a.h5", name)
    for name in ("outside", "virtual"):
        out = np.empty((6, 2), np.float32)
        with open_shards(tmp_path / "shard.h5", name, None) as data:
            data.read(0, 6, out)
        np.testing.assert_array_equal(out, rows)


@pytest.mark.parametrize(
    ("link", "words"),
    [
        (h5py.SoftLink("/gone"), "'x' is a link to '/gone', which is not in the file"),
        (h5py.ExternalLink("gone.h5", "/x"), "'x' is a link to '/x' in the file gone.h5, which cannot be found"),
        (h5py.SoftLink("/x"), "'x' is a link that leads in a circle"),
    ],
)
@pytest.mark.parametrize("name", ["x", "x/below"])
def test_a_link_that_leads_nowhere_says_where_it_led(tmp_path, link, words, name):
    with h5py.File(tmp_path / "shard.h5", "w") as file:
        file["y"] = np.zeros(4)
        file["x"] = link
    with pytest.raises(ShardError, match=re.escape(words)):
        open_shards(tmp_path / "shard.h5", name, None)


@pytest.fixture
def linked(tmp_path):
    """Return a file whose rows lie behind every kind of link, and one that holds some of them."""
    y = np.arange(6)
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file["run/x"], file["run/up"] = np.arange(12, dtype="<f4").reshape(6, 2), h5py.SoftLink("/run")
        file["run"].attrs["unit"] = "K"
        file["run/back"] = h5py.ExternalLink("a.h5", "/")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["y"] = y
        file["hard"], file["labels/soft"], file["circle"] = file["y"], h5py.SoftLink("/y"), h5py.SoftLink("/")
        file["far"], file["x"] = h5py.ExternalLink("rows.h5", "run"), h5py.ExternalLink("rows.h5", "/run/x")
    return tmp_path / "a.h5"


def test_every_name_behind_a_link_is_shown(linked):
    with open_file(linked) as file:
        walked = walk(file)
        assert set(walked.datasets) == {"hard", "far/x", "x"}
        assert walked.links == {"y": "hard", "labels/soft": "hard"}
        del walked
    assert [one.name for one in look_into(linked)] == ["far/x", "hard", "x"]
    contents = read_contents(linked)
    assert (list(contents.fields), contents.rows) == (["far/x", "hard", "x"], 6)
    assert contents.attributes["far@unit"] == "'K'"
    with pytest.raises(ShardError, match=r"did you mean 'far/x'\? .* 'far/x', 'hard', 'labels/soft', 'x', 'y'"):
        open_shards(linked, "far/xx", None)


@pytest.mark.parametrize("link", [h5py.SoftLink("/gone"), h5py.ExternalLink("gone.h5", "/x")])
def test_tools_do_not_leave_out_in_silence_what_a_link_leads_to(linked, link):
    with h5py.File(linked, "a") as file:
        file["lost"] = link
    with pytest.raises(ShardError, match=r"'lost' is a link to .*gone.* which cannot be found; mend the link, or take it out"):
        read_contents(linked)
    assert len(look_into(linked)) == 3


def test_inspect_tells_the_road_of_codecs_that_hdf5plugin_brings(tmp_path):
    pytest.importorskip("hdf5plugin")
    code = (
        "import h5py, hdf5plugin, sys\n"
        "with h5py.File(sys.argv[1], 'w') as f: f.create_dataset('x', data=[[1.0]] * 8, chunks=(4, 1), **hdf5plugin.LZ4())\n"
    )
    path = tmp_path / "a.h5"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=60)
    # In a process that has not met hdf5plugin yet, as a user's.
    look = "import sys; from hpcml.data.inspection import look_into; print(look_into(sys.argv[1])[0].road)"
    done = subprocess.run([sys.executable, "-c", look, str(path)], check=True, timeout=60, capture_output=True, text=True)
    assert done.stdout.strip() == "raw chunks, decoded by threads"
    assert look_into(path)[0].lacking == ()
