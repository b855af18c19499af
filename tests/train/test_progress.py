"""What a log without a terminal is told: a line an epoch, and more only where an epoch is long."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest

import hpcml
from hpcml.train import progress
from tests.small import CLASSES, WIDTH, rows, write_shard

N, BATCH, EPOCHS = 40, 16, 2
STEPS = 3


@pytest.fixture
def told(tmp_path):
    """Return a function that trains for two epochs of three steps and returns the lines that progress wrote."""
    write_shard(tmp_path / "train-0.h5", *rows(N))

    def lines():
        stream = io.StringIO()
        model = hpcml.nn.mlp([WIDTH, 4, CLASSES])
        data = hpcml.open_shards(str(tmp_path / "train-*.h5"), features="x", target="y")
        hooks = [progress.Progress(stream)]
        loss = hpcml.nn.softmax_cross_entropy
        hpcml.Trainer(model, loss, hpcml.SGD(rate=0.1), hpcml.EveryStep(), data, batch=BATCH, workers=2, hooks=hooks).run(epochs=EPOCHS)
        return stream.getvalue().splitlines()

    return lines


def test_short_epochs_have_a_line_each_and_no_other(told):
    assert [line.split()[0] for line in told()] == ["1", "epoch", "epoch"]


def test_long_epochs_say_between_their_lines_where_they_are_and_what_is_left(told, monkeypatch):
    monkeypatch.setattr(progress, "QUIET", 0.0)
    monkeypatch.setattr(progress, "GROWTH", 0.0)
    steps = [line for line in told() if line.startswith("step ")]
    assert len(steps) == STEPS * EPOCHS
    assert [int(re.match(r"step (\d) of 6  [\d,]+ rows/s  \d+ s left$", line)[1]) for line in steps] == list(range(1, 7))
    assert steps[-1].endswith("  0 s left")


def test_the_longer_a_run_has_taken_the_longer_it_is_quiet(told, monkeypatch):
    monkeypatch.setattr(progress, "QUIET", 1.0)
    clock = iter(np.arange(0, 1e6, 0.9))  # each look at the clock finds it 0.9 s later
    monkeypatch.setattr(progress.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(progress, "GROWTH", 1e6)
    assert [line.split()[0] for line in told()].count("step") == 1


@pytest.mark.parametrize(("seconds", "said"), [(0, "0 s"), (89.4, "89 s"), (90, "2 min"), (5399, "90 min"), (86400, "24.0 h")])
def test_times_are_said_in_the_unit_people_use(seconds, said):
    assert progress._duration(seconds) == said
