"""On a device the host reads no number within a worker's pass: what is wrong is counted in the tail, and explained when that is summed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import hpcml
from hpcml.arrays import aligned, fused
from hpcml.comm import simulated
from hpcml.errors import DataError, NumericsError
from hpcml.nn import FLOAT16, Dense, Model, Tail, Workspace, transformer
from hpcml.nn.losses.classes import softmax_cross_entropy
from hpcml.nn.losses.tokens import token_cross_entropy
from hpcml.train.differentiation import Differentiator
from hpcml.train.scaling import Scaler
from tests.arrays.host_blocks import compile_kernels
from tests.small import CLASSES, WIDTH, rows, write_shard
from tests.train.unread import Unread, read, unread


@pytest.fixture(scope="module")
def blocks():
    return compile_kernels()


@pytest.fixture
def device(blocks, monkeypatch):
    """Memory that must not be read, and kernels that read it."""
    monkeypatch.setattr(fused, "launch", lambda name, grid, *rest: blocks(name, grid, *map(_plain, rest)))
    monkeypatch.setattr(fused, "fits", lambda *arrays: all(a.dtype == np.float32 and a.flags.c_contiguous for a in arrays))
    for module in ("hpcml.nn.workspace", "hpcml.nn.arena"):
        monkeypatch.setattr(f"{module}.aligned", lambda shape, dtype: unread(aligned(shape, dtype)))


def _plain(x):
    return read(x) if isinstance(x, np.ndarray) else x


def batch(x, y):
    return hpcml.data.Batch(worker=0, rows=np.arange(len(x)), x=unread(x), y=unread(y), error=None)


KINDS = {
    "classes": (lambda: Model([Dense(5), Dense(CLASSES)], (WIDTH,), seed=1), softmax_cross_entropy),
    "tokens": (lambda: transformer(6, layers=1, width=8, heads=2, vocabulary=11), token_cross_entropy),
}


def passed(kind, data, tokens=None, late=True, **options):
    """Return (differentiator, batch, tail) after a worker's pass."""
    make, loss = KINDS[kind]
    if kind == "classes":
        x, y = rows(6)
        y = y if tokens is None else np.where(np.arange(6) == 3, tokens, y)
    else:
        x = np.random.default_rng(0).integers(0, 11, (4, 6)).astype(np.float32)
        if tokens is not None:
            x[2, 1] = tokens
        y = x.astype(np.int64)
    it, rows_ = Differentiator(make(), loss, data, 7, late=late, **options), batch(x, y)
    it._tail = unread(it._tail)
    fault = it.run(rows_, 0, "here", lambda span: None, lambda batch: None)
    assert fault is None
    return it, rows_, read(it.model.arena.tail).copy()


@pytest.fixture
def data(tmp_path):
    write_shard(tmp_path / "train.h5", *rows(9))
    return hpcml.open_shards(str(tmp_path / "train.h5"), features="x", target="y")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("micro_batch", [0, 2])
def test_a_pass_reads_nothing_and_gives_the_gradient_of_one_that_does(device, monkeypatch, data, kind, micro_batch):
    it, _, tail = passed(kind, data, micro_batch=micro_batch)
    found = read(it.model.arena.grad).copy()
    monkeypatch.undo()
    make, loss = KINDS[kind]
    host = Differentiator(make(), loss, data, 7, micro_batch)
    x, y = rows(6)
    if kind == "tokens":
        x = np.random.default_rng(0).integers(0, 11, (4, 6)).astype(np.float32)
        y = x.astype(np.int64)
    host.run(replace(batch(x, y), x=x, y=y), 0, "here", lambda span: None, lambda batch: None)
    np.testing.assert_allclose(found, host.model.arena.grad, rtol=1e-3, atol=1e-4)
    assert tail[Tail.FAULTS] == 0
    assert tail[Tail.ROWS] == len(x)


def test_an_overflow_is_found_unread(device, data):
    with np.errstate(all="ignore"):
        *_, tail = passed("classes", data, scaler=Scaler(replace(FLOAT16.scaling, first=3e38)))
    assert tail[Tail.FAULTS] == 1
    assert np.isfinite(tail[Tail.LOSS])


@pytest.mark.parametrize(
    ("kind", "wrong", "words"),
    [
        ("classes", 99, r"targets \[99\] are outside the classes 0 to 2.*first at .*train\.h5 row 3"),
        ("classes", -1, r"targets \[-1\] are outside"),
        ("tokens", 11, r"the token 11 at position 1 is outside the vocabulary 0 to 10.*row 2"),
        ("tokens", 1.5, r"tokens are whole numbers; a row holds another.*row 2"),
    ],
)
def test_what_is_wrong_is_a_fault_in_the_tail_and_explained_when_asked(device, monkeypatch, data, kind, wrong, words):
    it, rows_, tail = passed(kind, data, wrong)
    assert tail[Tail.FAULTS] == 1
    monkeypatch.setattr(Unread, "allowed", True)
    error = it.explain(rows_, 0, "here")
    with pytest.raises(DataError, match=words):
        raise error
    assert it.late


def test_rows_without_fault_have_nothing_to_explain(device, monkeypatch, data):
    it, rows_, _ = passed("classes", data)
    monkeypatch.setattr(Unread, "allowed", True)
    assert it.explain(rows_, 0, "here") is None


@pytest.mark.parametrize("spare", [0, 1])
def test_a_run_told_late_says_the_same_as_one_told_at_once(tmp_path, spare):
    """On the host: the trainer asks for the explanation before a parameter moves."""
    x, y = rows(61)
    x[7] = 3e38
    write_shard(tmp_path / "train.h5", x, y)

    def program(comm, late):
        model = Model([Dense(5), Dense(CLASSES)], (WIDTH,), seed=1)
        shards = hpcml.open_shards(str(tmp_path / "train.h5"), features="x", target="y")
        it = hpcml.Trainer(
            model, softmax_cross_entropy, hpcml.SGD(0.1), hpcml.EveryStep(spare=spare), shards, batch=16, workers=4, comm=comm, hooks=[]
        )
        it.differentiator.late = it.differentiator._work.late = late
        with pytest.raises(NumericsError) as caught:
            it.run(1)
        return str(caught.value), model.arena.data.tobytes()

    assert simulated.run(2, lambda comm: program(comm, True)) == simulated.run(2, lambda comm: program(comm, False))


def test_a_loss_asked_to_wait_reads_its_targets(device):
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(AssertionError, match="would wait"):
        softmax_cross_entropy(unread(x), unread(np.array([0, 1])), Workspace())
