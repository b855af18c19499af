"""The laws of every schedule, played in one process: any P from 1 to 17, any n from 0 to 40, uneven nodes, no message buffered."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcml.arrays import spans
from hpcml.comm.costs import cost, lower_bound, rehearse, sent
from hpcml.comm.halving import halving_doubling
from hpcml.comm.levels import lanes, two_level
from hpcml.comm.schedules import SCHEDULES, recursive_doubling, ring, ring_gather, ring_scatter
from hpcml.comm.transfers import Transfer, rounds, within
from hpcml.comm.trees import double_tree, two_trees
from hpcml.errors import CommError

SIZES = st.integers(1, 17)
LENGTHS = st.integers(0, 40)
BY_NODES = {
    "two-level": two_level,
    "lanes": lanes,
    "two-level over doubling": partial(two_level, across=recursive_doubling),
    "lanes over rings": partial(lanes, across=ring),
    "lanes over double trees": partial(lanes, across=partial(double_tree, block=2)),
}


def families(size, nodes):
    """Every schedule for a world of this size whose ranks stand on these nodes."""
    yield from SCHEDULES.items()
    yield "double-tree in small blocks", partial(double_tree, block=3)
    for name, make in BY_NODES.items():
        yield name, make(nodes)


@st.composite
def worlds(draw):
    size = draw(SIZES)
    return size, draw(st.lists(st.integers(0, 4), min_size=size, max_size=size))


@given(worlds(), LENGTHS, st.integers(0, 2**32 - 1))
def test_every_rank_ends_with_the_sum_of_all(world, n, seed):
    size, nodes = world
    start = np.random.default_rng(seed).integers(-1000, 1000, (size, n))
    for name, schedule in families(size, nodes):
        x = start.copy()
        rehearse(schedule, size, n, list(x))
        np.testing.assert_array_equal(x, np.broadcast_to(start.sum(0), (size, n)), name)


@given(worlds(), LENGTHS, st.integers(0, 2**32 - 1))
def test_all_ranks_hold_the_same_bits(world, n, seed):
    size, nodes = world
    start = np.random.default_rng(seed).normal(size=(size, n)).astype(np.float32)
    for name, schedule in families(size, nodes):
        x = start.copy()
        rehearse(schedule, size, n, list(x))
        np.testing.assert_array_equal(x.view(np.uint32), np.broadcast_to(x[0], (size, n)).view(np.uint32) if n else x.view(np.uint32), name)


@given(worlds(), LENGTHS)
def test_a_round_never_overwrites_what_it_sends(world, n):
    size, nodes = world
    for name, schedule in families(size, nodes):
        for rank in range(size):
            for t in rounds(schedule(rank, size, n)):
                if t.source is not None and not t.add and t.to is not None:
                    assert t.send.stop <= t.receive.start or t.receive.stop <= t.send.start, (name, rank, t)


@given(worlds(), LENGTHS)
def test_nobody_talks_to_itself_and_spans_stay_inside(world, n):
    size, nodes = world
    for name, schedule in families(size, nodes):
        for rank in range(size):
            for t in schedule(rank, size, n):
                assert rank not in (t.to, t.source), name
                assert 0 <= t.send.start <= t.send.stop <= n, name
                assert 0 <= t.receive.start <= t.receive.stop <= n, name


@given(worlds())
def test_zero_elements_cost_nothing(world):
    size, nodes = world
    for _, schedule in families(size, nodes):
        assert cost(schedule, size, 0).messages == 0


@given(SIZES, LENGTHS, st.integers(0, 2**32 - 1))
def test_the_ring_scatters_and_gathers(size, n, seed):
    start = np.random.default_rng(seed).integers(-1000, 1000, (size, n))
    x = start.copy()
    rehearse(ring_scatter, size, n, list(x))
    for rank, chunk in enumerate(spans(n, size)):
        np.testing.assert_array_equal(x[rank, chunk], start[:, chunk].sum(0))
    y = start.copy()
    rehearse(ring_gather, size, n, list(y))
    for rank, chunk in enumerate(spans(n, size)):
        np.testing.assert_array_equal(y[:, chunk], np.broadcast_to(start[rank, chunk], y[:, chunk].shape))


@pytest.mark.parametrize("size", range(2, 18))
def test_costs_are_as_the_table_says(size):
    n, core = 40_320, 1 << (size.bit_length() - 1)
    logarithm, folded = core.bit_length() - 1, core < size
    slack = size  # elements: spans differ by one
    assert cost(ring, size, n).elements <= lower_bound(size, n) + slack
    assert cost(ring, size, n).messages == 2 * (size - 1) == rehearse(ring, size, n)
    halving = cost(halving_doubling, size, n)
    assert halving.elements <= lower_bound(core, n) + folded * 3 * n / 2 + slack
    assert halving.messages <= 2 * logarithm + 2 * folded
    assert rehearse(halving_doubling, size, n) == 2 * logarithm + 3 * folded
    doubling = cost(recursive_doubling, size, n)
    assert doubling.elements <= n * (logarithm + folded)
    assert rehearse(recursive_doubling, size, n) == logarithm + 2 * folded
    assert cost(SCHEDULES["binary-tree"], size, n).elements <= 3 * n
    assert cost(double_tree, size, n).elements <= 2 * n


@pytest.mark.parametrize("size", range(2, 18))
@pytest.mark.parametrize("count", [1, 4, 16])
def test_blocks_of_the_double_tree_flow_without_waiting(size, count):
    depth = max(edge.first for edge in two_trees(size)) + 1
    assert depth <= 2 * size.bit_length()
    assert rehearse(partial(double_tree, block=10), size, 20 * count) <= 2 * (depth + 2 * (count - 1))


@pytest.mark.parametrize("size", range(1, 65))
def test_a_rank_has_children_in_one_tree_only_and_two_at_most(size):
    edges = two_trees(size)
    assert len(edges) == 2 * (size - 1)
    roots = {min(set(range(size)) - {edge.child for edge in edges if edge.tree == tree}) for tree in (0, 1)}
    for rank in range(size):
        below = [edge for edge in edges if edge.parent == rank]
        assert len(below) <= 2
        assert len({edge.tree for edge in below}) <= 1 or rank in roots
        for met in (below, [edge for edge in edges if edge.child == rank]):
            assert len({edge.first % 2 for edge in met}) == len(met)


def test_lanes_send_the_fewest_bytes_through_the_network():
    nodes, n = [0, 0, 0, 0, 1, 1, 1, 1], 4096
    through = [
        sum(t.send.stop - t.send.start for t in rounds(lanes(nodes)(r, 8, n)) if t.to is not None and nodes[t.to] != nodes[r])
        for r in range(8)
    ]
    assert through == [lower_bound(2, n) / 4] * 8
    inside = sent(lanes(nodes), 0, 8, n).elements - through[0]
    assert inside == lower_bound(4, n)


def test_every_port_of_a_node_works_when_nodes_are_uneven():
    nodes, n = [0, 1, 1, 1], 120
    through = [
        sum(t.send.stop - t.send.start for t in rounds(lanes(nodes)(r, 4, n)) if t.to is not None and nodes[t.to] != nodes[r])
        for r in range(4)
    ]
    assert through == [120, 40, 40, 40]


def test_one_node_limits():
    """Two-level on one node is the tree; lanes with a rank a node are the schedule across."""
    assert cost(two_level([0] * 6), 6, 12) == cost(SCHEDULES["binary-tree"], 6, 12)
    assert [list(lanes(range(6), ring)(r, 6, 12)) for r in range(6)] == [list(ring(r, 6, 12)) for r in range(6)]


def test_within_moves_ranks_and_spans():
    moved = list(within(recursive_doubling, [4, 7], 7, slice(10, 13)))
    assert moved == [Transfer(4, slice(10, 13), 4, slice(10, 13), add=True)]


@pytest.mark.parametrize("make", BY_NODES.values())
def test_a_map_of_another_world_is_refused(make):
    with pytest.raises(CommError, match="names 3 ranks, the world has 4"):
        list(make([0, 0, 1])(0, 4, 8))


def test_a_schedule_that_waits_for_ever_is_found():
    def stuck(rank, size, n):
        yield Transfer((rank + 1) % size, slice(0, n), None, slice(0, 0), add=False)

    with pytest.raises(CommError, match="3 of 3 ranks would wait for ever"):
        rehearse(stuck, 3, 4)


def test_a_schedule_whose_sides_differ_is_found():
    def uneven(rank, size, n):
        yield Transfer(1 - rank, slice(0, n - rank), 1 - rank, slice(0, n), add=True)

    with pytest.raises(CommError, match="rank 1 sends 4 elements where rank 0 expects 5"):
        rehearse(uneven, 2, 5)


def test_a_cost_reads_aloud():
    assert str(cost(ring, 4, 4000)) == "6 messages, 6,000 elements a rank"
