"""Passes recorded once and launched again leave the bits of passes that are made anew: on a stand-in that captures numpy's work."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

import hpcml
from hpcml.arrays import aligned, fused, products, to_host
from hpcml.arrays.graph import StraightProducts
from hpcml.errors import ConfigError
from hpcml.nn import (
    BFLOAT16,
    FLOAT16,
    GELU,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    LayerNorm,
    Model,
    ReLU,
    Reshape,
    softmax_cross_entropy,
    token_cross_entropy,
    transformer,
)
from hpcml.nn.arena import Arena
from hpcml.nn.context import Context
from hpcml.nn.layers.layer import Layer
from hpcml.train.graphs import WARM_UP, Graphs, graphs_of
from tests.arrays.blas_in_columns import install
from tests.arrays.host_blocks import compile_kernels
from tests.arrays.recording import HostRecorder, Recorded, note, plain, recorded
from tests.arrays.test_graph import Library
from tests.small import CLASSES, WIDTH, Stop, rows, write_shard

TOKENS = 11


@pytest.fixture
def device(monkeypatch):
    """Memory whose use is noted, and kernels that are."""
    blocks, show = compile_kernels(alone=True), Arena._show

    def launch(name, grid, *given):
        given = [plain(x) for x in given]
        note(lambda: blocks(name, grid, *given))

    monkeypatch.setattr(fused, "launch", launch)
    monkeypatch.setattr(fused, "fits", lambda *arrays: all(a.dtype == np.float32 and a.flags.c_contiguous for a in arrays))
    monkeypatch.setattr(Arena, "_show", lambda self, side, vector, length: show(self, side, recorded(vector), length))
    for module in ("hpcml.nn.workspace", "hpcml.nn.arena", "hpcml.nn.draws", "hpcml.nn.layers.patches"):
        monkeypatch.setattr(f"{module}.aligned", lambda shape, dtype: recorded(aligned(shape, dtype)))
    straight = StraightProducts(7, Library(install(monkeypatch)), lambda: 3, np.zeros(8, np.uint8)).multiply
    monkeypatch.setattr(products, "address", lambda x: plain(x).ctypes.data)
    monkeypatch.setattr(Context, "multiply", property(lambda self: lambda *given: note(lambda: straight(*given)), lambda self, value: None))
    for module in ("sums", "attention"):
        monkeypatch.setattr(f"hpcml.nn.layers.{module}.on_device", lambda x: True)
    monkeypatch.setattr(fused, "PARTS", 2)  # threads are slow to make on the host
    monkeypatch.setattr("hpcml.nn.losses.loss._require_arrays", lambda *given: None)  # which reads weights on the host alone
    monkeypatch.setattr(Recorded, "launches", 0)


@pytest.fixture
def shard(tmp_path):
    """61 rows: batches of 16 for two workers, and one of 13 at the end of an epoch; some rows weigh nothing."""
    x, y = rows(61)
    tokens = np.random.default_rng(0).integers(0, TOKENS, (61, 6))
    write_shard(tmp_path / "train.h5", x, y, t=tokens, w=np.arange(61, dtype=np.float32) % 3)
    return tmp_path / "train.h5"


def mlp():
    return Model([Dense(5), LayerNorm(), GELU(), Dropout(0.3), Dense(5), ReLU(), Dropout(0.2), Dense(CLASSES)], (WIDTH,), seed=1)


def cnn():
    return Model([Reshape(2, 2, 1), Conv(3, 2, padding=1), BatchNorm(), ReLU(), Flatten(), Dense(CLASSES)], (WIDTH,), seed=1)


def gpt():
    return transformer(6, layers=1, width=8, heads=2, vocabulary=TOKENS, dropout=0.2)


KINDS = {
    "dropout": (mlp, softmax_cross_entropy, {}),
    "micro-batches": (mlp, softmax_cross_entropy, {"micro_batch": 5}),
    "batch norm": (cnn, softmax_cross_entropy, {}),
    "weighted rows": (cnn, softmax_cross_entropy, {"weights": "w"}),
    "tokens": (gpt, token_cross_entropy, {}),
    "float16": (mlp, softmax_cross_entropy, {"precision": FLOAT16}),
    "bfloat16": (gpt, token_cross_entropy, {"precision": BFLOAT16}),
}


def trainer(shard, kind, graph, device="cpu", **more):
    """Return a trainer on one rank of two workers, told late as on a device, and its recorder; on a GPU the trainer is as it is made."""
    make, loss, options = KINDS[kind]
    options, recorder = {**options, **more}, HostRecorder()
    model, precision, weights = make(), options.pop("precision", None), options.pop("weights", None)
    if precision is not None:
        model.round(precision)
    tokens = loss is token_cross_entropy
    data = hpcml.open_shards(str(shard), features="t" if tokens else "x", target="t" if tokens else "y", weights=weights)
    options |= {"batch": 16, "workers": 2, "hooks": [], "device": device, "graph": device == "gpu"}
    made = hpcml.Trainer(model, loss, hpcml.SGD(0.1, momentum=0.9), hpcml.EveryStep(), data, **options)
    if device == "gpu":
        return made, None
    it = made.differentiator
    it.late = it._work.late = True
    it._tail = recorded(it._tail)
    it.graphs = Graphs(recorder, model, made.notes) if graph else None
    return made, recorder


def digest(made):
    return hashlib.sha256(plain(made.model.arena.data).tobytes()).hexdigest()


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_recorded_passes_has_the_bits_of_an_eager_one(device, shard, kind):
    (eager, _), (launched, recorder) = trainer(shard, kind, False), trainer(shard, kind, True)
    assert eager.run(2) == launched.run(2)
    assert digest(eager) == digest(launched)
    assert not launched.notes
    assert recorder.recordings == 2  # full batches of two workers, whose gradients lie apart
    assert Recorded.launches == 2 * (6 - WARM_UP)


def test_a_smaller_batch_is_recorded_when_it_came_often_enough(device, shard):
    (eager, _), (launched, recorder) = trainer(shard, "micro-batches", False), trainer(shard, "micro-batches", True)
    assert eager.run(4) == launched.run(4)
    assert digest(eager) == digest(launched)
    assert recorder.recordings == 4
    assert Recorded.launches == 2 * (12 - WARM_UP) + 2 * (4 - WARM_UP)


def test_a_run_stopped_and_resumed_has_the_bits_of_one_that_went_on(device, shard, tmp_path):
    """It warms up again, where the other one launches."""
    saving = {"saving": hpcml.Saving(tmp_path / "run", every=5, keep=9)}
    whole, _ = trainer(shard, "dropout", True)
    whole.run(3)
    stopped, _ = trainer(shard, "dropout", True, **saving)
    stopped.hooks = [Stop(at=5)]
    with pytest.raises(InterruptedError):
        stopped.run(3)
    resumed, _ = trainer(shard, "dropout", True, saving=hpcml.Saving(tmp_path / "run", every=5, keep=9, resume=True))
    assert resumed.count == 5
    resumed.run(3)
    assert digest(resumed) == digest(whole)


def test_another_loss_scale_is_recorded_anew(device, shard):
    """The slopes of the first steps overflow, so the scale is halved until they do not; a recording holds the scale that it was made at."""
    (eager, _), (launched, recorder) = trainer(shard, "float16", False), trainer(shard, "float16", True)
    with np.errstate(all="ignore"):
        for made in (eager, launched):
            made.scaler.scale = 2.0**22
            made.run(3)
    assert eager.scaler.scale == launched.scaler.scale < 2.0**20
    assert digest(eager) == digest(launched)
    assert recorder.recordings > 4


class Reads(Layer):
    """Reads a number of the device in forward."""

    def build(self, shape):
        return shape, {}

    def forward(self, x):
        return x * float(x.sum() > -1e9)

    def backward(self, slope):
        return slope


class Steps(Reads):
    """Would keep the number of a step."""

    def forward(self, x):
        return x * (1 + self.context.step / 100)


class Draws(Reads):
    """Would keep the numbers of a step."""

    def forward(self, x):
        return x * (1 + self.random("mine").random() / 100)


OUTSIDE = "outside of Context.fresh"


@pytest.mark.parametrize(("layer", "why"), [(Reads, "the host reads"), (Steps, OUTSIDE), (Draws, OUTSIDE)])
def test_what_cannot_be_captured_runs_eagerly_and_is_told_once(device, shard, monkeypatch, layer, why):
    monkeypatch.setitem(KINDS, "own", (lambda: Model([Dense(5), layer(), Dense(CLASSES)], (WIDTH,), seed=1), softmax_cross_entropy, {}))
    (eager, _), (launched, recorder) = trainer(shard, "own", False), trainer(shard, "own", True)
    assert eager.run(2) == launched.run(2)
    assert digest(eager) == digest(launched)
    assert recorder.recordings == 0
    (note,) = launched.notes
    assert note.startswith("train.graph: kernels are launched one by one, since a pass cannot be captured (")
    assert why in note


def test_a_larger_batch_between_leaves_a_recordings_memory_to_it(device, shard):
    """Buffers grow for an evaluation; what was recorded for the smaller ones still finds its own, and holds it."""
    made, other = trainer(shard, "dropout", True)[0], trainer(shard, "dropout", False)[0]
    recorded_with = []
    for it in (made, other):
        it.run(1)
        recorded_with.append(_buffers(it))
        it.model.context.evaluate()
        it.model.forward(recorded(aligned((61, WIDTH), np.float32)))
        it.run(2)
    assert digest(made) == digest(other)
    held = {id(x) for one in made.differentiator.graphs._recorded.values() for x in one.held}
    assert set(map(id, recorded_with[0])) <= held
    assert not set(map(id, _buffers(made))) <= held


def _buffers(it):
    return [x for layer in it.model.layers for x in layer.work]


def test_no_more_shapes_are_recorded_than_memory_is_to_be_held_for(device, shard, monkeypatch):
    monkeypatch.setattr("hpcml.train.graphs.MOST", 3)
    made, recorder = trainer(shard, "dropout", True)
    batches, told, used = next(made.loader.batches(0)), [], []
    for count in range(1, 8):
        for worker in batches:
            made.sync.enter(worker.worker)
            part = replace(worker, x=worker.x[:count], y=worker.y[:count], rows=worker.rows[:count])
            for step in range(WARM_UP + 2):
                made.differentiator.run(part, step, "here", told.append, used.append)
    assert recorder.recordings == 3
    assert told == [slice(0, made.model.arena.n)] * 56  # each pass, launched or not, as a whole
    assert len(used) == 56


def test_a_cpu_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"train\.graph = true captures what a GPU is given, and this run computes on the CPU"):
        graphs_of(True, mlp(), False, [])
    assert graphs_of(False, mlp(), False, []) is None


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpus_graphs_have_the_bits_of_its_eager_passes(shard, kind):
    def run(eager):
        made, _ = trainer(shard, kind, None, device="gpu")
        made.differentiator.graphs._refused = eager
        return made.run(3), to_host(made.model.arena.data).tobytes(), made.notes, len(made.differentiator.graphs._recorded)

    (*expected, _), (*found, recorded_passes) = run(True), run(False)
    assert found == expected
    assert recorded_passes
