from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcml.arrays import spans
from hpcml.comm import simulated
from hpcml.comm.alone import Alone
from hpcml.comm.choice import automatic
from hpcml.nn import Arena, Tail
from hpcml.sync import SUMS, Auto, Nodes
from hpcml.sync.crossing import sliced, whole
from hpcml.sync.node_sum import NodeSum
from hpcml.sync.reducers import RoadSum, TreeSum
from hpcml.sync.synchroniser import divide
from hpcml.sync.tree import halves
from tests.laws import ReducerLaws


def fold(vectors, node=None):
    """The sum as the tree says it, written plainly."""
    node = node or (0, len(vectors))
    if node[1] - node[0] == 1:
        return vectors[node[0]]
    left, right = halves(node)
    return fold(vectors, left) + fold(vectors, right)


def vectors(seed, workers, length, dtype=np.float32):
    """Numbers of very different sizes, so that another order of adding gives other bits."""
    random = np.random.default_rng([seed, workers, length])
    return (random.standard_normal((workers, length)) * 10.0 ** random.integers(-4, 5, (workers, length))).astype(dtype)


class TreeLaws(ReducerLaws):
    """What the exact tree does beyond other reducers, whatever road crosses the ranks."""

    road = None

    def make(self, nodes, workers, n, tail, dtype, xp):
        comm = nodes.order
        reducer = TreeSum(comm, workers, n, tail, dtype, xp)
        if comm.size > 1 and self.road is not None:
            reducer._across = self.road(comm, spans(workers, comm.size), n + tail, dtype, xp)
        return reducer

    def test_the_bits_are_those_of_the_tree_folded_plainly(self, on_every_rank):
        def program(comm):
            for workers in range(comm.size, 18):
                x = vectors(0, workers, 13)
                for sign, total in zip((1, -1), self.totals(comm, x, rounds=2), strict=True):
                    np.testing.assert_array_equal(total, sign * fold(x))

        on_every_rank(program)

    @pytest.mark.parametrize("workers", range(1, 18))
    def test_every_number_of_ranks_gives_the_same_bits(self, workers):
        x = vectors(1, workers, 29)
        (expected,) = self.totals(Alone(), x)
        for ranks in range(1, workers + 1):
            for first, again, third in simulated.run(ranks, lambda comm: self.totals(comm, x, rounds=3)):
                assert first.tobytes() == third.tobytes() == expected.tobytes()
                assert again.tobytes() == (-expected).tobytes()


class TestTheTreeByWholeVectors(TreeLaws):
    road = staticmethod(whole)


class TestTheTreeBySlices(TreeLaws):
    road = staticmethod(sliced)


