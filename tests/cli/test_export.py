"""A run's model leaves the house: the bits of the digest, the predictions of `hpcml predict`, and clear refusals."""

from __future__ import annotations

import hashlib

import h5py
import numpy as np
import pytest

from hpcml.exporting import load_weights
from hpcml.nn import mlp
from tests.small import CLASSES, WIDTH, explained


def test_an_exported_model_is_that_of_the_run_and_says_which_transforms_it_leaves_out(job):
    pytest.importorskip("safetensors", reason="safetensors is not installed; pip install safetensors to export weights")
    pytest.importorskip("onnx", reason="onnx is not installed; pip install onnx to export graphs")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; pip install onnxruntime to run exported models")
    transforms = ('name = "scale"\nby = 2.0', 'name = "noise"\ndeviation = 0.1')
    text = "".join(f"[[data.transforms]]\n{keys}\n" for keys in transforms)
    job.config.write_text(job.config.read_text().replace("[model]", f"{text}[model]", 1))
    job.train(2).check()
    told = job.hpcml(2, "checkpoint", "export", "run", "--out", "a.safetensors").check().stdout
    assert told.count(f"43 numbers of {job.checkpoints()[-1]} written to a.safetensors\n") == 1
    load_weights(model := mlp([WIDTH, 5, CLASSES]), job.folder / "a.safetensors")
    assert hashlib.sha256(model.arena.data.tobytes()).hexdigest() == job.digest()
    told = job.hpcml(1, "checkpoint", "export", "run", "--out", "a.onnx").check().stdout
    assert f"it takes rows (B, {WIDTH}) and gives outputs (B, {CLASSES}), from which `hpcml predict` makes probabilities" in told
    assert "data.transforms leaves them (scale); the file does not do that" in told
    job.hpcml(2, "predict", "run", "--data", "test-*.h5", "--out", "p.h5").check()
    with h5py.File(job.folder / "test-0.h5") as test, h5py.File(job.folder / "p.h5") as predicted:
        x, expected = test["x"][...], predicted["prediction"][...]
    session = runtime.InferenceSession(job.folder / "a.onnx", providers=["CPUExecutionProvider"])
    scores = np.exp(session.run(["outputs"], {"rows": 2 * x})[0])
    np.testing.assert_allclose(scores / scores.sum(axis=1, keepdims=True), expected, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_exported_is_refused(job):
    job.train(2, "run", "sync.name=ensemble").check()
    explained(job.hpcml(1, "checkpoint", "export", "run", "--out", "a.onnx"), "ensemble of 4 members, a file holds one model")
    explained(job.hpcml(1, "checkpoint", "export", "run", "--out", "a.h5"), "--out is 'a.h5'; give --out FILE.safetensors")
    explained(job.hpcml(1, "checkpoint", "export", "run"), "--out is missing; give --out FILE.safetensors")
    explained(job.hpcml(1, "checkpoint", "list", "run", "--out", "a.h5"), "writes no file; leave --out out")
    assert not list(job.folder.glob("a.*"))
