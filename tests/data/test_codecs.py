"""What HDF5's filters did is undone to the same bytes, and damaged chunks are refused, never written past their end."""

from __future__ import annotations

import contextlib

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcml.data import codecs
from hpcml.data.codecs import Undo, fletcher32, unshuffle
from hpcml.data.roads import Scratch

plugins = pytest.importorskip("hdf5plugin", reason="the codecs LZ4, Zstandard and Blosc come with hdf5plugin")

CHAINS = {
    "gzip": {"compression": "gzip"},
    "gzip shuffle": {"compression": "gzip", "shuffle": True},
    "gzip shuffle fletcher": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    "fletcher": {"fletcher32": True},
    "shuffle": {"shuffle": True},
    "lz4": dict(plugins.LZ4()),
    "lz4 blocks": dict(plugins.LZ4(nbytes=128)),
    "zstd shuffle": {**plugins.Zstd(), "shuffle": True},
    "blosc": dict(plugins.Blosc(cname="lz4", shuffle=1)),
    "blosc zstd": dict(plugins.Blosc(cname="zstd", shuffle=2)),
}


def chunk_of(path, values, **layout):
    """Write one chunk, and return it as it lies in the file, its filters, and its mask."""
    with h5py.File(path, "w") as file:
        data = file.create_dataset("x", data=values, chunks=values.shape, **layout)
        plist = data.id.get_create_plist()
        filters = tuple(plist.get_filter(i)[:3:2] for i in range(plist.get_nfilters()))
        mask, raw = data.id.read_direct_chunk((0,) * values.ndim)
    return np.frombuffer(raw, np.uint8), filters, mask


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "i1", "<u2"])
@pytest.mark.parametrize("kind", ["smooth", "noise"])
def test_every_chain_is_undone(tmp_path, chain, dtype, kind):
    rng = np.random.default_rng(0)
    values = (np.arange(3 * 77) // 9 if kind == "smooth" else rng.integers(0, 127, 3 * 77)).reshape(77, 3).astype(dtype)
    raw, filters, mask = chunk_of(tmp_path / "a.h5", values, **chain)
    assert codecs.missing(filters) == ""
    out = np.full(values.nbytes, 0xAA, np.uint8)
    Undo(filters, values.itemsize, values.nbytes)(raw, out, mask, Scratch())
    assert out.tobytes() == values.tobytes()


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())
@given(data=st.data())
def test_damaged_chunks_decode_or_are_refused_inside_their_memory(tmp_path_factory, chain, data):
    values = np.arange(400, dtype="<f4").reshape(100, 4)
    raw, filters, mask = chunk_of(tmp_path_factory.mktemp("d") / "a.h5", values, **chain)
    bad = bytearray(raw.tobytes())
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    bad = bad[: data.draw(st.integers(0, len(bad)))] if data.draw(st.booleans()) else bad
    guarded = np.full(values.nbytes + 64, 0xAA, np.uint8)
    with contextlib.suppress(ValueError):
        Undo(filters, 4, values.nbytes)(np.frombuffer(bytes(bad), np.uint8), guarded[: values.nbytes], mask, Scratch())
    assert (guarded[values.nbytes :] == 0xAA).all()


@pytest.mark.parametrize("chain", ["gzip shuffle fletcher", "fletcher"])
@given(data=st.data())
def test_a_checksum_finds_every_change_of_one_byte(tmp_path_factory, chain, data):
    values = np.arange(400, dtype="<f4").reshape(100, 4)
    raw, filters, mask = chunk_of(tmp_path_factory.mktemp("d") / "a.h5", values, **CHAINS[chain])
    bad = raw.copy()
    # zlib's own header has two bits that change nothing; the data behind it may not change unnoticed.
    bad[data.draw(st.integers(2, len(bad) - 1))] ^= data.draw(st.integers(1, 255))
    out = np.empty(values.nbytes, np.uint8)
    try:
        Undo(filters, 4, values.nbytes)(bad, out, mask, Scratch())
    except ValueError:
        return
    assert out.tobytes() == values.tobytes()


@given(st.binary(max_size=300), st.integers(1, 9))
def test_unshuffle_is_the_inverse_of_hdf5s_shuffle(text, itemsize):
    raw = np.frombuffer(text, np.uint8)
    whole = len(raw) // itemsize * itemsize
    shuffled = np.concatenate([raw[:whole].reshape(-1, itemsize).T.reshape(-1), raw[whole:]])
    out = np.empty_like(raw)
    unshuffle(shuffled, out, itemsize)
    np.testing.assert_array_equal(out, raw)


@given(st.binary(max_size=2000))
def test_fletcher32_is_the_sum_written_in_the_format(text):
    low = high = 0
    padded = text + b"\0" * (len(text) % 2)
    for i in range(0, len(padded), 2):
        low += padded[i] << 8 | padded[i + 1]
        high += low
        if i % 720 == 718:
            low, high = (low & 0xFFFF) + (low >> 16), (high & 0xFFFF) + (high >> 16)
    for _ in range(6):
        low, high = (low & 0xFFFF) + (low >> 16), (high & 0xFFFF) + (high >> 16)
    assert fletcher32(np.frombuffer(text, np.uint8)) == high << 16 | low


def test_a_skipped_filter_is_not_undone(tmp_path):
    values = np.arange(8, dtype="<i4")
    out = np.empty(values.nbytes, np.uint8)
    Undo(((codecs.SHUFFLE, ()), (codecs.DEFLATE, ())), 4, values.nbytes)(values.view(np.uint8), out, 0b11, Scratch())
    assert out.tobytes() == values.tobytes()


def test_filters_without_a_decoder_are_named():
    assert codecs.missing([(codecs.SHUFFLE, ()), (32000, ()), (99, ())]) == "filter 32000, filter 99"
