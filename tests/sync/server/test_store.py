"""Push and pull by key: the updater on the sum under bsp, row by row, each as it comes elsewhere. In every kind of world."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hpcml
from hpcml.errors import CommError, ConfigError, DisagreementError, NumericsError, ShapeError
from hpcml.optim import LARS, SGD, AdaGrad, AdamW, Scratch, apply_whole
from hpcml.sync.server import ASP, BAP, BSP, SSP, TAP, KeyValue
from hpcml.sync.server.average import RowSum
from hpcml.sync.server.letters import HEAD_BYTES
from hpcml.sync.server.store import deal_tables

RULES = [SGD(0.5), SGD(0.1, momentum=0.9), AdaGrad(0.1), AdamW(0.01)]


def numbers(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_under_bsp_a_pull_sees_the_updater_on_the_sum_of_all_pushes(on_every_rank, rule):
    first, clocks = numbers(1, 40), 3

    def program(comm):
        seen = []
        with KeyValue(comm, {"a": first, "b": numbers(2, 7)}, rule, BSP()) as store:
            for clock in range(clocks):
                store.push("a", numbers(10 * clock + comm.rank, 40))
                store.push("b", np.zeros(7), priority=-1)
                out = np.empty(40)
                store.pull("a", out)
                seen.append(out)
        return comm.size, seen

    for size, seen in on_every_rank(program):
        mine, state = first.copy(), np.zeros((rule.slots, 40))
        for clock in range(clocks):
            total = np.sum([numbers(10 * clock + rank, 40) for rank in range(size)], axis=0)
            apply_whole(rule, mine, total, state, clock, Scratch(mine, []))
            np.testing.assert_allclose(seen[clock], mine, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("consistency", [BSP(), BAP()], ids=["bsp", "bap"])
def test_rows_that_nobody_pushes_are_neither_moved_nor_sent(on_every_rank, consistency):
    first, rule = numbers(1, 50, 6), SGD(0.1, momentum=0.9)

    def program(comm):
        with KeyValue(comm, {"rows": first}, rule, consistency) as store:
            mine = np.array([3, 10 + comm.rank])
            for _ in range(2):  # momentum would move row 30 a second time
                store.push("rows", np.ones((2, 6)), rows=mine)
            store.push("rows", np.ones((1, 6)), rows=np.array([30 + comm.rank]))
            store.flush()
            before = store._post.mail.sent_bytes - HEAD_BYTES * store._post.mail.sent_letters
            some = np.empty((2, 6))
            store.pull("rows", some, rows=mine)
            whole = np.empty((50, 6))
            comm.barrier()
            store.pull("rows", whole)
        return comm.size, comm.rank, before, some, whole

    for size, rank, sent, some, whole in on_every_rank(program):
        touched = {3, *range(10, 10 + size), *range(30, 30 + size)}
        changed = {int(row) for row in np.flatnonzero((whole != first).any(axis=1))}
        assert changed == touched
        # A push of k rows of w numbers is 8 k + 8 k w bytes, beside the head; the table is rank 0's, which sends answers.
        assert rank == 0 or sent == 2 * (2 * 8 + 2 * 6 * 8) + 8 + 6 * 8
        assert (some != first[[3, 10 + rank]]).all()
        lone = first[30] - 0.1
        np.testing.assert_allclose(whole[30], lone, rtol=1e-12)


@pytest.mark.parametrize("consistency", [BSP(), SSP(2), BAP(), TAP()], ids=["bsp", "ssp", "bap", "tap"])
def test_no_push_is_lost_or_taken_twice(on_every_rank, consistency):
    def program(comm):
        found = {key: np.empty(5, np.float32) for key in "abc"}
        with KeyValue(comm, {key: np.zeros(5, np.float32) for key in "abc"}, SGD(1.0), consistency) as store:
            for number in range(10):
                for key in found:
                    store.push(key, np.full(5, -1.0 - comm.rank, np.float32), priority=number % 3)
            store.flush()
            comm.barrier()
            pulls = [store.start_pull(key, out, priority=-1) for key, out in found.items()]
            for pull in pulls:
                pull.wait()
        return comm.size, found

    for size, found in on_every_rank(program):
        for out in found.values():
            assert (out == 10 * size * (size + 1) / 2).all()


def test_a_rank_that_pushes_less_holds_nobody_up_once_it_has_closed(on_every_rank):
    def program(comm):
        with KeyValue(comm, {"a": np.zeros(3)}, SGD(1.0), BSP()) as store:
            for _ in range(comm.rank + 1):
                store.push("a", np.full(3, -1.0))
            out = np.empty(3)
            if comm.rank == comm.size - 1:
                store.pull("a", out)
        return comm.rank == comm.size - 1, comm.size, out

    for last, size, out in on_every_rank(program):
        if last:
            assert (out == size * (size + 1) / 2).all()


def test_late_pushes_are_corrected_if_asked(on_every_rank):
    def program(comm):
        with KeyValue(comm, {"a": np.zeros(4)}, SGD(1.0), BAP(), compensation=0.5) as store:
            out = np.empty(4)
            store.pull("a", out)
            comm.barrier()
            if comm.rank == 0:
                store.push("a", np.full(4, -2.0))
                store.push("a", np.full(4, -1.0))  # it has not read the first: g + 0.5 g g (2 - 0) = 0
                store.pull("a", out)
            comm.barrier()
        return comm.rank, out

    for rank, out in on_every_rank(program):
        assert (out == (2.0 if rank == 0 else 0.0)).all()


def test_what_does_not_fit_is_refused(on_every_rank):
    def program(comm):
        for problem, options in {
            "LARS looks": (LARS(0.1), BSP()),
            "no significance filter": (SGD(0.1), ASP()),
        }.items():
            with pytest.raises(ConfigError, match=problem):
                KeyValue(comm, {"a": np.zeros(3)}, *options)
        with pytest.raises(ConfigError, match="no regions"):
            KeyValue(comm, {"a": np.zeros(3)}, SGD(0.1), ASP(0.0, 3, regions=2))
        for late, compensation in ((BSP(), 0.1), (TAP(), float("nan")), (TAP(), float("inf"))):
            with pytest.raises(ConfigError, match="late gradients"):
                KeyValue(comm, {"a": np.zeros(3)}, SGD(0.1), late, compensation)
        with pytest.raises(ShapeError, match="int64"):
            KeyValue(comm, {"a": np.zeros(3, np.int64)}, SGD(0.1))
        if comm.size > 1:
            with pytest.raises(DisagreementError, match="table of a"):
                KeyValue(comm, {"a": np.full(3, comm.rank, float)}, SGD(0.1))
            for rule, consistency in ((SGD(0.1 + comm.rank), BSP()), (SGD(0.1), SSP(comm.rank))):
                with pytest.raises(DisagreementError, match="rule, consistency and compensation"):
                    KeyValue(comm, {"a": np.zeros(3)}, rule, consistency)
        with KeyValue(comm, {"a": np.zeros((4, 2))}, SGD(0.1)) as store:
            with pytest.raises(ShapeError, match="no table 'b'"):
                store.push("b", np.zeros(3))
            with pytest.raises(ShapeError, match=r"expected float64 of shape \(4, 2\), got float32 of shape \(4, 2\)"):
                store.push("a", np.zeros((4, 2), np.float32))
            for rows in ([2, 1], [1, 1], [-1, 1], [1, 4], [], [0.5]):
                with pytest.raises(ShapeError, match="ascending and each once"):
                    store.push("a", np.zeros((len(rows), 2)), rows=np.array(rows))
            with pytest.raises(ShapeError, match="C-contiguous"):
                store.pull("a", np.empty((4, 4))[:, ::2])
            first = store.start_pull("a", np.empty((4, 2)))
            with pytest.raises(CommError, match="wait"):
                store.start_pull("a", np.empty((4, 2)))
            first.wait()
        for use in (lambda: store.push("a", np.zeros((4, 2))), lambda: store.pull("a", np.empty((4, 2)))):
            with pytest.raises(CommError, match="the store is closed; push and pull before"):
                use()
        store.close()
        return True

    assert all(on_every_rank(program))


@pytest.mark.parametrize("consistency", [BSP(), SSP(1), TAP()], ids=["bsp", "ssp", "tap"])
@pytest.mark.parametrize("width", [1, 3])
def test_a_rank_without_rows_takes_its_part_in_a_clock_and_moves_nothing(on_every_rank, consistency, width):
    def program(comm):
        shape = (4, width) if width > 1 else (4,)
        with KeyValue(comm, {"a": np.zeros(shape)}, SGD(1.0, momentum=0.5), consistency) as store:
            for clock in range(3):  # in the last one nobody has rows
                rows = np.array([1] if comm.rank == clock == 0 else [], np.int64)
                store.push("a", np.ones((rows.size, *shape[1:])), rows=rows)
            store.flush()
            comm.barrier()
            out, nothing = np.empty(shape), np.empty((0, *shape[1:]))
            store.pull("a", out)
            store.pull("a", nothing, rows=np.array([], np.int64))
        return out

    for out in on_every_rank(program):
        assert (out[1] == -1).all()
        assert not out[[0, 2, 3]].any()


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_a_push_that_is_not_finite_is_refused_by_key_and_worker_and_the_table_stays(on_every_rank, bad):
    def program(comm):
        with KeyValue(comm, {"a": np.ones((4, 2)), "b": np.ones(3)}, SGD(1.0)) as store:
            wrong = np.array([[0.0, 1.0], [bad, 2.0]])
            with pytest.raises(NumericsError, match=rf"worker {comm.rank} .*pushed {bad} to table 'a' at \[3, 0\], and 1 of 4"):
                store.push("a", wrong, rows=np.array([1, 3]))
            with pytest.raises(NumericsError, match=r"table 'b' at \[2\]"):
                store.push("b", np.array([0.0, 0.0, bad]))
            store.push("b", np.array([1e308, 1e308, 0.0]) / comm.size)  # finite, though its sum is not
            store.push("a", np.zeros((4, 2)))
            a, b = np.empty((4, 2)), np.empty(3)
            store.pull("a", a)
            store.pull("b", b)
        return a, b

    for a, b in on_every_rank(program):
        assert (a == 1).all()
        assert np.isfinite(b).all()


def test_a_pull_that_is_waited_for_twice_returns_and_leaves_the_array(on_every_rank):
    def program(comm):
        with KeyValue(comm, {"a": np.ones(3)}, SGD(1.0), TAP()) as store:
            out = np.empty(3)
            pull = store.start_pull("a", out)
            pull.wait()
            came = out.copy()
            out.fill(7)
            pull.wait()
        return came, out

    for came, out in on_every_rank(program):
        assert (came == 1).all()
        assert (out == 7).all()


@given(st.lists(st.integers(1, 100), max_size=20), st.integers(1, 6))
def test_tables_are_dealt_so_that_no_rank_holds_much_more(nbytes, ranks):
    homes = deal_tables(nbytes, ranks)
    held = [sum(n for n, home in zip(nbytes, homes, strict=True) if home == rank) for rank in range(ranks)]
    assert max(held) <= sum(nbytes) / ranks + max(nbytes, default=0)


@given(st.lists(st.one_of(st.none(), st.sets(st.integers(0, 7))), min_size=1, max_size=5), st.integers(1, 3))
def test_the_sum_by_rows_is_that_of_whole_tables_with_zeros(written, width):
    sums = RowSum(len(written), 8 * width, np.dtype(float), lambda rows: (rows[:, None] * width + np.arange(width)).reshape(-1))
    for _ in range(2):
        expected = np.zeros((8, width))
        for worker, rows in enumerate(written):
            values = numbers(worker, 8, width)
            where = None if rows is None else np.array(sorted(rows), np.int64)
            sums.put(worker, (values if where is None else values[where]).reshape(-1), where)
            expected[slice(None) if where is None else where] += values if where is None else values[where]
        total, union = sums.take()
        if None in written:
            assert union is None
        else:
            np.testing.assert_array_equal(union, sorted(set().union(*written)))
            expected = expected[union]
        np.testing.assert_allclose(total.reshape(-1, width), expected, rtol=1e-12, atol=1e-12)


def test_it_is_a_public_name():
    assert hpcml.KeyValue is KeyValue
