from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcml.arrays import Device
from hpcml.errors import ShapeError
from hpcml.nn import Arena, Tail

SHAPES = {"a.weight": (5, 3), "a.bias": (3,), "b.weight": (3, 2), "b.bias": (2,)}
LAYOUTS = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple), min_size=1, max_size=8)


@pytest.fixture
def arena(xp):
    return Arena(SHAPES, np.float32, Device() if xp is np else Device(0))


def test_every_parameter_is_a_view_of_the_vectors(arena, xp):
    assert arena.n == 5 * 3 + 3 + 3 * 2 + 2
    arena.data[:] = xp.arange(arena.n)
    arena.grad[:] = -xp.arange(arena.length)
    for name, shape in SHAPES.items():
        p = arena.view(name)
        assert p.data.shape == p.grad.shape == shape
        assert bool((p.data.reshape(-1) == arena.data[p.span]).all())
        assert bool((p.grad.reshape(-1) == arena.grad[p.span]).all())
        p.data += 1
        assert bool((p.data.reshape(-1) == arena.data[p.span]).all())


def test_pointing_elsewhere_moves_every_view_and_forgets_nothing(arena, xp):
    first, second = arena.data, arena.vector()
    second[:] = 7
    arena.point(data=second)
    assert all(bool((p.data == 7).all()) for p in arena)
    arena.view("b.bias").data[:] = 9
    assert bool((second[-2:] == 9).all())
    assert bool((first == 0).all())
    gradient = arena.vector(tail=True)
    arena.point(grad=gradient)
    arena.tail[Tail.WEIGHT] = 5
    assert float(gradient[arena.n]) == 5
    assert arena.data is second


@pytest.mark.parametrize(("side", "length", "dtype"), [("data", 27, "f4"), ("grad", 26, "f4"), ("data", 26, "f8"), ("grad", 31, "f8")])
def test_a_vector_that_does_not_fit_is_refused(side, length, dtype):
    with pytest.raises(ShapeError, match=rf"arena {side} has shape .* got \({length},\)"):
        Arena(SHAPES).point(**{side: np.zeros(length, dtype)})


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ShapeError, match=r"no parameter 'c'; the arena has a\.weight, a\.bias"):
        Arena(SHAPES).view("c")


def test_the_tail_holds_one_number_for_each_meaning(arena):
    assert len(arena.tail) == len(Tail) == arena.length - arena.n
    assert sorted(Tail) == list(range(len(Tail)))


@given(LAYOUTS, st.integers(1, 4000))
def test_buckets_cover_the_parameters_from_the_last_to_the_first(shapes, nbytes):
    arena = Arena({str(k): shape for k, shape in enumerate(shapes)})
    buckets = arena.buckets(nbytes)
    assert buckets[0].stop == arena.n
    assert buckets[-1].start == 0
    assert all(later.start == earlier.stop for later, earlier in itertools.pairwise(buckets))
    starts = {p.span.start for p in arena}
    for bucket in buckets:
        assert bucket.start in starts
        first = arena.view(next(p.name for p in arena if p.span.start == bucket.start and p.span.stop > bucket.start))
        assert (bucket.stop - bucket.start) * 4 >= nbytes or bucket.start == 0
        assert (bucket.stop - first.span.stop) * 4 < nbytes


@given(LAYOUTS, LAYOUTS)
def test_fingerprints_are_equal_exactly_where_layouts_are(one, other):
    first, second = (Arena({str(k): shape for k, shape in enumerate(shapes)}) for shapes in (one, other))
    assert (first.fingerprint() == second.fingerprint()) == (one == other)


def test_fingerprints_tell_dtypes_and_names_apart():
    kinds = [Arena({"w": (2,)}), Arena({"w": (2,)}, np.float64), Arena({"v": (2,)}), Arena({"w": (2, 1)}), Arena({"w": (1,), "v": (1,)})]
    assert len({arena.fingerprint() for arena in kinds}) == len(kinds)


def test_host_vectors_start_on_a_cache_line():
    arena = Arena(SHAPES)
    assert arena.data.ctypes.data % 64 == arena.grad.ctypes.data % 64 == 0
