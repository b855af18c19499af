"""The tree is arithmetic on pairs of integers: covers, merges and additions, for every V and P."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from hpcml.arrays import spans
from hpcml.sync.tree import additions, crossings, halves, hosts, merges, subtrees

WORKERS = st.integers(1, 70)


@st.composite
def a_run(draw):
    workers = draw(WORKERS)
    start, stop = sorted((draw(st.integers(0, workers)), draw(st.integers(0, workers))))
    return workers, slice(start, stop)


def nodes(workers):
    """Every node of the tree."""
    found, todo = set(), [(0, workers)]
    while todo:
        node = todo.pop()
        found.add(node)
        if node[1] - node[0] > 1:
            todo += halves(node)
    return found


@given(WORKERS)
def test_the_tree_has_one_leaf_a_worker_and_one_addition_less(workers):
    found = nodes(workers)
    assert {node for node in found if node[1] - node[0] == 1} == {(w, w + 1) for w in range(workers)}
    assert len(found) == 2 * workers - 1
    assert all(a < b for a, b in found)


@given(a_run())
def test_subtrees_cover_a_run_once_from_left_to_right_by_nodes_of_the_tree(case):
    workers, run = case
    held = subtrees(run, workers)
    assert [leaf for first, end in held for leaf in range(first, end)] == list(range(run.start, run.stop))
    assert set(held) <= nodes(workers)


@given(a_run())
def test_no_fewer_subtrees_would_do(case):
    workers, run = case
    held = set(subtrees(run, workers))
    for node in nodes(workers):
        if node[1] - node[0] > 1:
            assert not set(halves(node)) <= held, "two halves should have been their parent"
    assert len(held) <= 2 * max(1, math.ceil(math.log2(workers)) if workers > 1 else 1)


@given(a_run())
def test_merges_build_the_subtrees_from_their_leaves(case):
    workers, run = case
    stack = []
    for leaf, count in zip(range(run.start, run.stop), merges(run, workers), strict=True):
        stack.append((leaf, leaf + 1))
        for _ in range(count):
            right, left = stack.pop(), stack.pop()
            assert halves((left[0], right[1])) == (left, right)
            stack.append((left[0], right[1]))
    assert stack == subtrees(run, workers)


@given(a_run())
def test_the_stack_of_partial_sums_stays_as_low_as_the_tree(case):
    workers, run = case
    height = deepest = 0
    for count in merges(run, workers):
        height += 1
        deepest = max(deepest, height)
        height -= count
    assert deepest <= 2 * workers.bit_length() + 1


@given(st.data(), WORKERS)
def test_crossings_complete_what_the_ranks_hold_and_rank_0_ends_with_the_root(data, workers):
    ranks = data.draw(st.integers(1, workers))
    holder = {node: rank for rank, run in enumerate(spans(workers, ranks)) for node in subtrees(run, workers)}
    for left, right, sender, adder in crossings(spans(workers, ranks)):
        node = left[0], right[1]
        assert halves(node) == (left, right)
        assert holder.pop(left) == adder
        assert holder.pop(right) == sender
        holder[node] = adder
    assert holder == {(0, workers): 0}


@given(st.data(), WORKERS)
def test_additions_turn_what_is_held_into_the_root(data, workers):
    ranks = data.draw(st.integers(1, workers))
    held = {node for run in spans(workers, ranks) for node in subtrees(run, workers)}
    present = set(held)
    for left, right in additions((0, workers), held):
        assert halves((left[0], right[1])) == (left, right)
        present -= {left, right}
        present.add((left[0], right[1]))
    assert present == {(0, workers)}


@given(st.data(), WORKERS)
def test_crossings_and_additions_are_the_same_tree(data, workers):
    ranks = data.draw(st.integers(1, workers))
    held = {node for run in spans(workers, ranks) for node in subtrees(run, workers)}
    crossed = {(left, right) for left, right, _, _ in crossings(spans(workers, ranks))}
    assert crossed == set(additions((0, workers), held))


@given(st.data(), WORKERS)
def test_hosts_name_the_rank_of_each_worker(data, workers):
    ranks = data.draw(st.integers(1, workers))
    host = hosts(spans(workers, ranks))
    assert len(host) == workers
    assert sorted(set(host)) == list(range(ranks))
    assert host == sorted(host)
