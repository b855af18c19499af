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


def test_no_steps_leave_the_numbers_of_pytorchs_modules_where_the_job_puts_them(job):
    from hpcml.exporting import load_weights

    wanted, found = (mlp([WIDTH, 5, CLASSES], seed=seed) for seed in (99, 1))
    names = {"2.dense": "head", "0.dense": "body.fc1"}
    numbers = {f"{name}.{key}": wanted.arena.view(f"{path}.{key}").data.T for path, name in names.items() for key in ("weight", "bias")}
    np.savez(job.folder / "start.npz", **numbers)
    modules = "{'0.dense' = 'body.fc1', '2.dense' = 'head'}"
    job.train(2, "run", "model.weights=start.npz", f"model.modules={modules}", "optimizer.rate=0").check()
    job.hpcml(1, "checkpoint", "export", "run", "--out", "end.safetensors").check()
    load_weights(found, job.folder / "end.safetensors")
    np.testing.assert_array_equal(found.arena.data, wanted.arena.data)


@pytest.mark.parametrize("case", ["none", "names and shapes"])
def test_a_wrong_file_ends_all_ranks_with_all_that_is_wrong_and_leaves_no_run(job, case):
    model, path = mlp([WIDTH, 5, CLASSES]), job.folder / "start.safetensors"
    texts = ["no readable safetensors file"]
    if case != "none":
        tensors = {p.name: p.data.copy() for p in model.arena}
        first, second, *_ = tensors
        tensors |= {"other": tensors.pop(first), second: np.zeros((2, 2), np.float32)}
        texts = [f"missing: {first}", "unexpected: other", f"{second} has shape (5,), the weights give (2, 2)"]
        safetensors.save_file(tensors, path)
    explained(job.train(2, "run", "model.weights=start.safetensors"), "rank 0", "start.safetensors", *texts)
    assert not (job.folder / "run").exists()
