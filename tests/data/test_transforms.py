"""Transforms do to a batch what they do to each row alone, whoever draws."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcml.data import Loader, Sampler, ShardedDataset, open_shards
from hpcml.data.transforms import Cast, Crop, Draw, Flip, Function, Noise, OneHot, Pipeline, Scale, Standardise
from hpcml.errors import ConfigError

SHAPE = (2, 6, 5)


def shifted(x, y, draw):
    """A user's own function: adds the row's own random number to its features."""
    if draw is not None:
        x = x + draw.uniform("own", 1).astype(x.dtype)[:, :, None, None]
    return x[:, :1], y


STEPS = {
    "cast": Cast("float16"),
    "scale": Scale(2.0, -1.0),
    "standardise": Standardise(np.full(SHAPE, 2.0), np.full(SHAPE, 4.0)),
    "one-hot": OneHot(7),
    "crop": Crop(4, 3),
    "flip": Flip(-1),
    "flip rows": Flip(1, 0.3),
    "noise": Noise(0.5),
    "function": Function(f"{__name__}:shifted"),
}


def batch(rows):
    x = np.random.default_rng(0).random((100, *SHAPE), np.float32)[rows]
    return x, np.asarray(rows) % 7


@pytest.fixture(autouse=True)
def _this_file_can_be_imported(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or __import__("types").ModuleType(__name__))
    monkeypatch.setattr(sys.modules[__name__], "shifted", shifted, raising=False)


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
@given(rows=st.lists(st.integers(0, 99), min_size=1, max_size=9, unique=True), epoch=st.none() | st.integers(0, 3))
def test_a_row_comes_out_the_same_alone_and_in_any_batch(step, rows, epoch):
    pipeline = Pipeline([step], seed=7)
    shape_x, shape_y = pipeline.shapes(SHAPE, ())
    x, y = pipeline.apply(*batch(rows), np.array(rows), epoch)
    assert x.shape == (len(rows), *shape_x)
    assert y.shape == (len(rows), *shape_y)
    assert x.dtype == np.float32
    for k, row in enumerate(rows):
        alone_x, alone_y = pipeline.apply(*batch([row]), np.array([row]), epoch)
        np.testing.assert_array_equal(alone_x[0], x[k])
        np.testing.assert_array_equal(alone_y[0], y[k])


def test_each_does_what_its_name_says():
    rows = np.arange(100)
    x, y = batch(rows)
    out = {name: Pipeline([step], 7).apply(x.copy(), y.copy(), rows, 0)[0] for name, step in STEPS.items()}
    np.testing.assert_array_equal(out["cast"], x.astype("f2").astype("f4"))
    np.testing.assert_allclose(out["scale"], 2 * x - 1, rtol=1e-6)
    np.testing.assert_allclose(out["standardise"], (x - 2) / 4, rtol=1e-6)
    np.testing.assert_array_equal(OneHot(7).apply(x, y, None)[1], np.eye(7)[y])
    assert 30 < sum((a == b[..., ::-1]).all() for a, b in zip(out["flip"], x, strict=True)) < 70
    assert abs((out["noise"] - x).std() - 0.5) < 0.01
    for a, b in zip(out["crop"], x, strict=True):
        places = [(i, j) for i in range(3) for j in range(3) if (a == b[:, i : i + 4, j : j + 3]).all()]
        assert len(places) == 1
    np.testing.assert_array_equal(Pipeline([STEPS["crop"]]).apply(x.copy(), y)[0], x[:, :, 1:5, 1:4])


def test_epochs_seeds_and_purposes_draw_apart_and_evenly():
    rows = np.arange(20_000)
    draws = [Draw(s, e, rows).uniform(p, 2) for s, e, p in ((7, 0, "a"), (7, 1, "a"), (8, 0, "a"), (7, 0, "b"))]
    columns = np.concatenate(draws, axis=1)
    assert np.abs(np.corrcoef(columns.T) - np.eye(8)).max() < 0.04
    assert np.abs(np.histogram(columns, 20, (0, 1))[0] / columns.size - 0.05).max() < 0.003
    normal = Draw(7, 0, rows).normal("a", 2)
    assert abs(normal.mean()) < 0.02
    assert abs(normal.std() - 1) < 0.02


def test_classes_outside_become_nan_which_is_refused_later():
    assert np.isnan(OneHot(3).apply(np.ones((1, 1), "f4"), np.array([3]), None)[1]).all()


@pytest.mark.parametrize(
    ("step", "x", "y", "words"),
    [
        (Crop(7, 3), SHAPE, (), "crop to 7 x 3"),
        (Crop(2, 2), (64,), (), "does not fit"),
        (OneHot(3), SHAPE, (2,), "one whole number"),
        (OneHot(0), SHAPE, (), "number of classes"),
        (Flip(3), SHAPE, (), "no axis 3"),
        (Flip(1, 1.5), SHAPE, (), "probability is 1.5"),
        (Noise(-0.1), SHAPE, (), "deviation is -0.1"),
        (Noise(float("nan")), SHAPE, (), "deviation is nan"),
        (Standardise(np.ones(3), np.ones(3)), SHAPE, (), "compute them again"),
        (Function("nowhere:f"), SHAPE, (), "cannot be imported"),
    ],
)
def test_transforms_that_do_not_fit_are_refused_before_the_first_row(step, x, y, words):
    with pytest.raises(ConfigError, match=words):
        Pipeline([step]).shapes(x, y)


def test_the_loader_transforms_alike_for_any_workers_and_reading_is_evaluation(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"], file["y"] = batch(np.arange(100))
    pipeline = Pipeline([STEPS["flip"], STEPS["noise"], STEPS["crop"], STEPS["one-hot"]], 7)
    data = ShardedDataset(open_shards(tmp_path / "a.h5").index, pipeline)
    assert (data.x.shape, data.y.shape) == ((2, 4, 3), (7,))
    found = []
    for workers in (1, 3):
        rows = {}
        for parts in Loader(data, Sampler(data.shard_rows, 9, workers, 7, block=4, window=3), range(workers)).batches(2):
            for part in parts:
                assert part.x.ctypes.data % 64 == 0 or not part.x.size
                rows |= {row: (x.tobytes(), y.tobytes()) for row, x, y in zip(part.rows.tolist(), part.x, part.y, strict=True)}
        found.append(rows)
    assert found[0] == found[1]
    assert len(found[0]) == 100
    x, y = np.empty((5, 2, 4, 3), np.float32), np.empty((5, 7), np.float32)
    data.read(10, 15, x, y)
    np.testing.assert_array_equal(x, batch(np.arange(10, 15))[0][:, :, 1:5, 1:4])
    np.testing.assert_array_equal(y, np.eye(7)[np.arange(10, 15) % 7])
    data.close()


def test_two_flips_draw_apart():
    x = np.arange(4, dtype=np.float32).reshape(1, 2, 2).repeat(400, axis=0)
    found, _ = Pipeline([Flip(-1), Flip(-2)], 3).apply(x.copy(), None, np.arange(400), 0)
    corners = np.bincount(found[:, 0, 0].astype(int), minlength=4)
    assert (corners > 70).all(), corners


def test_a_function_that_loses_rows_is_named(monkeypatch):
    import sys

    monkeypatch.setattr(sys.modules[__name__], "losing", lambda x, y, draw: (x[: max(1, len(x) - 1)], y), raising=False)
    step = Function(f"{__name__}:losing")
    with pytest.raises(ConfigError, match=r"losing.* was given 5 rows and returned 4 rows of features and 5 of the target"):
        Pipeline([step]).apply(np.zeros((5, 2), np.float32), np.zeros(5, np.int64))