@pytest.fixture(scope="class")
def small_blocks():
    """Blocks so short that a test's vector has several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hpcml.sync.buckets.BLOCK", 7)
        patch.setattr("hpcml.sync.reducers.BLOCK", 5)
        yield


@pytest.mark.usefixtures("small_blocks")
class TestTheTreeThroughTheNodesMemory(TreeLaws):
    apart = False

    def make(self, nodes, workers, n, tail, dtype, xp):
        if xp is not np:
            pytest.skip("a device has no memory that ranks share")
        cut = [slice(n - 1, n), slice(n // 3, n - 1), slice(0, n // 3)] if n > 1 else None
        return NodeSum(Nodes(nodes.order, apart=True) if self.apart else nodes, workers, n, tail, dtype, 1, cut)

    @pytest.mark.parametrize("hosts", ["ab", "aab", "abb", "aba", "abab", "aabb", "aaab", "abcab", "aabbcc"])
    @pytest.mark.parametrize("threshold", [0, 10**9])
    def test_any_map_of_ranks_to_nodes_gives_the_same_bits(self, monkeypatch, hosts, threshold):
        monkeypatch.setattr("hpcml.sync.crossing.SLICED_FROM", threshold)
        for workers in (len(hosts), len(hosts) + 1, 13):
            x = vectors(6, workers, 41)
            for found in simulated.run(len(hosts), lambda comm, x=x: self.totals(comm, x, rounds=3), list(hosts)):
                for sign, total in zip((1, -1, 1), found, strict=True):
                    np.testing.assert_array_equal(total, sign * fold(x))


class TestTheTreeWithEveryRankANodeOfItsOwn(TestTheTreeThroughTheNodesMemory):
    apart = True


class TestTheTreeThatChoosesItsRoad(TreeLaws):
    def test_long_vectors_are_sliced_and_short_ones_are_not(self, monkeypatch):
        taken = []
        for name, road in (("whole", whole), ("sliced", sliced)):
            monkeypatch.setattr(f"hpcml.sync.crossing.{name}", lambda *args, name=name, road=road: taken.append(name) or road(*args))
        monkeypatch.setattr("hpcml.sync.crossing.SLICED_FROM", 10)
        for length in (19, 20):
            simulated.run(2, lambda comm, length=length: self.totals(comm, vectors(3, 4, length)))
        assert taken == ["whole", "whole", "sliced", "sliced"]

    def test_vectors_above_the_true_threshold_have_the_trees_bits(self):
        x = vectors(4, 3, 3 * 16_384 + 5)
        for (total,) in simulated.run(3, lambda comm: self.totals(comm, x)):
            np.testing.assert_array_equal(total, fold(x))


@settings(max_examples=150)
@given(st.data(), st.sampled_from([whole, sliced]), st.integers(1, 40), st.integers(0, 50), st.sampled_from([np.float32, np.float64]))
def test_whatever_the_workers_ranks_and_length_the_bits_are_the_trees(data, road, workers, length, dtype):
    ranks = data.draw(st.integers(1, min(workers, 9)))
    x = vectors(2, workers, length, dtype)
    laws = TreeLaws()
    laws.road = road
    for (total,) in simulated.run(ranks, lambda comm: laws.totals(comm, x)):
        np.testing.assert_array_equal(total, fold(x))


class RoadLaws(ReducerLaws):
    """What any all-reduce does as a road over the ranks."""

    name = ""

    def make(self, nodes, workers, n, tail, dtype, xp):
        return RoadSum(nodes.order, workers, n, tail, dtype, xp, SUMS[self.name].road)

    def test_it_agrees_with_the_tree_to_rounding(self, on_every_rank):
        def program(comm):
            x = np.random.default_rng(5).standard_normal((8, 77))
            (total,) = self.totals(comm, x)
            np.testing.assert_allclose(total, fold(x), rtol=0, atol=1e-13)

        on_every_rank(program)


class TestTheLibrarysAllReduce(RoadLaws):
    name = "all-reduce"


class TestTheRing(RoadLaws):
    name = "ring"


class TestTheBinaryTreeOfRanks(RoadLaws):
    name = "binary-tree"


class TestRecursiveDoubling(RoadLaws):
    name = "doubling"


class TestTheDoubleTree(RoadLaws):
    name = "double-tree"


class TestHalvingAndDoubling(RoadLaws):
    name = "halving"


class TestTwoLevels(RoadLaws):
    name = "two-level"


class TestLanes(RoadLaws):
    name = "lanes"


def test_every_named_sum_has_its_laws_here():
    assert set(SUMS) == {"tree"} | {laws.name for laws in RoadLaws.__subclasses__()}


def test_the_mean_divides_in_place_and_keeps_the_dtype():
    total = np.array([2.0, 4.0], np.float32)
    divide(total, 4.0)
    assert total.tolist() == [0.5, 1.0]
    assert total.dtype == np.float32


def test_a_node_without_room_falls_back_whole_and_says_why(monkeypatch):
    monkeypatch.setattr("hpcml.comm.simulated.SimulatedCommunicator.shared_blocks", lambda self, nbytes: None)
    monkeypatch.setattr("hpcml.comm.simulated.SimulatedCommunicator.shortage", "no room here")
    x = vectors(7, 4, 20)

    def program(comm):
        nodes, arena = Nodes(comm), Arena({"w": (20 - len(Tail),)})
        reducer = SUMS["tree"].reducer(nodes, 4, arena, 1)
        run = spans(4, comm.size)[comm.rank]
        for worker in range(run.start, run.stop):
            reducer.buffer()[:] = x[worker]
            reducer.add()
        reducer.finish()
        return nodes.note, np.concatenate([part.copy() for _, part in reducer.parts()])

    for note, found in simulated.run(2, program):
        assert note == "each rank keeps gradients of its own: no room here"
        np.testing.assert_array_equal(found, fold(x)[: -len(Tail)])


def test_a_run_hears_of_a_node_without_room_on_every_rank_and_auto_takes_its_road(monkeypatch):
    real = simulated.SimulatedCommunicator.shared_blocks
    monkeypatch.setattr(
        "hpcml.comm.simulated.SimulatedCommunicator.shared_blocks", lambda self, nbytes: None if self.host == "b" else real(self, nbytes)
    )
    monkeypatch.setattr("hpcml.comm.simulated.SimulatedCommunicator.shortage", property(lambda self: f"no room on {self.host}"))

    def program(comm):
        nodes, said = Nodes(comm), []
        way = Auto(automatic(None, said.append), say=said.append)
        reducer = way.reducer(nodes, 4, Arena({"w": (20,)}), 1)
        return nodes.note, said, type(reducer)

    for note, said, kind in simulated.run(4, program, hosts=["a", "a", "b", "b"]):
        assert note == "each rank keeps gradients of its own: no room on b"
        assert kind is RoadSum
        assert said == [f"auto: all-reduce (below 16 KB) for {4 * (20 + len(Tail))} bytes on 4 ranks"]


def test_auto_says_that_it_takes_the_nodes_memory():
    def program(comm):
        said = []
        reducer = Auto(automatic(None, said.append), say=said.append).reducer(Nodes(comm), 2, Arena({"w": (20,)}), 1)
        return type(reducer), said

    assert simulated.run(2, program) == [(NodeSum, ["auto: the nodes' shared memory (ranks share a node)"])] * 2


def test_one_rank_that_has_no_memory_for_itself_does_not_fall_back_alone(monkeypatch):
    def full(*args):
        raise MemoryError("private")

    monkeypatch.setattr("hpcml.sync.synchroniser.NodeSum", full)
    with pytest.raises(MemoryError, match="private"):
        SUMS["tree"].reducer(Nodes(Alone()), 2, Arena({"w": (20,)}), 1)
