"""The laws of the order: every row once, from nothing but integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcml.arrays.spans import spans
from hpcml.data.sampler import SHUFFLES, Sampler
from hpcml.errors import ConfigError


@st.composite
def samplers(draw: st.DrawFn, shuffles: tuple[str, ...] = SHUFFLES) -> dict[str, Any]:
    shard_rows = draw(st.lists(st.integers(1, 40), min_size=1, max_size=5))
    batch = draw(st.integers(1, sum(shard_rows)))
    return {
        "shard_rows": shard_rows,
        "batch": batch,
        "workers": draw(st.integers(1, min(batch, 9))),
        "seed": draw(st.integers(0, 5)),
        "shuffle": draw(st.sampled_from(shuffles)),
        "block": draw(st.integers(1, 12)),
        "window": draw(st.integers(1, 4)),
    }


def every(sampler: Sampler, epoch: int) -> list[list[list[int]]]:
    return [[sampler.rows_of(epoch, worker, step).tolist() for worker in range(sampler.workers)] for step in range(sampler.steps)]


def flat(steps: list[list[list[int]]]) -> list[int]:
    return [row for step in steps for part in step for row in part]


@given(samplers(), st.integers(0, 3))
def test_an_epoch_sees_every_row_once(options, epoch):
    sampler = Sampler(**options)
    assert sorted(flat(every(sampler, epoch))) == list(range(sampler.rows))


@given(samplers())
def test_a_step_has_its_rows_cut_over_the_workers_by_spans(options):
    sampler = Sampler(**options)
    assert sampler.steps == -(-sampler.rows // sampler.batch)
    for step, parts in enumerate(every(sampler, 0)):
        rows = min(sampler.batch, sampler.rows - step * sampler.batch)
        assert sampler.step_rows(step) == sum(map(len, parts)) == rows
        lengths = [part.stop - part.start for part in spans(rows, sampler.workers)]
        assert [len(part) for part in parts] == [sampler.count(step, w) for w in range(sampler.workers)] == lengths


@given(samplers(), st.randoms(use_true_random=False))
def test_the_order_does_not_depend_on_who_asks_and_when(options, random):
    expected = {(e, w, s): part for e in (0, 1) for s, step in enumerate(every(Sampler(**options), e)) for w, part in enumerate(step)}
    sampler = Sampler(**options)
    questions = list(expected)
    random.shuffle(questions)
    for question in questions:
        assert sampler.rows_of(*question).tolist() == expected[question]


@given(samplers())
def test_windows_are_the_same_sequence_and_say_what_to_read(options):
    sampler = Sampler(**options)
    for worker in range(sampler.workers):
        steps = [sampler.rows_of(2, worker, step) for step in range(sampler.steps)]
        windows = [sampler.window(2, worker, k) for k in range(sampler.windows(worker))]
        assert np.concatenate(steps).tolist() == np.concatenate([window.rows for window in windows]).tolist()
        for window in windows:
            slab = np.concatenate([np.arange(start, stop) for start, stop in window.runs])
            assert window.rows[window.in_file].tolist() == slab.tolist()
            assert all(before[1] < after[0] for before, after in zip(window.runs, window.runs[1:], strict=False))


@given(samplers(shuffles=("none",)))
def test_without_shuffle_batch_s_is_rows_s_times_batch_onward(options):
    sampler = Sampler(**options)
    assert flat(every(sampler, 0)) == list(range(sampler.rows)) == flat(every(sampler, 7))


@given(samplers(shuffles=("block", "window")))
def test_blocks_stay_together_and_inside_their_shard(options):
    """Over all windows of all workers a block is cut at most where a worker or a window ends."""
    sampler = Sampler(**options)
    edges = np.cumsum([0, *options["shard_rows"]])
    blocks = sum(-(-rows // sampler.block) for rows in options["shard_rows"])
    windows = [sampler.window(0, w, k) for w in range(sampler.workers) for k in range(sampler.windows(w))]
    pieces = 0
    for window in windows:
        shard = np.searchsorted(edges, np.sort(window.rows), side="right") - 1
        inside = np.sort(window.rows) - edges[shard]
        pieces += len({(a, b) for a, b in zip(shard.tolist(), (inside // sampler.block).tolist(), strict=True)})
    assert blocks <= pieces <= blocks + len(windows)


@pytest.mark.parametrize("shuffle", ["block", "window", "global"])
def test_epochs_and_seeds_differ_and_repeat(shuffle):
    def order(seed, epoch):
        return flat(every(Sampler([300, 17, 200], 64, 3, seed, shuffle), epoch))

    assert order(7, 0) == order(7, 0)
    assert order(7, 0) != order(7, 1)
    assert order(7, 0) != order(8, 0)


def test_the_windows_of_an_epoch_are_shuffled_each_in_its_own_way():
    sampler = Sampler([4096], 64, 2, 7, "window", block=16, window=4)
    blocks = Sampler([4096], 64, 2, 7, "block", block=16, window=4)
    moved = [
        np.searchsorted(np.sort(rows), rows).tolist()
        for rows in (sampler.window(0, w, k).rows for w in range(2) for k in range(sampler.windows(w)))
    ]
    assert len({tuple(m) for m in moved}) == len(moved)
    for worker, k in ((0, 0), (1, 5)):
        assert sorted(sampler.window(0, worker, k).rows) == sorted(blocks.window(0, worker, k).rows)


def test_the_order_is_written_down():
    """A golden order: whoever changes it breaks every checkpoint in the middle of an epoch."""
    sampler = Sampler([5, 6], 4, 2, 7, "window", block=2, window=2)
    assert every(sampler, 0) == [[[9, 4], [8, 7]], [[5, 6], [3, 2]], [[10], [1, 0]]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch": 12}, ["12", "11"]),
        ({"batch": 2}, ["2", "3"]),
        ({"workers": 0}, ["0"]),
        ({"shuffle": "blok"}, ["'blok'", "block"]),
        ({"block": 0}, ["0"]),
        ({"window": 0}, ["0"]),
        ({"seed": -1}, ["-1"]),
    ],
)
def test_numbers_that_do_not_fit_are_refused_by_name(changes, words):
    options = {"shard_rows": [5, 6], "batch": 4, "workers": 3, "seed": 7} | changes
    with pytest.raises(ConfigError) as caught:
        Sampler(**options)
    assert all(word in str(caught.value) for word in words)


def test_steps_workers_and_windows_that_do_not_exist_are_refused():
    sampler = Sampler([10], 4, 2, 7)
    for question in ((0, 2, 0), (0, 0, 3), (0, 0, -1)):
        with pytest.raises(ConfigError, match="does not exist"):
            sampler.rows_of(*question)
    with pytest.raises(ConfigError, match="does not exist"):
        sampler.window(0, 0, 1)


@settings(max_examples=20)
@given(st.integers(0, 31_249_999), st.integers(0, 3))
def test_a_window_of_a_thousand_million_rows_is_arithmetic(step, worker):
    """File order needs no array of blocks at all; it shows that nothing of N rows is built."""
    sampler = Sampler([10**9], 32, 4, 7, "none")
    assert sampler.rows_of(0, worker, step).tolist() == list(range(step * 32 + worker * 8, step * 32 + worker * 8 + 8))


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_workers_that_keep_their_rows_have_the_same_ones_in_every_epoch(shuffle):
    sampler = Sampler([50, 33, 41], 20, 4, 7, shuffle, block=5, window=3, own=True)
    epochs = [[np.concatenate([sampler.rows_of(e, w, s) for s in range(sampler.steps)]) for w in range(4)] for e in range(3)]
    for epoch in epochs[1:]:
        for mine, first in zip(epoch, epochs[0], strict=True):
            assert set(mine) == set(first)
    assert sorted(np.concatenate(epochs[0])) == list(range(124))
    assert any((a != b).any() for a, b in zip(epochs[0], epochs[1], strict=True)) == (shuffle == "window")
