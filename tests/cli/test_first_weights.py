"""A job that starts from a file of weights: the same bits on any ranks, not read again, and a wrong file ends all ranks by name."""

from __future__ import annotations

import numpy as np
import pytest

from hpcml.nn import mlp
from tests.small import CLASSES, WIDTH, explained

safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed; pip install safetensors to read weights")


def test_training_goes_on_from_the_file_on_any_ranks_and_a_resumed_run_needs_it_no_more(job):
    path, start = job.folder / "start.safetensors", ["model.weights=start.safetensors"]
    from hpcml.exporting import export_weights

    export_weights(mlp([WIDTH, 5, CLASSES], seed=99), path)
    job.train(1, "plain").check()
    for ranks in (1, 3):
        job.train(ranks, f"R{ranks}", *start).check()
    job.train(2, "part", *start, "train.epochs=1").check()
    path.unlink()
    job.train(3, "part", *start, options=("--resume",)).check()
    assert job.digest("R1") == job.digest("R3") == job.digest("part") != job.digest("plain")


def test_no_steps_leave_the_numbers_of_the_file(job):
    from hpcml.exporting import export_weights, load_weights

    wanted, found = (mlp([WIDTH, 5, CLASSES], seed=seed) for seed in (99, 1))
    export_weights(wanted, job.folder / "start.safetensors")
    job.train(2, "run", "model.weights=start.safetensors", "optimizer.rate=0").check()
    job.hpcml(1, "checkpoint", "export", "run", "--out", "end.safetensors").check()
    load_weights(found, job.folder / "end.safetensors")
    np.testing.assert_array_equal(found.arena.data, wanted.arena.data)


@pytest.mark.parametrize("case", ["none", "missing and extra", "shape"])
def test_a_wrong_file_ends_all_ranks_with_its_name_and_leaves_no_run(job, case):
    model, path = mlp([WIDTH, 5, CLASSES]), job.folder / "start.safetensors"
    tensors = {p.name: p.data.copy() for p in model.arena}
    first = next(iter(tensors))
    text = "no readable safetensors file"
    if case == "missing and extra":
        tensors["other"], text = tensors.pop(first), f"it lacks {first}; the model has no other"
    elif case == "shape":
        tensors[first], text = np.zeros((2, 2), np.float32), f"{first} has shape ({WIDTH}, 5), {first} gives (2, 2)"
    if case != "none":
        safetensors.save_file(tensors, path)
    explained(job.train(2, "run", "model.weights=start.safetensors"), "rank 0", "start.safetensors", text)
    assert not (job.folder / "run").exists()
