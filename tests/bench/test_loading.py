"""The measures measure what they say, at a tiny size."""

from __future__ import annotations

import pytest

from hpcml.bench.loading import forget_cache, interleaved, loading, measure_loading, ratio, raw_reads, through_library
from hpcml.data import open_shards
from hpcml.data.samples import write_samples
from hpcml.data.storage import LIBRARY


def test_each_way_of_reading_gives_a_rate_and_a_share(tmp_path):
    found = measure_loading(tmp_path, 2, 300, rounds=2)
    assert all(value > 0 for value in found.values())
    assert {"raw positioned reads", "loader, window", "share of raw, sequential"} <= set(found)


def test_every_measure_moves_every_row(tmp_path):
    for layout in ("contiguous", "chunked", "gzip"):
        with open_shards(write_samples(tmp_path, layout, 2, 130)) as data:
            assert loading(data, "window")() == loading(data, "none")() == 260
            with through_library(data) as library:
                assert library.index.shards[0].stored("x").road == LIBRARY
                assert loading(library, "window")() == 260


def test_raw_reads_are_of_contiguous_shards_only(tmp_path):
    with open_shards(write_samples(tmp_path, "gzip", 1, 64)) as data, pytest.raises(ValueError, match="chunked"):
        raw_reads(data)()
    with open_shards(write_samples(tmp_path, "contiguous", 2, 100)) as data:
        assert {raw_reads(data, threads, slab, ring)() for threads, slab, ring in ((1, 64, 0), (2, 30, 90), (3, 7, 1))} == {200}


def test_rounds_are_taken_in_turn_and_compared_within():
    calls = []
    measures = {name: (lambda name=name: calls.append(name) or 10) for name in "ab"}
    found = interleaved(measures, 3, lambda: calls.append("-"))
    assert "".join(calls) == "-a-b" * 3
    assert ratio({"a": [2.0, 9.0, 4.0], "b": [1.0, 3.0, 4.0]}, "a", "b") == 2
    assert len(found["a"]) == 3


def test_shards_are_made_once_and_may_be_forgotten_by_the_system(tmp_path):
    (path,) = write_samples(tmp_path, "contiguous", 1, 64)
    time = path.stat().st_mtime_ns
    assert write_samples(tmp_path, "contiguous", 1, 64) == [path]
    forget_cache([path])
    assert path.stat().st_mtime_ns == time


def test_a_picture_that_cannot_be_drawn_is_refused_before_anything_is_measured(tmp_path, monkeypatch, capsys):
    from hpcml.cli.main import main

    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert main(["bench", "loading", "--folder", str(tmp_path / "bench"), "--png", str(tmp_path / "a.png")]) == 2
    assert "--png needs matplotlib" in capsys.readouterr().err
    assert not (tmp_path / "bench").exists()
