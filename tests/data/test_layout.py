"""A codec's text becomes what h5py is told, and what cannot be written is refused with the near name."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcml.data.layout import (
    BLOCK_ROWS,
    CHUNK_BYTES,
    SHARD_BYTES,
    SHARDS,
    SMALL_SHARD_BYTES,
    Layout,
    default_chunk,
    parse_layout,
    shard_bytes,
)
from hpcml.data.writer import RowWriter
from hpcml.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "layout"),
    [
        ("none", Layout()),
        ("gzip", Layout(codec="gzip")),
        ("GZIP:9", Layout(codec="gzip", level=9)),
        ("shuffle+gzip:0", Layout(codec="gzip", level=0, shuffle=True)),
        ("shuffle+lzf", Layout(codec="lzf", shuffle=True)),
        ("zstd:3", Layout(codec="zstd", level=3)),
    ],
)
def test_a_text_names_a_layout(text, layout):
    assert parse_layout(text) == layout


@pytest.mark.parametrize(
    ("text", "words"), [("gzp", "gzip"), ("gzip:10", "0 to 9"), ("lzf:3", "expected"), ("", "expected"), ("a+b", "expected")]
)
def test_another_text_is_refused(text, words):
    with pytest.raises(ConfigError, match=words):
        parse_layout(text)


def test_a_negative_chunk_is_refused():
    with pytest.raises(ConfigError, match="chunk is -1"):
        Layout(-1)


@pytest.mark.parametrize("row_bytes", [1, 4, 256, 3000, 12288, CHUNK_BYTES, 3 * CHUNK_BYTES])
def test_chunks_are_whole_blocks_where_rows_are_small(row_bytes):
    rows = default_chunk(row_bytes)
    assert rows >= 1
    assert rows * row_bytes <= max(CHUNK_BYTES, row_bytes)
    assert rows % BLOCK_ROWS == 0 or rows < BLOCK_ROWS


@pytest.mark.parametrize("text", ["none", "gzip:1", "lzf", "shuffle+gzip", "zstd", "lz4", "blosc"])
@pytest.mark.parametrize("chunk", [0, 3, 1000])
def test_what_is_written_is_read_back_in_the_layout_asked_for(tmp_path, text, chunk):
    if text in ("zstd", "lz4", "blosc"):
        pytest.importorskip("hdf5plugin", reason="hdf5plugin is not installed")
    layout = parse_layout(text, chunk)
    x = np.arange(20.0).reshape(10, 2)
    with RowWriter(tmp_path / "a.h5", 10, {"x": ((2,), "<f8")}, layout=layout) as writer:
        writer.write(0, {"x": x[:4]})
        writer.write(4, {"x": x[4:]})
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["x"][:], x)
        assert file["x"].chunks == (None if text == "none" and not chunk else (min(10, chunk or 10), 2))
        assert file["x"].shuffle == layout.shuffle


def test_a_codec_without_its_package_is_refused_by_name(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "hdf5plugin", None)
    with pytest.raises(ConfigError, match="needs the package hdf5plugin"):
        Layout(codec="zstd").options(4, (), "f4")


def test_an_error_while_attributes_are_written_leaves_nothing_behind(tmp_path):
    def decorate(file):
        raise KeyError("no")

    with pytest.raises(KeyError), RowWriter(tmp_path / "a.h5", 1, {"x": ((), "f4")}, decorate=decorate):
        pass
    assert list(tmp_path.iterdir()) == []


@given(total=st.integers(0, 1 << 45))
def test_shards_are_as_many_as_ranks_like_unless_too_small_or_too_large(total):
    size = shard_bytes(total)
    files = -(-total // size)
    assert SMALL_SHARD_BYTES <= size <= SHARD_BYTES
    assert files <= SHARDS or size == SHARD_BYTES
    assert files >= SHARDS - 1 or size == SMALL_SHARD_BYTES
