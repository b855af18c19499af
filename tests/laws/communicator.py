"""What every Communicator does."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from hpcml.comm import Communicator, Op
from hpcml.errors import CommError, ConfigError, DisagreementError, ShapeError
from tests.laws.numbers import numbers

DTYPES = ("float16", "float32", "float64", "int32", "int64", "uint8", "bool")
SHAPES = ((), (0,), (1,), (7,), (4, 3))
NUMPY_OF = {Op.SUM: np.add, Op.MIN: np.minimum, Op.MAX: np.maximum}


def raise_if(condition: bool, error: Exception) -> None:
    if condition:
        raise error


class CommunicatorLaws:
    """What every Communicator does; `make(comm)` returns the one under test on this rank of a world."""

    def make(self, comm: Communicator) -> Communicator:
        return comm

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_all_reduce_is_numpys_fold_over_the_ranks(self, on_every_rank, dtype):
        def program(world):
            comm = self.make(world)
            for shape, seed in product(SHAPES, (0, 100)):
                rows = np.stack([numbers(seed + r, shape, dtype) for r in range(comm.size)])
                for op in Op:
                    x = np.array(rows[comm.rank])
                    comm.all_reduce(x, op)
                    np.testing.assert_array_equal(x, NUMPY_OF[op].reduce(rows, axis=0, dtype=dtype))

        on_every_rank(program)

    def test_small_numbers_are_not_lost_beside_large_ones_of_sixteen_bits(self, on_every_rank):
        def program(world):
            comm = self.make(world)
            x = np.array([2048 if comm.rank == 0 else 1], np.float16)
            comm.all_reduce(x)
            assert x[0] == np.float16(2048 + comm.size - 1)

        on_every_rank(program)

    def test_all_reduce_leaves_the_same_bits_on_all_ranks(self, on_every_rank):
        def program(world):
            comm = self.make(world)
            x = np.random.default_rng(comm.rank).standard_normal(97).astype(np.float32)
            comm.all_reduce(x)
            comm.agree(x.tobytes(), "the sum")

        on_every_rank(program)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_all_gather_stacks_the_ranks(self, on_every_rank, dtype):
        def program(world):
            comm = self.make(world)
            for shape, seed in product(SHAPES, (0, 100)):
                rows = np.stack([numbers(seed + r, shape, dtype) for r in range(comm.size)])
                out = np.full_like(rows, 77)
                comm.all_gather(np.array(rows[comm.rank]), out)
                np.testing.assert_array_equal(out, rows)

        on_every_rank(program)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_broadcast_copies_every_root(self, on_every_rank, dtype):
        def program(world):
            comm = self.make(world)
            for shape, root in product(SHAPES, [*range(comm.size), 0]):
                x = np.array(numbers(comm.rank, shape, dtype))
                comm.broadcast(x, root)
                np.testing.assert_array_equal(x, numbers(root, shape, dtype))

        on_every_rank(program)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_exchange_passes_vectors_around_a_ring(self, on_every_rank, dtype):
        def program(world):
            comm = self.make(world)
            if comm.size == 1:
                return
            after, before = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
            for n in (5, 0, 1):
                mine, into = numbers(comm.rank, n, dtype), np.zeros(n, dtype)
                comm.exchange(mine, after, into, before)
                np.testing.assert_array_equal(into, numbers(before, n, dtype))
                np.testing.assert_array_equal(mine, numbers(comm.rank, n, dtype))

        on_every_rank(program)

    def test_an_exchange_may_leave_out_either_half(self, on_every_rank):
        def program(world):
            comm = self.make(world)
            comm.exchange(None, None, None, None)
            for target in range(1, comm.size):
                if comm.rank == 0:
                    comm.exchange(np.array([target, 7.0]), target, None, None)
                elif comm.rank == target:
                    into = np.zeros(2)
                    comm.exchange(None, None, into, 0)
                    assert into.tolist() == [target, 7.0]

        on_every_rank(program)

    def test_messages_of_one_rank_arrive_in_order(self, on_every_rank):
        def program(world):
            comm = self.make(world)
            if comm.rank == 0:
                for k in range(5):
                    for other in range(1, comm.size):
                        comm.exchange(np.array([k]), other, None, None)
                return
            for k in range(5):
                into = np.zeros(1, np.int64)
                comm.exchange(None, None, into, 0)
                assert into[0] == k

        on_every_rank(program)

    def test_memory_that_is_not_contiguous_is_refused_before_anything_is_sent(self, on_every_rank):
        def program(world):
            comm = self.make(world)
            grid = np.zeros((6, 4))
            with pytest.raises(CommError, match="C-contiguous"):
                comm.all_reduce(grid[:, 1])
            with pytest.raises(CommError, match="C-contiguous"):
                comm.broadcast(grid.T)
            with pytest.raises(CommError, match="C-contiguous"):
                comm.all_gather(np.zeros(3), np.zeros((comm.size * 2, 3))[::2] if comm.size > 1 else np.zeros((1, 6))[:, ::2])
            comm.barrier()

        on_every_rank(program)

    def test_a_gather_into_another_shape_or_dtype_is_refused(self, on_every_rank):
        def program(world):
            comm = self.make(world)
            with pytest.raises(CommError, match="shape"):
                comm.all_gather(np.zeros(3), np.zeros((comm.size, 4)))
            with pytest.raises(CommError, match="float32"):
                comm.all_gather(np.zeros(3, np.float32), np.zeros((comm.size, 3)))
            comm.barrier()

        on_every_rank(program)

    def test_bytes_travel_whatever_their_lengths(self, on_every_rank):
        def program(world):
            comm = self.make(world)
            for k in (0, 3):
                expected = [b"\0" * (k * r) + bytes([r]) * r for r in range(comm.size)]
                assert comm.all_gather_bytes(expected[comm.rank]) == expected
                for root in range(comm.size):
                    assert comm.broadcast_bytes(expected[comm.rank], root) == expected[root]
            assert comm.all_gather_bytes(b"") == [b""] * comm.size

        on_every_rank(program)

    def test_equal_values_agree_in_silence(self, on_every_rank):
        def program(world):
            comm = self.make(world)
            for value in (7, "seven", None, {"a": [1, 2]}, b"\0"):
                comm.agree(value, "a value")
            comm.agree_all({"seed": 7, "rate": 0.1}, "the run's")

        on_every_rank(program)

    @pytest.mark.parametrize("odd", [0, -1])
    def test_a_disagreement_is_raised_on_all_ranks_and_names_both_sides(self, on_every_rank, odd):
        def program(world):
            comm = self.make(world)
            if comm.size == 1:
                return
            different = odd % comm.size
            for _ in range(2):
                with pytest.raises(DisagreementError, match="ranks disagree on the seed") as caught:
                    comm.agree(8 if comm.rank == different else 7, "the seed")
                assert f"8 on rank {different}" in str(caught.value)
                assert "7 on rank" in str(caught.value)
                assert caught.value.everywhere

        on_every_rank(program)

    def test_long_values_that_differ_only_at_their_end_are_still_told_apart(self, on_every_rank):
        def program(world):
            comm = self.make(world)
            if comm.size == 1:
                return
            with pytest.raises(DisagreementError, match=r"on rank 0, .* on rank"):
                comm.agree("x" * 1000 + str(min(comm.rank, 1)), "a long text")

        on_every_rank(program)

    def test_a_disagreement_among_many_values_names_the_one_that_differs(self, on_every_rank):
        def program(world):
            comm = self.make(world)
            if comm.size == 1:
                return
            with pytest.raises(DisagreementError, match="the run's seed: 0 on rank 0, 1 on rank") as caught:
                comm.agree_all({"batch": 64, "seed": min(comm.rank, 1)}, "the run's")
            assert "batch" not in str(caught.value)
            names = {"batch": 64} if comm.rank else {"batch": 64, "more": 1}
            with pytest.raises(DisagreementError, match="names"):
                comm.agree_all(names, "the run's")

        on_every_rank(program)

    @pytest.mark.parametrize("kind", [CommError, ShapeError, ConfigError])
    def test_an_expected_error_on_one_rank_is_raised_on_all(self, on_every_rank, kind):
        def program(world):
            comm = self.make(world)
            last = comm.size - 1
            for _ in range(2):
                with pytest.raises(kind, match="this is wrong") as caught, comm.together():
                    raise_if(comm.rank == last, kind("this is wrong"))
                assert caught.value.everywhere
                assert comm.size == 1 or str(caught.value) == f"rank {last}: this is wrong"

        on_every_rank(program)

    def test_what_all_ranks_say_is_said_once_without_names(self, on_every_rank):
        def program(world):
            comm = self.make(world)
            with pytest.raises(ShapeError) as caught, comm.together():
                raise ShapeError("no layers")
            assert str(caught.value) == "no layers"
            comm.fail_together(None)
            with comm.together():
                pass

        on_every_rank(program)

    def test_ranks_that_fail_differently_are_all_heard(self, on_every_rank):
        def program(world):
            comm = self.make(world)
            with pytest.raises(ConfigError) as caught:
                comm.fail_together(ConfigError(f"number {comm.rank}"))
            for rank in range(min(comm.size, 4)):
                assert f"number {rank}" in str(caught.value)
            assert comm.size <= 4 or "and 1 more" in str(caught.value)

        on_every_rank(program)

    def test_a_failing_file_system_counts_as_expected(self, on_every_rank):
        def program(world):
            comm = self.make(world)
            with pytest.raises(Exception, match="disk full") as caught, comm.together():
                raise_if(comm.rank == 0, OSError("disk full"))
            assert caught.value.everywhere

        on_every_rank(program)

    def test_split_groups_by_color_and_orders_by_key(self, on_every_rank):
        def program(world):
            comm = self.make(world)
            for _ in range(2):
                part = comm.split(comm.rank % 2, key=-comm.rank)
                members = [r for r in reversed(range(comm.size)) if r % 2 == comm.rank % 2]
                assert (part.rank, part.size) == (members.index(comm.rank), len(members))
                out = np.zeros((part.size, 1), np.int64)
                part.all_gather(np.array([comm.rank]), out)
                assert out[:, 0].tolist() == members
            comm.barrier()

        on_every_rank(program)

    def test_ranks_of_one_node_and_places_across_nodes_make_a_grid(self, on_every_rank):
        def program(world):
            comm = self.make(world)
            inside, across = comm.by_node()
            hosts = [h.decode() for h in inside.all_gather_bytes(comm.host.encode())]
            assert set(hosts) == {comm.host}
            places = np.zeros((across.size, 1), np.int64)
            across.all_gather(np.array([inside.rank]), places)
            assert (places == inside.rank).all()
            total = np.array([1.0])
            inside.all_reduce(total)
            assert total[0] == inside.size

        on_every_rank(program)
